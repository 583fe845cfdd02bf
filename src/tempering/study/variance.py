"""Where the uncertainty of a mean over seeds and test items comes from, and how far from the truth that mean may lie.

Model: ``x[s, i] = mean + seed[s] + item[i] + rest[s, i]`` with random seeds *and* random items, since a claim is about future
runs on future items. Then ``Var(mean) = (MS_seed + MS_item - MS_rest) / (S n)`` in the mean squares of the two-way layout.

The usual way on from there, Satterthwaite's degrees of freedom, is not used: by quadrature over the distribution of MS_seed its
error rate at three seeds is up to 3 times the nominal one for three comparisons and 18 times for the 28 pairs of eight recipes,
because a seed variance that came out small by luck (two degrees of freedom) also buys a large number of degrees of freedom.
Instead each source keeps its own quantile (Banerjee, Sankhya 22, 1960)::

    half**2 = t(S-1)**2 * MS_seed / (S n)  +  t(n-1)**2 * (MS_item - MS_rest)+ / (S n)

whose error is at most nominal under the normal model for *any* ratio of the variances: the chance that ``Z**2`` exceeds a
weighted mean of ``t_k**2 * chi_k`` is, by convexity of the chi-square tail, at most the weighted mean of the single chances.
The width is never less than what the items alone (seeds held fixed) would give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]
SMALLEST_P = 1e-15


@dataclass(frozen=True, slots=True)
class Spread:
    """Estimated parts of the variance of a mean, in squared units of the score.

    ``seed`` is MS_seed / (S n) on ``seeds`` - 1 degrees of freedom; ``item`` the part of the items beyond it; ``fixed`` is
    MS_item / (S n), the variance with the seeds held fixed. ``items`` is 0 when no items were given, ``seeds`` 1 or more.
    """

    seed: float
    item: float
    fixed: float
    seeds: int
    items: int

    def half(self, level: float) -> float:
        """Half the width of the interval with error ``level`` (0.05 for 95 %)."""
        return self.joined(math.sqrt(self.seed) * quantile(level, self.seeds - 1), level)

    def joined(self, seed_half: float, level: float) -> float:
        """The same when the seeds alone reach ``seed_half`` far."""
        item = quantile(level, self.items - 1)
        return max(math.sqrt(seed_half**2 + item**2 * self.item), item * math.sqrt(self.fixed))

    def p(self, difference: float) -> float:
        """The level at which the interval around ``difference`` just touches 0; 1 for no difference, never nan."""
        if difference == 0 or self.half(1 - SMALLEST_P) >= abs(difference):
            return 1.0
        if self.half(SMALLEST_P) <= abs(difference):
            return SMALLEST_P
        ends = math.log(SMALLEST_P), math.log(1 - SMALLEST_P)
        return math.exp(optimize.brentq(lambda x: self.half(math.exp(x)) - abs(difference), *ends, xtol=1e-13))

    def typical(self) -> Spread:
        """The same with the seed part made median-unbiased: at three seeds the plain estimate is too small 63 times in 100."""
        if self.seeds < 2:
            return self
        factor = (self.seeds - 1) / float(stats.chi2.ppf(0.5, self.seeds - 1))
        return Spread(self.seed * factor, self.item, self.fixed, self.seeds, self.items)

    def detectable(self, level: float, power: float) -> float:
        """The true difference that an interval of this ``level`` excludes 0 for with probability ``power``.

        Averages over the luck of the seed variance (401 quantiles of its chi-square); takes the estimates as the truth.
        """
        luck = np.ones(1)
        if self.seeds > 1:
            luck = stats.chi2.ppf((np.arange(401) + 0.5) / 401, self.seeds - 1) / (self.seeds - 1)
        halves = np.array([Spread(self.seed * x, self.item, self.fixed, self.seeds, self.items).half(level) for x in luck])
        sd = math.sqrt(max(self.seed + self.item, self.fixed))
        if sd == 0:
            return 0.0
        top = float(halves.max()) + 10 * sd
        return float(optimize.brentq(lambda x: float(stats.norm.cdf((x - halves) / sd).mean()) - power, 0.0, top))


def quantile(level: float, df: int) -> float:
    """The two-sided t quantile for an error of ``level``; 0 without degrees of freedom, as such a source adds nothing."""
    return -float(special.stdtrit(df, level / 2)) if df > 0 else 0.0  # stats.t.isf, 20 times faster: `Spread.p` asks often


def seed_spread(scores: Array) -> Spread:
    """The spread of the mean of ``scores`` [S], S >= 2, on this test set: the t interval."""
    return Spread(float(np.var(scores, ddof=1)) / len(scores), 0.0, 0.0, len(scores), 0)


def crossed_spread(items: Array, extra: float = 0.0) -> Spread:
    """The spread of the mean of ``items`` [S, n], n >= 2; with S = 1 that of the items alone.

    ``extra`` is added to the sum of squares over items: scores of 0 and 1 that happen to agree everywhere in a small test set
    are no proof that they agree on the next item (Bonett and Price 2012 add one item in favor of each side: ``extra`` = 2).
    """
    seeds, n = items.shape
    by_seed, by_item, mean = items.mean(1), items.mean(0), items.mean()
    fixed = (float(((by_item - mean) ** 2).sum()) + extra) / (n - 1) / n
    if seeds == 1:
        return Spread(0.0, fixed, fixed, 1, n)
    rest = items - by_seed[:, None] - by_item[None, :] + mean
    rest_part = float((rest**2).sum()) / ((seeds - 1) * (n - 1)) / (seeds * n)
    seed = float(np.var(by_seed, ddof=1)) / seeds
    return Spread(_clean(seed, mean), _clean(max(fixed - rest_part, 0.0), mean), _clean(fixed, mean), seeds, n)


def _clean(variance: float, mean: float) -> float:
    """Rounding noise of equal numbers is no variance."""
    return 0.0 if variance < (1e-14 * max(1.0, abs(float(mean)))) ** 2 else variance


def matching_items(scores: Array, items: Array | None) -> Array | None:
    """``items`` [S, n] when their means are the scores, negated when the scores are a mean error; None for any other metric.

    Only a metric that is a mean over items (accuracy, squared error) has a seed x item variance; F1 or a correlation has not.
    """
    if items is None or items.ndim != 2 or items.shape[0] != len(scores) or items.shape[1] < 2:
        return None
    tolerance = 1e-6 * max(1.0, float(np.abs(scores).max(initial=0.0)))
    for sign in (1.0, -1.0):
        if np.allclose(sign * items.mean(1), scores, rtol=0, atol=tolerance):
            return sign * items
    return None


def is_binary(items: Array) -> bool:
    """Whether all item scores are 0 or 1."""
    return bool(np.isin(items, (0.0, 1.0)).all())
