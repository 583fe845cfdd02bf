"""Labels exactly as given, kinds, columns, splits, and every refusal on the way to a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tempering.contracts import Example
from tempering.errors import DataError
from tempering.tasks.task import Task
from tests.tasks.shared import csv, exact, jsonl


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["b", "a"], ("a", "b")),
        (["01", "1", "001"], ("001", "01", "1")),
        ([10, 9, -1], (-1, 9, 10)),
        ([True, False], (False, True)),
        ([" a", "a ", "ä", "🙂"], (" a", "a ", "ä", "🙂")),
        ([2.0, 1.0], (1.0, 2.0)),
    ],
)
def test_labels_come_back_with_value_and_type(tmp_path: Path, given: list[Any], ordered: tuple[Any, ...]) -> None:
    task = Task.from_file(jsonl(tmp_path / "a.jsonl", given * 5), dev_fraction=0)
    assert task.kind == "classification"
    assert exact(task.labels) == exact(ordered)
    assert exact(task.train.labels) == exact(given * 5)
    assert [task.label_index(label) for label in ordered] == list(range(len(ordered)))
    assert task.id2label() == {i: str(label) for i, label in enumerate(ordered)}


def test_csv_labels_are_the_strings_in_the_file(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "text,label", "a,01", "b,1", "c, 1", "d,NA", "e,None", "f,true")
    task = Task.from_file(path, dev_fraction=0)
    assert task.train.labels == ["01", "1", " 1", "NA", "None", "true"]
    assert [example.row for example in task.train] == [2, 3, 4, 5, 6, 7]


def test_one_true_and_the_string_1_are_different_labels(tmp_path: Path) -> None:
    task = Task.from_file(jsonl(tmp_path / "a.jsonl", [0, 1] * 5))
    for stranger in (True, "1", 1.0, None, [1]):
        with pytest.raises(DataError, match="expected 0, 1, found the label"):
            task.label_index(stranger)
    with pytest.raises(DataError, match=r"column 'label': expected labels of one type, found int 1 in row 1 and bool True in row 2"):
        Task.from_file(jsonl(tmp_path / "b.jsonl", [1, True, 0, 0]))


def test_frames_give_python_labels() -> None:
    pandas = pytest.importorskip("pandas")
    for values, kind in (([1, 0] * 5, int), ([True, False] * 5, bool), (["x", "y"] * 5, str), ([0.5, 1.0] * 5, float)):
        frame = pandas.DataFrame({"review": [f"t{i}" for i in range(10)], "stars": values}, index=range(100, 110))
        task = Task.from_frame(frame, dev_fraction=0)
        assert exact(task.train.labels) == exact(values) and type(task.train[0].label) is kind
        assert task.train[0].row == 1 and task.columns == {"text": "review", "label": "stars"}
    category = pandas.DataFrame({"text": list("abcd"), "label": pandas.Categorical(["u", "v", "u", "v"])})
    assert Task.from_frame(category, dev_fraction=0).labels == ("u", "v")
    nullable = pandas.DataFrame({"text": list("abcd"), "label": pandas.array([1, 0, None, 1], dtype="Int64")})
    with pytest.raises(DataError, match="memory, row 3, column 'label': expected a label, found None"):
        Task.from_frame(nullable)
    with pytest.raises(DataError, match=r"row 2, column 'text': expected text, found nothing"):
        Task.from_frame(pandas.DataFrame({"text": ["a", float("nan")], "label": ["u", "v"]}))


def test_datasets_with_class_names_and_unlabeled_test() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    part = datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(10)], "label": [0, 1] * 5}, features=features)
    hidden = datasets.Dataset.from_dict({"text": ["t"], "label": [-1]}, features=features)
    task = Task.from_frame(datasets.DatasetDict({"train": part, "validation": part, "test": hidden}))
    assert task.labels == ("neg", "pos") and task.test is None and len(task.dev or ()) == 10
    assert any("memory (test) has no labels and is left out" in note for note in task.notes)
    plain = Task.from_frame(datasets.Dataset.from_dict({"text": list("abcd"), "label": [3, 4, 3, 4]}), dev_fraction=0)
    assert exact(plain.labels) == [("int", 3), ("int", 4)]


def test_other_frames_and_what_is_no_frame() -> None:
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    assert (
        Task.from_frame(rows, dev_fraction=0).fingerprint()
        == Task.from_frame({"text": ["a", "b"], "label": [0, 1]}, dev_fraction=0).fingerprint()
    )
    for stranger, said in (
        (3, "found an object of type int"),
        ([], "found nothing"),
        ({}, "found nothing"),
        ({"text": [], "label": []}, "found none"),
    ):
        with pytest.raises(DataError, match=said):
            Task.from_frame(stranger)


def test_kinds_are_inferred_and_can_be_overruled(tmp_path: Path) -> None:
    fractions = jsonl(tmp_path / "a.jsonl", [0.5, 1, 2.5, 3] * 5)
    task = Task.from_file(fractions)
    assert task.kind == "regression" and task.labels == () and type(task.train[1].label) is float and task.target(2) == 2.0
    assert any("regression" in note for note in task.notes)
    assert Task.from_file(jsonl(tmp_path / "i.jsonl", [1, 2, 3] * 5), kind="regression").kind == "regression"
    assert Task.from_file(csv(tmp_path / "c.csv", "text,label", *(f"t{i},{i / 7}" for i in range(30)))).kind == "regression"
    assert Task.from_file(csv(tmp_path / "d.csv", "text,label", *(f"t{i},{i % 5 / 2}" for i in range(30)))).kind == "classification"
    many = Task.from_file(jsonl(tmp_path / "m.jsonl", [i % 30 for i in range(90)]))
    assert many.kind == "classification" and any("--kind regression if they are amounts" in note for note in many.notes)
    with pytest.raises(DataError, match="expected a kind among"):
        Task.from_file(fractions, kind="sorting")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["high", "", "nan", "inf", "1_000"])
def test_regression_values_are_checked(tmp_path: Path, bad: str) -> None:
    path = csv(tmp_path / "a.csv", "text,score", "a,0.5", f"b,{bad}", "c,1.5")
    with pytest.raises(DataError, match=r"a\.csv, row 3, column 'score': expected a (finite )?number"):
        Task.from_file(path, kind="regression")


def test_multilabel_in_all_its_spellings(tmp_path: Path) -> None:
    lists = jsonl(tmp_path / "a.jsonl", [["x", "y"], [], ["y"], ["x"]] * 3)
    task = Task.from_file(lists, dev_fraction=0)
    assert task.kind == "multilabel" and task.labels == ("x", "y")
    assert [task.target(example.label) for example in task.train][:4] == [(1, 1), (0, 0), (0, 1), (1, 0)]
    bars = csv(tmp_path / "b.csv", "text,label", "a,x|y", "b,", "c,y", "d,x")
    assert [example.label for example in Task.from_file(bars, dev_fraction=0).train] == [("x", "y"), (), ("y",), ("x",)]
    assert Task.from_file(csv(tmp_path / "k.csv", "text,label", "a,x|y", "b,z"), kind="classification", dev_fraction=0).labels == (
        "x|y",
        "z",
    )
    quoted = csv(tmp_path / "c.csv", "text,label", 'a,"[""x"", ""y""]"', "b,[]")
    assert Task.from_file(quoted, dev_fraction=0).train.labels == [("x", "y"), ()]
    flags = csv(tmp_path / "d.csv", "text,x,y", "a,1,1", "b,0,0", "c,0,1")
    task = Task.from_file(flags, label="x,y", dev_fraction=0)
    assert task.train.labels == [("x", "y"), (), ("y",)] and task.columns["label"] == "x,y"
    with pytest.raises(DataError, match=r"row 3, column 'y': expected 0 or 1, .* found '2'"):
        Task.from_file(csv(tmp_path / "e.csv", "text,x,y", "a,1,1", "b,0,2"), label="x,y")
    with pytest.raises(DataError, match="found none in any row"):
        Task.from_file(jsonl(tmp_path / "f.jsonl", [[], []]))


def test_columns_are_found_by_name_and_said(tmp_path: Path) -> None:
    task = Task.from_file(csv(tmp_path / "a.csv", "id,Premise,hypothesis,Class", "1,a,b,x", "2,c,d,y"), dev_fraction=0)
    assert task.columns == {"text": "Premise", "text_pair": "hypothesis", "label": "Class"}
    assert task.train[0].texts == ("a", "b") and "text pair = 'hypothesis'" in task.notes[0]
    named = Task.from_file(csv(tmp_path / "b.csv", "text,text_pair,label", "a,b,x", "c,d,y"), text="text", dev_fraction=0)
    assert named.train[0].texts == ("a",) and "add --text-pair text_pair" in named.notes[-1]
    only = Task.from_file(csv(tmp_path / "c.csv", "remark,verdict", "a,x", "b,y"), label="verdict", dev_fraction=0)
    assert only.columns["text"] == "remark"


REFUSED = [
    (["text,stars", "a,1"], {"label": "star"}, "expected a column 'star' .--label., found 'text', 'stars'; did you mean 'stars'"),
    (["text,stars", "a,1"], {"text": "Text"}, "did you mean 'text'"),
    (["text,foo", "a,1"], {}, "expected a label column, found 'text', 'foo'; name the label with --label"),
    (["u,v,label", "a,b,1"], {}, "expected a text column, found 'u', 'v', 'label'"),
    (["text,label", "a,x", "b,x"], {}, "expected at least two classes, found only 'x' in all 2 rows"),
    (["text,label", "a,x", "b,"], {}, r"a\.csv, row 3, column 'label': expected a label, found '' .missing."),
    (["text,label", "a,x", "b,NaN"], {}, "row 3, column 'label': expected a label, found 'NaN'"),
    (["text,label", "a,x", "b,y", "c,z"], {}, "keep every class in train, found 3 rows of 3 classes; add rows or give a file with --dev"),
    (["text,label", "a,x", "b,y"], {"dev_fraction": 1.5}, "expected a dev fraction"),
    (["text,score", "a,1.0", "b,1.0"], {"kind": "regression"}, "at least two different values, found only 1.0"),
]


@pytest.mark.parametrize(("lines", "options", "said"), REFUSED)
def test_refusals(tmp_path: Path, lines: list[str], options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Task.from_file(csv(tmp_path / "a.csv", *lines), **options)


def test_texts_must_be_texts(tmp_path: Path) -> None:
    for value, said in (
        ("null", "found nothing"),
        ("3", "found 3 .int."),
        ('["a"]', "token lists"),
        (r'"\ud800"', "found a broken character"),
    ):
        path = tmp_path / "a.jsonl"
        path.write_text(f'{{"text": "a", "label": 0}}\n{{"text": {value}, "label": 1}}\n')
        with pytest.raises(DataError, match=f"row 2, column 'text': expected .*text, {said}|row 2, column 'text'.*{said}"):
            Task.from_file(path)
    with pytest.raises(DataError, match=r"row 1, column 'label': expected one label, found \{'a': 1\} \(dict\)"):
        Task.from_file(jsonl(tmp_path / "b.jsonl", [{"a": 1}, {"a": 2}]))


def test_examples_in_memory() -> None:
    task = Task.from_examples([Example(("a", "b"), 1), Example(("c", "d"), 0)], kind=None, name="toy")
    assert task.dev is None and task.name == "toy" and [example.row for example in task.train] == [1, 2]
    bare = Task.from_examples([Example(("a",)), Example(("b",))])
    assert bare.kind == "text" and bare.labels == () and bare.unlabeled() == bare.train.examples
    for examples, said in (([], "found none"), ([Example(("a",), 0), Example(("a", "b"), 1)], "row 2: expected a tuple of 1 text")):
        with pytest.raises(DataError, match=said):
            Task.from_examples(examples)


def test_subsets_majority_and_unlabeled() -> None:
    task = Task.from_examples([Example((t,), label) for t, label in zip("abc", ["x", "y", "y"], strict=True)])
    small = task.with_train([2, 0], seed=9)
    assert small.train.labels == ["y", "x"] and small.labels == task.labels and small.split_record["subset"] == {"rows": [3, 1], "seed": 9}
    assert small.fingerprint() != task.fingerprint() and len(task.train) == 3
    assert task.majority() == ["y"] * 3 and task.majority(1) == ["y"]
    assert [example.label for example in task.unlabeled()] == [None] * 3 and task.train[1:][0].texts == ("b",)
    assert Task.from_examples([Example(("a",), 0.0), Example(("b",), 1.5)]).majority(1) == [0.75]
    assert Task.from_examples([Example(("a",), ("x", "y")), Example(("b",), ("x",))]).majority(1) == [("x",)]


def test_fingerprint_tells_types_apart_and_ignores_file_names(tmp_path: Path) -> None:
    prints = [
        Task.from_file(jsonl(tmp_path / f"{i}.jsonl", values * 2), dev_fraction=0).fingerprint()
        for i, values in enumerate(([0, 1], [0, 1], ["0", "1"], [False, True], [0.0, 1.0]))
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 4


def test_texts_that_are_to_be_written_are_no_classes(tmp_path: Path) -> None:
    """Where hardly a label comes twice, that is told, with the kind that was meant; an explicit kind is taken at its word."""
    advice = 'if the column holds texts to be written: --kind text (in Python kind="text")'
    targets = [f"target {i}" for i in range(24)]
    path, dev = jsonl(tmp_path / "a.jsonl", targets), jsonl(tmp_path / "dev.jsonl", ["new"])
    with pytest.raises(DataError) as told:
        Task.from_file(path)
    assert str(told.value).endswith(f"found 24 rows of 24 classes; add rows or give a file with --dev; {advice}")
    with pytest.raises(DataError) as told:
        Task.from_file(path, dev=dev)
    assert str(told.value).endswith(f"found the label 'new', which the training data lacks; correct it or add training rows; {advice}")
    for typed in (path, csv(tmp_path / "a.csv", "text,label", *(f"text {i},{target}" for i, target in enumerate(targets)))):
        assert f"24 rows have 24 different labels, read as classes; {advice}" in Task.from_file(typed, dev_fraction=0).notes
        assert Task.from_file(typed, kind="text").kind == "text"
    barred = csv(tmp_path / "barred.csv", "text,label", *(f"text {i},{target} | and on" for i, target in enumerate(targets)))
    assert any(note.endswith(f"to keep them whole); {advice}") for note in Task.from_file(barred, dev_fraction=0).notes)
    several = csv(tmp_path / "several.csv", "text,label", *(f"text {i},{'abc'[i % 3]}|{'de'[i % 2]}" for i in range(24)))
    assert not any("--kind text" in note for note in Task.from_file(several, dev_fraction=0).notes)
    with pytest.raises(DataError, match=r"add rows or give a file with --dev$"):
        Task.from_file(path, kind="classification")
    with pytest.raises(DataError, match=r"add rows or give a file with --dev$"):
        Task.from_file(jsonl(tmp_path / "few.jsonl", targets[:4]))
    assert not any(
        "--kind text" in note for note in Task.from_file(jsonl(tmp_path / "b.jsonl", [*targets, *targets]), dev_fraction=0).notes
    )
