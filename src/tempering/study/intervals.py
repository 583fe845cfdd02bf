"""The mean of a few seeds with an interval that covers.

A percentile bootstrap over five seeds covers about 83 % where it says 95 %, since it can never look further than the five
values it has; the tests measure that. No interval can see a collapse that did not happen: when one run in five falls to chance,
three seeds are all healthy half of the time, and then say nothing about the collapse. Collapsed runs are therefore counted
and reported beside the interval (measured: `benchmarks/error_rates.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from tempering.study.variance import Array, crossed_spread, is_binary, matching_items, quantile, seed_spread

ONE_SEED = "items only: one seed says nothing about other seeds"
SEEDS = "t over seeds, on this test set"
CROSSED = "seeds x items"
ALIKE = "equal scores: no interval"
NAN = math.nan


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` seeds with its interval, and the standard deviation between seeds with its chi-square interval.

    ``method`` says what the interval speaks of. Whatever the seeds do not tell is nan: the interval without any run (or, without
    items, with one run or equal scores), the standard deviation of one run, and the interval of the standard deviation of equal scores.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int
    method: str
    sd_low: float
    sd_high: float


def interval(scores: Sequence[float], items: Array | None = None, confidence: float = 0.95) -> Interval:
    """The mean of ``scores`` [S] (nan: a failed run) with its interval; ``items`` [S, n] are the scores of single test items.

    With items whose means are the scores, the interval holds for future seeds on future items of this kind; for scores of 0
    and 1 two right and two wrong items are added first (Agresti and Coull 1998), so that 50 right of 50 is not read as perfect.
    Without items, or for a metric that is no mean over items, it is the t interval over seeds.
    """
    given = np.asarray(scores, dtype=float)
    done = np.isfinite(given)
    values, level = given[done], 1 - confidence
    table = matching_items(values, None if items is None or len(items) != len(given) else np.asarray(items, dtype=float)[done])
    if len(values) == 0:
        return Interval(NAN, NAN, NAN, NAN, 0, "no finished run", NAN, NAN)
    mean = float(values.mean())
    spread = _deviation(values, level)
    if table is None and (len(values) == 1 or spread[0] == 0):
        return Interval(mean, NAN, NAN, spread[0], len(values), "one seed: no interval" if len(values) == 1 else ALIKE, NAN, NAN)
    if table is None:
        half = seed_spread(values).half(level)
        return Interval(mean, mean - half, mean + half, spread[0], len(values), SEEDS, *spread[1:])
    low, high = _crossed(table, level)
    return Interval(mean, low, high, spread[0], len(values), ONE_SEED if len(values) == 1 else CROSSED, *spread[1:])


def _crossed(table: Array, level: float) -> tuple[float, float]:
    if not is_binary(np.abs(table)):
        center, half = float(table.mean()), crossed_spread(table).half(level)
        return center - half, center + half
    if table.min() < 0:  # a share of errors: the mirror image of a share of right answers
        low, high = _crossed(-table, level)
        return -high, -low
    table = np.concatenate([table, np.tile([0.0, 0.0, 1.0, 1.0], (len(table), 1))], axis=1)
    center, spread = float(table.mean()), crossed_spread(table)
    below, above = _reach(table.mean(1), center, spread.seed, level)
    return max(0.0, center - spread.joined(below, level)), min(1.0, center + spread.joined(above, level))


def _reach(shares: Array, center: float, variance: float, level: float) -> tuple[float, float]:
    """How far the seeds alone reach below and above ``center``: the t interval or, where that is further, the one in logits.

    Shares near 1 have their long tail below: at three seeds of sd 18 points the t interval missed 12 in 100, this one 7.
    """
    t = quantile(level, len(shares) - 1)
    logits = special.logit(shares)
    half = t * math.sqrt(float(logits.var(ddof=1)) / len(shares)) if len(shares) > 1 else 0.0
    low, high = (float(special.expit(logits.mean() + side)) for side in (-half, half))
    return max(t * math.sqrt(variance), center - low), max(t * math.sqrt(variance), high - center)


def _deviation(values: Array, level: float) -> tuple[float, float, float]:
    """Equal scores have no interval: they are rounded ones, not normal ones, and chi-square would call a spread of 0 certain."""
    if len(values) < 2:
        return NAN, NAN, NAN
    if float(np.ptp(values)) == 0.0:
        return 0.0, NAN, NAN
    df, sd = len(values) - 1, float(values.std(ddof=1))
    low, high = (sd * math.sqrt(df / float(stats.chi2.isf(tail, df))) for tail in (level / 2, 1 - level / 2))
    return sd, low, high


@dataclass(frozen=True, slots=True)
class Gain:
    """What one more doubling of the training rows brought on average, with the interval of a straight line through the means."""

    per_doubling: float
    low: float
    high: float


def learning_curve_gain(sizes: Sequence[int], means: Sequence[float], confidence: float = 0.95) -> Gain:
    """The slope of ``means`` against log2 of ``sizes``. Crude: curves flatten, so it is an upper guess for the next doubling.

    Needs two different sizes for a slope and three for an interval; what cannot be said is nan.
    """
    pairs = [(math.log2(size), mean) for size, mean in zip(sizes, means, strict=True) if size > 0 and math.isfinite(mean)]
    if len({x for x, _ in pairs}) < 2:
        return Gain(NAN, NAN, NAN)
    fit = stats.linregress([x for x, _ in pairs], [y for _, y in pairs])
    if len(pairs) < 3:
        return Gain(float(fit.slope), NAN, NAN)
    half = float(stats.t.isf((1 - confidence) / 2, len(pairs) - 2)) * float(fit.stderr)
    return Gain(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)
