"""Few-shot and nested subsets of the training rows, drawn so that recipes and sizes can be compared in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tempering.errors import DataError
from tempering.tasks.labels import label_key
from tempering.tasks.strata import class_names, members_of, strata_of
from tempering.tasks.table import data_error, show
from tempering.tasks.task import Task


def nested_subsets(task: Task, sizes: Sequence[int | None], seed: int) -> dict[int | None, tuple[int, ...]]:
    """Training row indices for every size (None = all), the smaller inside the larger.

    One order of the rows is drawn and each size takes its beginning: first one row of every class (label, quantile bin), then
    rows spread so that every beginning holds the classes in their proportions, within a row or so each. A size that is larger
    than the data or smaller than the number of classes is a `DataError`.
    """
    order = _order(task, seed)
    least = len(task.labels) if task.kind == "classification" else 1
    for size in sizes:
        if size is not None and size > len(order):
            raise _refused(task, f"expected sizes of at most {len(order)}, the training rows there are, found {size}; use 'all'")
        if size is not None and size < least:
            what = f"at least {least}, one row a class" if least > 1 else "at least 1"
            raise _refused(task, f"expected sizes of {what}, found {size}; ask for a larger size")
    return {size: tuple(order if size is None else order[:size]) for size in sizes}


def few_shot(task: Task, k: int, seed: int) -> tuple[int, ...]:
    """Indices of ``k`` training rows a class; for regression ``k`` below and ``k`` above the median (after LM-BFF).

    Multi-label: rows are drawn until every label stands in at least ``k``; tagging: every entity type (or tag). A class with fewer
    rows is a `DataError`.
    The k of a smaller number are among those of a larger one.
    """
    if k < 1:
        raise _refused(task, f"expected at least 1 row a class, found {k}")
    if task.kind in ("multilabel", "tagging"):
        return _few_of_many(task, k, seed)
    ranked = _ranked(task, seed, bins=2)
    short = [members for members in ranked if len(members) < k]
    if short:
        fewest = min(short, key=len)
        halves = "the rows with or without an answer" if task.kind == "question_answering" else "one half of the values"
        name = show(task.train[fewest[0]].label) if task.kind == "classification" else halves
        raise _refused(task, f"expected at least {k} rows a class, found {len(fewest)} of {name}; ask for fewer or add rows")
    return tuple(index for shot in range(k) for index in (members[shot] for members in ranked))


def _refused(task: Task, problem: str) -> DataError:
    return data_error(task.train.source, problem)


def _ranked(task: Task, seed: int, bins: int = 10) -> list[list[int]]:
    """The rows of each stratum in a drawn order."""
    strata = strata_of(task.kind, task.train.labels, bins)
    members: dict[int, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    rng = np.random.default_rng(seed)
    return [[members[s][i] for i in rng.permutation(len(members[s]))] for s in sorted(members)]


def _order(task: Task, seed: int) -> list[int]:
    if task.kind in ("multilabel", "tagging"):
        return _covering_order(task, seed)
    rng = np.random.default_rng([seed, 1])
    keyed: list[tuple[float, float, int]] = []
    for members in _ranked(task, seed):
        for place, index in enumerate(members):
            # The j-th row of a class stands at the fraction (j + 1/2) / n of the whole; the first of each goes before all.
            position = -1.0 if place == 0 else (place + 0.5) / len(members)
            keyed.append((position, float(rng.random()), index))
    return [index for _, _, index in sorted(keyed)]


def _covering_order(task: Task, seed: int) -> list[int]:
    """A random order, with rows that first bring in a label not seen yet moved to its front, rarest label first."""
    shuffled = [int(i) for i in np.random.default_rng(seed).permutation(len(task.train))]
    groups = members_of(task.kind, task.train.labels)
    counts = Counter(label_key(label) for group in groups for label in group)
    first: dict[object, int] = {}
    for index in shuffled:
        for label in groups[index]:
            first.setdefault(label_key(label), index)
    seen: set[object] = set()
    front: list[int] = []
    for key in sorted(first, key=lambda key: (counts[key], str(key))):
        if key not in seen:
            front.append(first[key])
            seen.update(label_key(label) for label in groups[first[key]])
    chosen = set(front)
    return front + [index for index in shuffled if index not in chosen]


def _few_of_many(task: Task, k: int, seed: int) -> tuple[int, ...]:
    groups = members_of(task.kind, task.train.labels)
    totals = Counter(label_key(label) for group in groups for label in group)
    for label in class_names(task.kind, task.labels):
        if totals[label_key(label)] < k:
            problem = f"expected at least {k} rows of every label, found {totals[label_key(label)]} of {show(label)}"
            raise _refused(task, f"{problem}; ask for fewer or add rows")
    have: Counter[object] = Counter()
    chosen = []
    for index in _covering_order(task, seed):
        keys = {label_key(label) for label in groups[index]}
        if any(have[key] < k for key in keys):
            chosen.append(index)
            have.update(keys)
    return tuple(chosen)
