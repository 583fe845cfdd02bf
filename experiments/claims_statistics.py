"""What claims-stability.py judges by: equal variances of pairs, the same over tasks, and a correction for how many methods are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from tempering.study.pairs import Pair, compare_all

NAN = math.nan


@dataclass(frozen=True)
class Run:
    """One finished run: its score, and the scores of its test rows (none where the metric is no mean over rows)."""

    score: float
    items: tuple[float, ...] = ()


@dataclass(frozen=True)
class Average:
    """A mean over tasks with its 95 % t interval, p of "the mean over such tasks is 0", and ``here``, p of "on none of these is there any".

    ``here`` is 1 where what the tasks show together lies on the other side of 0 than their mean.
    """

    mean: float
    low: float
    high: float
    p: float
    here: float


def paired(plain: Mapping[int, Run], other: Mapping[int, Run], methods: int) -> Pair | None:
    """``other`` minus ``plain`` over the seeds that both finished; None with fewer than two of them.

    The interval holds together with those of all ``methods`` that are held against the same plain runs; ``p`` is that of this one alone.
    """
    seeds = sorted(plain.keys() & other.keys())
    if len(seeds) < 2:
        return None
    runs = {"other": [other[s] for s in seeds], "plain": [plain[s] for s in seeds]}
    lengths = {len(run.items) for found in runs.values() for run in found}
    items = {name: np.array([run.items for run in found]) for name, found in runs.items()} if lengths != {0} and len(lengths) == 1 else None
    scores = {name: [run.score for run in found] for name, found in runs.items()}
    (pair,) = compare_all(scores, items, confidence=1 - 0.05 / methods)
    return pair


def morgan_pitman(plain: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """sd(other) / sd(plain) and p of equal variances of pairs: r of sums with differences is 0 (Morgan 1939, Pitman 1939).

    Exact for pairs that are normal together, however they are correlated; an F test of the two variances is not. p is nan where a side
    has no spread at all: equal scores are rounded ones, not normal ones, and would be taken for proof.
    """
    a, b = np.asarray(plain, dtype=float), np.asarray(other, dtype=float)
    first, second = (float(x.std(ddof=1)) if np.ptp(x) > 0 else 0.0 for x in (a, b))  # equal numbers have no rounding error for a spread
    ratio = second / first if first > 0 else NAN
    if len(a) < 3 or min(first, second) == 0:
        return ratio, NAN
    if min(np.ptp(a + b), np.ptp(a - b)) < 1e-12 * max(1.0, float(np.abs([a, b]).max())):  # the one is the other, moved or mirrored
        return ratio, 1.0
    return ratio, float(stats.pearsonr(a + b, b - a).pvalue)


def average(values: Sequence[float], chances: Sequence[tuple[float, float]]) -> Average:
    """Of ``values``, one a task, as draws of a population of tasks; ``chances`` are sign and p of each task's own test.

    The first p is that of Student's t. The second joins the tests of the tasks, which are independent of each other, by the sum of their
    normal quantiles (Stouffer et al. 1949): it speaks of these tasks alone, and asks of no task to be like another.
    """
    found = [v for v in values if math.isfinite(v)]
    if not found:
        return Average(NAN, NAN, NAN, NAN, NAN)
    mean, together = float(np.mean(found)), joined(chances)
    here = 2 * float(stats.norm.sf(abs(together))) if together * mean > 0 else NAN if math.isnan(together) else 1.0
    deviation = float(np.std(found, ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    if deviation == 0:
        return Average(mean, NAN, NAN, NAN, here)
    half = float(stats.t.isf(0.025, len(found) - 1)) * deviation
    return Average(mean, mean - half, mean + half, 2 * float(stats.t.sf(abs(mean) / deviation, len(found) - 1)), here)


def joined(chances: Sequence[tuple[float, float]]) -> float:
    """The normal quantile, with its sign, of several independent two-sided tests, each as (sign, p); nan without any."""
    known = [math.copysign(1.0, sign) * float(stats.norm.isf(max(p, 1e-300) / 2)) for sign, p in chances if math.isfinite(p)]
    return sum(known) / math.sqrt(len(known)) if known else NAN


def holm(chances: Mapping[Any, float]) -> dict[Any, float]:
    """Adjusted p of each (Holm 1979): the chance that any of all true hypotheses is rejected stays below the level. nan stays nan."""
    known = sorted((p, name) for name, p in chances.items() if math.isfinite(p))
    adjusted, least = dict(chances), 0.0
    for i, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - i) * p))
        adjusted[name] = least
    return adjusted
