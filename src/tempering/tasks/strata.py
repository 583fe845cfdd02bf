"""Strata and hold-out: who must be represented when rows are drawn, and how a split is taken off the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tempering.contracts import Example, Kind
from tempering.tags import scheme_of, types_of
from tempering.tasks.labels import label_key


def strata_of(kind: Kind, values: Sequence[Any], bins: int = 10) -> list[int]:
    """A stratum number for every label: its class, its quantile bin (regression), its rarest label (multi-label), its rarest entity
    type or tag (tagging), or whether there is an answer (question answering).
    """
    if kind == "regression":
        edges = np.quantile(np.asarray(values, dtype=float), np.linspace(0, 1, bins + 1)[1:-1])
        return [int(i) for i in np.searchsorted(edges, values, side="left")]
    if kind == "text":
        return [0] * len(values)
    if kind in ("multilabel", "tagging"):
        groups = members_of(kind, values)
        counts = Counter(label_key(label) for group in groups for label in group)
        keys = [min((label_key(label) for label in group), key=lambda k: (counts[k], str(k)), default=None) for group in groups]
    elif kind == "question_answering":
        return [int(bool(answers)) for answers in values]
    else:
        keys = [label_key(value) for value in values]
    numbers = {key: i for i, key in enumerate(sorted(set(keys), key=str))}
    return [numbers[key] for key in keys]


def members_of(kind: Kind, values: Sequence[Any]) -> list[list[Any]]:
    """What a row stands for, each once: its labels; of tags the entity types in it, or the tags where they are no entity tags."""
    if kind != "tagging":
        return [list(dict.fromkeys(group)) for group in values]
    plain = scheme_of({tag for tags in values for tag in tags}) == "plain"
    return [list(dict.fromkeys(tags) if plain else types_of(tags)) for tags in values]


def class_names(kind: Kind, labels: Sequence[Any]) -> tuple[Any, ...]:
    """What rows are counted by: the labels; of entity tags their types."""
    return types_of(labels) if kind == "tagging" and scheme_of(labels) != "plain" else tuple(labels)


def hold_out(examples: Sequence[Example], strata: Sequence[int], rows: int, seed: int) -> tuple[list[int], list[int]]:
    """(kept, held) indices, ascending. About ``rows`` rows are held, every stratum in proportion.

    Rows with the same texts stay together, and every stratum keeps at least one row; so ``held`` may be smaller than asked.
    """
    together: dict[tuple[str, ...], list[int]] = {}
    for index, example in enumerate(examples):
        together.setdefault(example.texts, []).append(index)
    by_stratum: dict[int, list[list[int]]] = {}
    for group in together.values():
        by_stratum.setdefault(strata[group[0]], []).append(group)
    order = sorted(by_stratum)
    quotas = apportion([sum(map(len, by_stratum[s])) for s in order], rows)
    rng = np.random.default_rng(seed)
    held: list[list[int]] = []
    for stratum, quota in zip(order, quotas, strict=True):
        groups = by_stratum[stratum]
        held += _take([groups[i] for i in rng.permutation(len(groups))], quota)
    chosen = _give_back(held, strata)
    return [i for i in range(len(examples)) if i not in chosen], sorted(chosen)


def apportion(sizes: Sequence[int], total: int) -> list[int]:
    """``total`` shared out in proportion to ``sizes`` by largest remainder; ties go to the earlier."""
    whole = sum(sizes)
    exact = [total * size / whole for size in sizes]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _take(groups: list[list[int]], quota: int) -> list[list[int]]:
    taken: list[list[int]] = []
    for group in groups[:-1]:  # the last one stays, whatever the quota says
        if len(group) <= quota:
            taken.append(group)
            quota -= len(group)
    return taken


def _give_back(held: list[list[int]], strata: Sequence[int]) -> set[int]:
    """Held rows, less the groups that hold the last rows of a stratum: the same text may stand under several labels."""
    left = Counter(strata)
    for group in held:
        left.subtract(strata[i] for i in group)
    chosen: set[int] = set()
    for group in held:
        inside = {strata[i] for i in group}
        if any(left[s] <= 0 for s in inside):
            left.update(strata[i] for i in group)
        else:
            chosen.update(group)
    return chosen
