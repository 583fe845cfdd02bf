"""Each finding on a small ailing task, and none on a healthy one; then the doctor on large and on real data."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tempering.contracts import Example
from tempering.tasks.doctor import Finding, examine, summary
from tempering.tasks.task import Task

SHARED = Path(__file__).parents[3] / "shared" / "data"


def rows(*pairs: tuple[str, Any]) -> list[Example]:
    return [Example((text,), label, row) for row, (text, label) in enumerate(pairs, start=1)]


def healthy(count: int = 200, start: int = 0) -> list[Example]:
    return [Example((f"text number {start + i}",), "ab"[i % 2], i + 1) for i in range(count)]


def found(task: Task, code: str) -> list[Finding]:
    return [finding for finding in examine(task) if finding.code == code]


def test_a_healthy_task_has_no_findings() -> None:
    assert examine(Task.from_examples(healthy(), healthy(start=1000), healthy(start=2000))) == []


def test_empty_texts_are_named() -> None:
    (finding,) = found(Task.from_examples([*healthy(), Example((" \n",), "a", 201)]), "empty-text")
    assert finding.rows == (201,) and finding.severity == "warning"
    assert finding.message == "1 of 201 train rows have an empty text (row 201); fill them in or delete them"
    (all_empty,) = found(Task.from_examples(rows(("", "a"), (" ", "b"))), "empty-text")
    assert all_empty.severity == "error"


def test_empty_texts_are_not_also_called_duplicates() -> None:
    task = Task.from_examples([*healthy(), *rows(("", "a"), ("", "a"), (" ", "b"))])
    assert {finding.code for finding in examine(task)} == {"empty-text"}


def test_copies_and_conflicts_are_told_apart() -> None:
    task = Task.from_examples(rows(("same", "a"), ("torn", "a"), ("same ", "a"), ("x", "b"), ("torn", "b"), ("same", "a")))
    (copies,), (conflict,) = found(task, "duplicate-rows"), found(task, "conflicting-labels")
    assert copies.rows == (3, 6) and copies.detail["groups"] == [[1, 3, 6]]
    assert conflict.rows == (2, 5) and "one has 'a' in row 2 and 'b' in row 5" in conflict.message


def test_conflicts_between_label_sets_ignore_their_order() -> None:
    task = Task.from_examples(rows(("t", ("x", "y")), ("t", ("y", "x")), ("u", ("x",)), ("u", ("y",))))
    assert found(task, "duplicate-rows")[0].rows == (2,)
    assert found(task, "conflicting-labels")[0].rows == (3, 4)


def test_leaks_name_rows_of_both_splits() -> None:
    dev = [*healthy(start=500), Example(("text  number 7",), "b", 201)]
    task = Task.from_examples(healthy(), dev, healthy(start=500))
    first, second = found(task, "split-leak")
    assert first.severity == "error" and first.split == "test" and first.detail["other"] == "dev" and first.detail["share"] == 1.0
    assert second.split == "dev" and second.rows == (201,) and second.detail["pairs"] == [[8, 201]]
    assert "dev row 201 = train row 8" in second.message


def test_a_pair_is_one_text() -> None:
    pairs = [Example(("a", str(i)), i % 2, i + 1) for i in range(200)]
    assert not found(Task.from_examples(pairs), "duplicate-rows")
    assert found(Task.from_examples([*pairs, Example(("a", "3"), 1, 201)]), "duplicate-rows")[0].rows == (201,)


def test_classes_missing_rare_and_uneven() -> None:
    train = [*healthy(), Example(("rare",), "c", 201)]
    task = Task.from_examples(train, healthy(start=500))
    (missing,) = found(task, "class-missing")
    assert missing.split == "dev" and missing.detail["labels"] == ["c"] and missing.severity == "warning"
    (few,) = found(task, "few-rows-per-class")
    assert few.rows == (201,) and "'c': 1" in few.message
    (uneven,) = found(task, "imbalance")
    assert uneven.severity == "warning" and uneven.detail["ratio"] == 100
    (lost,) = found(task.with_train(range(200)), "class-missing")[:1]
    assert lost.split == "train" and lost.severity == "error"


@pytest.mark.parametrize("twin", ["A", "a ", "ａ", "\u0061\u00a0"])
def test_label_near_twins(twin: str) -> None:
    task = Task.from_examples([*healthy(), Example(("odd",), twin, 201)])
    (finding,) = found(task, "label-near-twins")
    assert finding.detail["labels"] == ["a", twin] and finding.rows == (201,) and "'a' (100 rows)" in finding.message
    assert not found(Task.from_examples([*healthy(), Example(("odd",), "á", 201)]), "label-near-twins")


def test_truncation_counts_rows_and_tokens() -> None:
    def lengths(examples: Sequence[Example]) -> list[int]:
        return [30 if example.row <= 50 else 10 for example in examples]

    (finding,) = examine(Task.from_examples(healthy()), lengths, 20)
    assert finding.code == "truncation" and finding.severity == "warning" and finding.rows == tuple(range(1, 51))
    assert finding.detail == {"share_rows": 0.25, "share_tokens": pytest.approx(500 / 3000), "longest": 30, "max_length": 20}
    assert examine(Task.from_examples(healthy()), lengths, 30) == []


def test_tiny_splits() -> None:
    task = Task.from_examples(healthy(), healthy(25, 500), healthy(100, 900))
    (finding,) = examine(task)
    assert finding.code == "tiny-dev" and "up to 10 points" in finding.message


def test_regression_needs_no_classes() -> None:
    train = [Example((str(i),), i / 3, i + 1) for i in range(200)]
    assert examine(Task.from_examples(train)) == []
    assert summary(Task.from_examples(train))["splits"]["train"]["values"]["max"] == pytest.approx(199 / 3)


def test_findings_come_gravest_first() -> None:
    task = Task.from_examples(healthy(), healthy(20))
    grades = [finding.severity for finding in examine(task)]
    assert grades[0] == "error" and grades == sorted(grades, key=["error", "warning", "note"].index)


def test_summary_counts_rows_classes_and_words() -> None:
    task = Task.from_examples([*healthy(3), Example(("one " * 100,), "a", 4)], healthy(2))
    told = json.loads(json.dumps(summary(task)))
    assert told["splits"]["train"]["classes"] == {"a": 3, "b": 1} and told["splits"]["dev"]["rows"] == 2
    assert told["splits"]["train"]["words"] == {"mean": 109 / 4, "p95": pytest.approx(85.45), "max": 100}


def test_two_hundred_thousand_rows_take_seconds() -> None:
    train = [Example((f"some text or other, number {i % 150_000}",), i % 3, i + 1) for i in range(200_000)]
    started = time.perf_counter()
    (copies,) = examine(Task.from_examples(train))
    assert len(copies.rows) == 50_000
    assert time.perf_counter() - started < 20


LEAKS = {"acl_arc": (43, 52), "cola": (4, 11), "stsb": (6, 7), "clinc150": (3, 2), "rte": (0, 0), "sst2": (0, 2), "sms_spam": (0, 0)}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data folder is not here")
@pytest.mark.parametrize("name", LEAKS)
def test_leaks_of_real_data_are_those_counted_elsewhere(name: str) -> None:
    leaks = {
        finding.split: len(finding.rows)
        for finding in found(Task.from_file(SHARED / name), "split-leak")
        if finding.detail["other"] == "train"
    }
    assert (leaks.get("dev", 0), leaks.get("test", 0)) == LEAKS[name]
