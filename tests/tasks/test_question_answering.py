"""Questions with answers in a context: SQuAD's JSON and rows, answers held against their contexts, scores as SQuAD's script gives them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tempering.contracts import Example
from tempering.errors import DataError
from tempering.tasks import Task, compute, examine, few_shot, nested_subsets, per_item
from tempering.tasks.answers import best_margin, exact, f1, normalized
from tempering.tasks.readers import read_labeled

CONTEXT = "Ada Lovelace met Charles Babbage in London. London is large."


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(answers: Any, **more: Any) -> dict[str, Any]:
    return {"question": "Where?", "context": CONTEXT, "answers": answers} | more


GOOD = {"text": ["London"], "answer_start": [36]}
NONE: dict[str, list[Any]] = {"text": [], "answer_start": []}


def test_squad_json(tmp_path: Path) -> None:
    qas = [
        {"id": "1", "question": "Where?", "answers": [{"text": "London", "answer_start": 36}, {"text": "London", "answer_start": 36}]},
        {"id": "2", "question": "When?", "is_impossible": True, "answers": []},
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}))
    task = Task.from_file(path, dev_fraction=0)
    assert task.kind == "question_answering" and task.labels == ()
    assert list(task.train) == [Example(("Where?", CONTEXT), ((36, "London"),), 1), Example(("When?", CONTEXT), (), 2)]
    assert task.majority() == ["", ""] and task.columns == {"text": "question", "text_pair": "context", "label": "answers"}


@pytest.mark.parametrize(
    ("answers", "label"),
    [
        (GOOD, ((36, "London"),)),
        ([{"text": "London", "start": 44}], ((44, "London"),)),
        ([[36, "London"], [44, "London"]], ((36, "London"), (44, "London"))),
        ({"text": ["London"], "answer_start": [44.0]}, ((44, "London"),)),
        ([{"text": "London", "answer_start": "44.0"}], ((44, "London"),)),
        ({"text": "London", "answer_start": math.nan}, ((36, "London"),)),
        ({"text": ["London"], "answer_start": [-1.0]}, ()),
        (NONE, ()),
        (None, ()),
        ({"text": [""], "answer_start": [-1]}, ()),
    ],
)
def test_the_forms_of_answers(tmp_path: Path, answers: Any, label: Any) -> None:
    task = Task.from_file(lines(tmp_path / "a.jsonl", asked(GOOD), asked(answers)), dev_fraction=0)
    assert task.train[1].label == label


def test_an_answer_without_a_place_is_sought(tmp_path: Path) -> None:
    row = {"question": "Where?", "context": CONTEXT, "answer": "London"}
    task = Task.from_file(lines(tmp_path / "a.jsonl", row), dev_fraction=0, kind="question_answering")
    assert task.train[0].label == ((36, "London"),) and any("taken where they first occur" in note for note in task.notes)


def test_places_beside_the_answers_may_be_floats(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = {"question": ["Where?"] * 3, "context": [CONTEXT] * 3, "answer": ["London", None, "London"], "answer_start": [44, None, 36]}
    frame = pandas.DataFrame(rows)
    assert frame["answer_start"].dtype == float
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    tasks = [Task.from_frame(frame, dev_fraction=0), *(Task.from_file(tmp_path / f"a.{e}", dev_fraction=0) for e in ("parquet", "csv"))]
    for task in tasks:
        assert [e.label for e in task.train] == [((44, "London"),), (), ((36, "London"),)]
        assert not any("taken where they first occur" in note for note in task.notes)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"text": ["London"], "answer_start": [35]}, "expected the answer 'London' at character 35 of the context, found ' Londo'"),
        ({"text": ["Paris"], "answer_start": [36]}, "expected the answer to stand in the context, and 'Paris' does not"),
        ([1, 2], "expected answers such as"),
        ([[36.5, "London"]], "expected answers such as"),
    ],
)
def test_an_answer_that_is_not_there_names_its_row(tmp_path: Path, answers: Any, said: str) -> None:
    with pytest.raises(DataError) as error:
        Task.from_file(lines(tmp_path / "a.jsonl", asked(GOOD), asked(answers)), kind="question_answering")
    assert "a.jsonl, row 2, column 'answers'" in str(error.value) and said in str(error.value)


def test_no_answer_at_all_teaches_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected an answer in at least one row, found none"):
        Task.from_file(lines(tmp_path / "a.jsonl", asked(NONE)), kind="question_answering")


def test_a_pair_with_a_class_stays_one(tmp_path: Path) -> None:
    rows = [{"question": "q", "context": "c", "label": "yes"}, {"question": "q2", "context": "c", "label": "no"}]
    assert Task.from_file(lines(tmp_path / "a.jsonl", *rows), dev_fraction=0).kind == "classification"


def test_examples_in_memory() -> None:
    rows = [Example(("Where?", CONTEXT), ((36, "London"),)), Example(("When?", CONTEXT), ())]
    task = Task.from_examples(rows)
    assert task.kind == "question_answering" and [e.label for e in task.train] == [((36, "London"),), ()]
    assert task.target(((36, "London"),)) == ((36, "London"),)


def test_draws_keep_both_sides(tmp_path: Path) -> None:
    task = Task.from_file(lines(tmp_path / "a.jsonl", *([asked(GOOD)] * 8 + [asked(NONE)] * 4)), dev_fraction=0)
    assert {bool(task.train[i].label) for i in nested_subsets(task, [2], 0)[2]} == {True, False}
    assert sorted(bool(task.train[i].label) for i in few_shot(task, 2, 0)) == [False, False, True, True]


def test_the_doctor_sees_that_next_to_nothing_is_answered(tmp_path: Path) -> None:
    task = Task.from_file(lines(tmp_path / "a.jsonl", asked(GOOD), *([asked(NONE)] * 19)), dev_fraction=0)
    (finding,) = [f for f in examine(task) if f.code == "silent-rows"]
    assert "only 1 of 20 train rows have an answer" in finding.message


def test_rows_to_evaluate(tmp_path: Path) -> None:
    columns = {"text": "question", "text_pair": "context", "label": "answers"}
    assert read_labeled(lines(tmp_path / "a.jsonl", asked(GOOD)), (), "question_answering", columns=columns)[0].label == ((36, "London"),)


# --- scores --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "plain"),
    [("The Cat's  hat!", "cats hat"), ("an apple", "apple"), ("Theatre", "theatre"), ("a", ""), ("1,000", "1000"), ("«Ça»", "«ça»")],
)
def test_normalization(raw: str, plain: str) -> None:
    assert normalized(raw) == plain


@pytest.mark.parametrize(
    ("said", "true", "em", "overlap"),
    [
        ("the London", "London.", 1.0, 1.0),
        ("in London", "London", 0.0, 2 / 3),
        ("Paris", "London", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("", "London", 0.0, 0.0),
        ("London", "", 0.0, 0.0),
        ("b b c", "b c c", 0.0, 2 / 3),
    ],
)
def test_exact_match_and_f1(said: str, true: str, em: float, overlap: float) -> None:
    assert exact(said, true) == em and f1(said, true) == pytest.approx(overlap)


def test_the_best_of_several_answers_counts_and_both_sides_are_told_apart() -> None:
    gold = [((0, "Ada"), (0, "Ada Lovelace")), (), ((36, "London"),), ()]
    said = ["Ada Lovelace", "", "in London", "Paris"]
    found = compute("question_answering", (), gold, said, names=["answerable_f1", "unanswerable_accuracy"])
    assert found["exact_match"] == 0.5 and found["f1"] == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    assert found["answerable_f1"] == pytest.approx((1 + 2 / 3) / 2) and found["unanswerable_accuracy"] == 0.5
    assert per_item("question_answering", gold, said) == pytest.approx([1, 1, 2 / 3, 0])


def test_the_threshold_is_the_best_one() -> None:
    gold = [((0, "a1"),), ((0, "b1"),), (), (), ((0, "c1"),)]
    found = [(-3.0, "a1"), (1.0, "b1"), (2.0, "x"), (5.0, "x"), (1.5, "c1")]

    def score(threshold: float) -> float:
        said = ["" if margin > threshold else text for margin, text in found]
        return sum(per_item("question_answering", gold, said))

    best = best_margin(found, gold)
    assert best == pytest.approx(1.75) and score(best) == max(score(t / 10) for t in range(-60, 80)) == 5.0


@pytest.mark.parametrize(
    ("found", "gold", "lies"),
    [
        ([(-2.0, "a1")], [((0, "a1"),)], 0.0),
        ([(3.0, "a1")], [((0, "a1"),)], 4.0),
        ([(-3.0, "x")], [()], -4.0),
        ([(math.inf, "")], [()], 0.0),
    ],
)
def test_a_threshold_outside_of_all_margins_stays_finite(found: Any, gold: Any, lies: float) -> None:
    assert best_margin(found, gold) == pytest.approx(lies)
