"""Subsets are nested, in proportion, cover every class, and are the same for the same seed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.contracts import Example
from tempering.errors import DataError
from tempering.tasks.sampling import few_shot, nested_subsets
from tempering.tasks.strata import apportion, strata_of
from tempering.tasks.task import Task


def task_of(labels: list[Any]) -> Task:
    return Task.from_examples([Example((f"t{i}",), label) for i, label in enumerate(labels)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=8, max_size=120).filter(lambda labels: len(set(labels)) > 1), st.integers(0, 99))
def test_subsets_are_nested_stratified_and_deterministic(labels: list[str], seed: int) -> None:
    task = task_of(labels)
    sizes = [None, len(labels), len(labels) // 2, len(task.labels)]
    subsets = nested_subsets(task, sizes, seed)
    assert subsets == nested_subsets(task, sizes, seed)
    smallest, half, whole = (subsets[size] for size in (len(task.labels), len(labels) // 2, None))
    assert set(smallest) <= set(half) <= set(whole) == set(range(len(labels)))
    assert Counter(labels[i] for i in smallest) == dict.fromkeys(task.labels, 1)
    full, counts = Counter(labels), Counter(labels[i] for i in half)
    for label in task.labels:
        assert abs(counts[label] - full[label] * len(half) / len(labels)) <= len(task.labels)
        assert counts[label] >= 1


def test_balanced_data_gives_balanced_subsets_that_differ_by_seed() -> None:
    task = task_of(["a", "b"] * 500)
    subsets = [nested_subsets(task, (32, 128, None), seed) for seed in range(5)]
    for drawn in subsets:
        assert Counter(task.train[i].label for i in drawn[32]) == {"a": 16, "b": 16}
        assert Counter(task.train[i].label for i in drawn[128]) == {"a": 64, "b": 64}
    assert len({drawn[32] for drawn in subsets}) == 5


def test_proportions_are_kept_where_classes_are_uneven() -> None:
    task = task_of(["a"] * 900 + ["b"] * 90 + ["c"] * 10)
    counts = Counter(task.train[i].label for i in nested_subsets(task, (100,), 0)[100])
    assert counts["c"] in (1, 2) and counts["b"] in (9, 10) and counts["a"] in (88, 89, 90)


@pytest.mark.parametrize(
    ("size", "said"),
    [(11, "at most 10, the training rows there are, found 11"), (2, "at least 3, one row a class, found 2"), (0, "at least 3")],
)
def test_sizes_that_cannot_be(size: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        nested_subsets(task_of(list("abcabcabca")), (size,), 0)


def test_regression_subsets_span_the_range() -> None:
    task = task_of([float(i) for i in range(1000)])
    drawn = sorted(task.train[i].label for i in nested_subsets(task, (10, 100), 3)[10])
    assert [int(value // 100) for value in drawn] == list(range(10))
    assert nested_subsets(task, (1,), 3)[1]


def test_multilabel_subsets_cover_rare_labels_first() -> None:
    groups: list[Any] = [("common",)] * 200
    groups[77], groups[133] = ("common", "rare"), ("rarer",)
    task = task_of(groups)
    subsets = nested_subsets(task, (2, 50), 0)
    assert set(subsets[2]) == {77, 133} and set(subsets[2]) < set(subsets[50]) and len(set(subsets[50])) == 50


def test_few_shot_takes_k_of_each_class_and_nests() -> None:
    task = task_of(["a"] * 50 + ["b"] * 20 + ["c"] * 8)
    two, eight = few_shot(task, 2, 5), few_shot(task, 8, 5)
    assert Counter(task.train[i].label for i in eight) == {"a": 8, "b": 8, "c": 8} and eight[:6] == two
    assert few_shot(task, 8, 5) == eight != few_shot(task, 8, 6)
    with pytest.raises(DataError, match="expected at least 9 rows a class, found 8 of 'c'"):
        few_shot(task, 9, 5)
    with pytest.raises(DataError, match="at least 1 row"):
        few_shot(task, 0, 5)


def test_few_shot_of_values_and_of_label_sets() -> None:
    values = task_of([float(i) for i in range(100)])
    assert Counter(values.train[i].label >= 50 for i in few_shot(values, 4, 0)) == {False: 4, True: 4}
    groups = task_of([("x",), ("x", "y"), ("y",), ("z",), ("z", "x")] * 10)
    counts = Counter(label for i in few_shot(groups, 3, 0) for label in groups.train[i].label)
    assert min(counts[label] for label in "xyz") >= 3 and len(few_shot(groups, 3, 0)) <= 9
    with pytest.raises(DataError, match="expected at least 25 rows of every label, found 20 of 'y'"):
        few_shot(groups, 25, 0)


def test_shares_add_up() -> None:
    assert apportion([70, 28, 2], 20) == [14, 6, 0]
    assert apportion([1, 1, 1], 2) == [1, 1, 0]


def test_strata_of_each_kind() -> None:
    assert strata_of("classification", [1, 0, 1]) == [1, 0, 1]
    assert strata_of("regression", [0.0, 1.0, 2.0, 3.0], bins=2) == [0, 0, 1, 1]
    assert strata_of("multilabel", [("x", "y"), ("x",), ()]) == [1, 0, 2]
    assert strata_of("text", ["a", "b"]) == [0, 0]
