"""Dev and test: files of their own, or a split taken off the training rows; and the real data sets whole."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tempering.contracts import Example
from tempering.errors import DataError
from tempering.tasks.readers import read_labeled
from tempering.tasks.task import Task
from tests.tasks.shared import csv, exact, jsonl

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_dev_and_test_files(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [0, 1] * 5)
    dev = csv(tmp_path / "dev.csv", "text,label", "a,1", "b,0")
    task = Task.from_file(train, dev=dev, test=dev)
    assert task.dev is not None and exact(task.dev.labels) == [("int", 1), ("int", 0)] and len(task.train) == 10
    assert task.split_record == {"dev": {"from": str(dev)}, "test": {"from": str(dev)}}
    with pytest.raises(DataError, match=r"odd\.csv, row 3, column 'label': expected one of 0, 1, found the label '2', which"):
        Task.from_file(train, dev=csv(tmp_path / "odd.csv", "text,label", "a,1", "b,2"))
    with pytest.raises(DataError, match=r"bare\.csv: expected a column 'label'"):
        Task.from_file(train, test=csv(tmp_path / "bare.csv", "text", "a"))
    strings = csv(tmp_path / "s.csv", "text,label", "a,0", "b,1", "c,0", "d,1")
    with pytest.raises(DataError, match=r"found the label 0 .int, not str."):
        Task.from_file(strings, dev=train)


def test_read_labeled_checks_against_the_labels_of_the_model(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "id,text,label", "9,a,True", "9,b,false")
    rows = read_labeled(path, (False, True), "classification", columns={"text": "text", "label": "label"})
    assert [example.label for example in rows] == [True, False]
    with pytest.raises(DataError, match="row 2, column 'label': expected one of 'u', 'v', found the label 'True'"):
        read_labeled(path, ("u", "v"), "classification", columns={"text": "text", "label": "label"})


def test_the_split_is_stratified_recorded_and_the_same_again(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ["a"] * 70 + ["b"] * 28 + ["c"] * 2)
    task, again, other = (Task.from_file(path, seed=seed, hold_out_test=True) for seed in (3, 3, 4))
    assert task.fingerprint() == again.fingerprint() != other.fingerprint()
    assert task.dev is not None and task.test is not None
    assert [len(split) for split in task.splits] == [60, 20, 20]
    assert Counter(task.test.labels)["a"] == 14 and set(task.train.labels) == {"a", "b", "c"}
    rows = [row for split in ("train", "dev", "test") for row in task.split_record[split]["rows"]]
    assert sorted(rows) == list(range(1, 101)) and task.split_record["seed"] == 3
    assert json.loads(json.dumps(task.split_record)) == task.split_record


def test_equal_texts_stay_on_one_side_and_no_class_is_lost() -> None:
    examples = [Example((f"t{i // 4}",), "ab"[i // 4 % 2]) for i in range(80)]
    examples += [Example(("twice",), "a"), Example(("twice",), "c")]
    for seed in range(20):
        task = Task.from_examples(examples, seed=seed, dev_fraction=0.3)
        assert task.dev is not None and len(task.dev) >= 16
        assert not {example.texts for example in task.train} & {example.texts for example in task.dev}
        assert "c" in task.train.labels


def test_large_data_gives_a_dev_split_of_2000() -> None:
    task = Task.from_examples([Example((str(i),), i % 2) for i in range(20_000)], dev_fraction=0.2)
    assert task.dev is not None and Counter(task.dev.labels) == {0: 1000, 1: 1000}


def test_regression_and_multilabel_are_split_too() -> None:
    values = Task.from_examples([Example((str(i),), i / 10) for i in range(100)], dev_fraction=0.2)
    assert values.dev is not None and abs(sum(values.dev.labels) / 20 - 4.95) < 0.5
    groups = Task.from_examples([Example((str(i),), ("x", "y")[: i % 3]) for i in range(99)], dev_fraction=0.2)
    assert groups.dev is not None and Counter(map(len, groups.dev.labels)).most_common()[-1][1] >= 6


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data folder is not here")
def test_real_data_sets_load_whole() -> None:
    sizes = {"sst2": (6920, 872, 1821), "rte": (2127, 362, 277), "stsb": (5749, 1500, 1379), "clinc150": (15000, 3000, 4500)}
    seen = 0
    for folder in sorted(SHARED.iterdir()):
        first = folder / "train.jsonl"
        if first.exists() and '"label":' in first.read_text(encoding="utf-8").split("\n", 1)[0]:
            task = Task.from_file(folder)
            seen += 1
            assert tuple(map(len, task.splits)) == sizes.get(folder.name, tuple(map(len, task.splits)))
            assert task.kind == ("regression" if folder.name == "stsb" else "classification")
            assert ("text_pair" in task.columns) == (folder.name in ("rte", "mrpc", "snli_10k", "stsb"))
            rows = [json.loads(line) for line in first.read_text(encoding="utf-8").split("\n") if line]
            assert exact(task.train.labels) == exact([row["label"] for row in rows])
    assert seen >= 18
