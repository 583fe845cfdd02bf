"""Which recipes differ: all pairs, paired by seed and item, corrected for how many pairs there are.

Every pair gets the interval of `variance.Spread` at the level (1 - confidence) / pairs. That is single-step on purpose. Holm's
steps reject a little more, but intervals that agree with them and hold together are open-ended for every rejected pair; here
the reader gets both: all intervals hold together with the confidence stated, and a pair is called different exactly when its
interval excludes 0. Which recipe may be the best is another question with fewer comparisons: `best`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tempering.study.intervals import CROSSED, NAN, ONE_SEED, SEEDS
from tempering.study.variance import Array, Spread, crossed_spread, is_binary, matching_items, seed_spread

FEW_SEEDS = "no claim: fewer than two seeds in common"
NO_SPREAD = "no claim: seeds do not vary and there are no items to compare"


@dataclass(frozen=True, slots=True)
class Pair:
    """Recipe ``a`` against ``b``: ``difference`` = mean of a - mean of b over their common seeds, with its simultaneous interval.

    ``p_adjusted`` = ``p`` x the number of pairs compared, at most 1. ``different`` exactly when the interval excludes 0.
    Where nothing can be claimed, ``method`` says why, the bounds are nan, both p are 1 and ``different`` is False.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    different: bool
    seeds: int
    method: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """Recipe a - recipe b before any correction: mean difference, its spread (None: no claim), their common seeds, and how."""

    difference: float
    spread: Spread | None
    seeds: int
    method: str


def compare_all(scores: Mapping[str, Sequence[float]], items: Mapping[str, Array] | None = None, confidence: float = 0.95) -> list[Pair]:
    """All pairs of recipes, in the order given. Position s in ``scores[recipe]`` is seed s for every recipe; nan: a failed run.

    ``items[recipe]`` is [S, n] (rows of failed runs are ignored). Where the metric is a mean over items, claims hold for
    future seeds and items; else the paired t test over seeds speaks of this test set. The chance of any false claim is at most
    1 - ``confidence``, and all intervals hold together with ``confidence``.
    """
    contrasts = {(a, b): contrast_of(scores, items, a, b) for a, b in itertools.combinations(scores, 2)}
    count = sum(c.spread is not None for c in contrasts.values())
    return [judged(a, b, c, count, 1 - confidence) for (a, b), c in contrasts.items()]


def contrast_of(scores: Mapping[str, Sequence[float]], items: Mapping[str, Array] | None, a: str, b: str) -> Contrast:
    length = min(len(scores[a]), len(scores[b]))
    first, second = (np.asarray(scores[name], dtype=float)[:length] for name in (a, b))
    both = np.isfinite(first) & np.isfinite(second)
    seeds = int(both.sum())
    if seeds == 0:
        return Contrast(average(scores[a]) - average(scores[b]), None, 0, FEW_SEEDS)
    difference = first[both] - second[both]
    tables = [_table(scores[name], items, name, length, both) for name in (a, b)]
    left, right = tables
    if left is not None and right is not None and left.shape == right.shape:
        extra = 2.0 if is_binary(np.abs(left)) and is_binary(np.abs(right)) else 0.0
        method = CROSSED if seeds > 1 else ONE_SEED
        return Contrast(float(difference.mean()), crossed_spread(left - right, extra), seeds, method)
    if seeds < 2:
        return Contrast(float(difference.mean()), None, seeds, FEW_SEEDS)
    if np.ptp(difference) < 1e-12:
        return Contrast(float(difference.mean()), None, seeds, NO_SPREAD)
    return Contrast(float(difference.mean()), seed_spread(difference), seeds, SEEDS)


def _table(scores: Sequence[float], items: Mapping[str, Array] | None, name: str, length: int, both: Array) -> Array | None:
    if items is None or name not in items or len(items[name]) != len(scores):
        return None
    return matching_items(np.asarray(scores, dtype=float)[:length][both], np.asarray(items[name], dtype=float)[:length][both])


def average(scores: Sequence[float]) -> float:
    """The mean of the finished runs (those that are not nan); nan without any."""
    done = [float(x) for x in scores if math.isfinite(x)]
    return sum(done) / len(done) if done else NAN


def judged(a: str, b: str, contrast: Contrast, count: int, level: float) -> Pair:
    difference, spread = contrast.difference, contrast.spread
    if spread is None:
        return Pair(a, b, difference, NAN, NAN, 1.0, 1.0, False, contrast.seeds, contrast.method)
    half, p = spread.half(level / count), spread.p(difference)
    low, high = difference - half, difference + half
    return Pair(a, b, difference, low, high, p, min(1.0, p * count), bool(low > 0 or high < 0), contrast.seeds, contrast.method)


def by_mean(scores: Mapping[str, Sequence[float]], higher_is_better: bool) -> list[str]:
    means = {name: average(values) for name, values in scores.items()}
    done = [name for name in scores if math.isfinite(means[name])]
    return sorted(done, key=lambda name: -means[name] if higher_is_better else means[name])


def _apart(pairs: Sequence[Pair]) -> set[frozenset[str]]:
    return {frozenset((pair.a, pair.b)) for pair in pairs if pair.different}


def groups(scores: Mapping[str, Sequence[float]], pairs: Sequence[Pair], higher_is_better: bool = True) -> list[list[str]]:
    """The largest sets of recipes of which no two are different, best first: the letters of a compact letter display.

    A recipe may be in several (a tied with b, b with c, yet a better than c). Recipes without a finished run are left out.
    """
    order, apart = by_mean(scores, higher_is_better), _apart(pairs)
    near = {name: {other for other in order if other != name and frozenset((name, other)) not in apart} for name in order}
    found = [sorted(group, key=order.index) for group in _cliques(set(), set(order), set(), near)] if order else []
    return sorted(found, key=lambda group: [order.index(name) for name in group])


def _cliques(chosen: set[str], open_: set[str], closed: set[str], near: Mapping[str, set[str]]) -> list[set[str]]:
    """The maximal cliques that hold ``chosen`` and otherwise members of ``open_`` only (Bron and Kerbosch 1973)."""
    if not open_ and not closed:
        return [chosen]
    found: list[set[str]] = []
    pivot = max(sorted(open_ | closed), key=lambda name: len(near[name] & open_))
    for name in sorted(open_ - near[pivot]):
        found += _cliques(chosen | {name}, open_ & near[name], closed & near[name], near)
        open_, closed = open_ - {name}, closed | {name}
    return found
