"""Metrics of written text: values of the reference implementations, and what must hold of any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempering.tasks.doctor import examine
from tempering.tasks.metrics import compute, per_item
from tempering.tasks.task import Task
from tempering.tasks.texts import bleu, chrf, rouge_l, rouge_n, tokens_13a

SAID = ["Aromi is a family friendly coffee shop.", "It costs 3.5 pounds, in the U.S."]
WANTED = ["Aromi is a Chinese coffee shop by the riverside.", "It costs 3.5 pounds in the city centre."]


def test_corpus_values_of_sacrebleu() -> None:
    """sacrebleu 2.6.0: corpus_bleu and corpus_chrf with their defaults."""
    assert bleu(SAID, WANTED) == pytest.approx(0.25658506763604915, abs=1e-12)
    assert chrf(SAID, WANTED) == pytest.approx(0.4700261557286964, abs=1e-12)


def test_rows_of_rouge_score() -> None:
    """rouge-score 0.1.2 without stemming."""
    found = [(rouge_n(a, b, 1), rouge_n(a, b, 2), rouge_l(a, b)) for a, b in zip(SAID, WANTED, strict=True)]
    assert found[0] == pytest.approx((0.625, 3 / 7, 0.625))
    assert found[1] == pytest.approx((7 / 9, 0.75, 7 / 9))


def test_the_brevity_penalty_and_smoothing_by_hand() -> None:
    # "a b c d" against "a b x d e": 3 of 4 words, 1 of 3 pairs, no run of 3 or 4 (smoothed to 1/2/2 and 1/4/1); 4 words for 5
    by_hand = 2.718281828459045 ** (1 - 5 / 4) * (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25
    assert bleu(["a b c d"], ["a b x d e"]) == pytest.approx(by_hand)


def test_tokens_keep_numbers_whole_and_part_marks() -> None:
    assert tokens_13a("It's 3.5 (or 10-20) &amp; so.") == ["It's", "3.5", "(", "or", "10", "-", "20", ")", "&", "so", "."]


@pytest.mark.parametrize("text", ["a film", "3.5!", "Ärger"])
def test_what_is_said_as_wanted_scores_one_on_long_texts_and_nothing_scores_zero(text: str) -> None:
    whole = [f"{text} was very good and not at all bad"]
    assert bleu(whole, whole) == chrf(whole, whole) == rouge_l(whole[0], whole[0]) == pytest.approx(1)
    assert bleu([""], whole) == chrf([""], whole) == rouge_l("", whole[0]) == rouge_n("", whole[0], 2) == 0


def test_the_standard_metrics_of_written_text() -> None:
    found = compute("text", (), WANTED, SAID, names=("rouge_1",))
    assert list(found) == ["rouge_l", "bleu", "chrf", "exact_match", "rouge_1"] and found["exact_match"] == 0
    assert found["rouge_l"] == pytest.approx(sum(per_item("text", WANTED, SAID)) / 2) == pytest.approx((0.625 + 7 / 9) / 2)
    assert compute("text", (), ["a  b", "c"], ["a b", "d"])["exact_match"] == 0.5


def test_sources_with_several_targets_are_no_conflict(tmp_path: Path) -> None:
    """A file of sources and targets is a task of text; that one source has two targets is nothing to repair."""
    rows = [{"source": f"name {i // 2}", "target": f"a place called {i}"} for i in range(12)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task.from_file(tmp_path / "train.jsonl", label="target", kind="text")
    assert (task.kind, task.labels, task.columns) == ("text", (), {"text": "source", "label": "target"})
    assert {e.label for split in task.splits for e in split} == {row["target"] for row in rows}
    assert {e.texts for e in task.train} & {e.texts for e in task.dev.examples} == set()  # type: ignore[union-attr]
    assert "conflicting-labels" not in {finding.code for finding in examine(task)}
    classes = Task.from_file(tmp_path / "train.jsonl", label="target", kind="classification", dev_fraction=0)
    assert "conflicting-labels" in {finding.code for finding in examine(classes)}
