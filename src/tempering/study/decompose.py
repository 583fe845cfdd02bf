"""Where instability comes from: components of the variance of a score for the data sample, the initialization and the order.

Model for runs whose streams are crossed (`tempering.study.crossing`), all effects random and independent::

    score = mean + sample[i] + init[j] + order[k] + rest        Var(score) = v_sample + v_init + v_order + v_rest

``rest`` holds the interactions of the streams (and what a machine adds): in a Latin square each of them occurs once, so that they are
independent from run to run. Components come from mean squares by their expectations, with the fitting constants of Henderson (1953,
method III), which are exact also when runs are missing: with P the projection on all effects, P_k that on all but those of k, Z_k the
levels of k, ``SS_k = y' (P - P_k) y``, ``E[SS_k] = v_k tr(Z_k' (P - P_k) Z_k) + df_k v_rest``, ``E[SS_rest] = df_rest v_rest``. A complete
square gives the usual ``v_k = (MS_k - MS_rest) / N``.

Intervals: of v_rest by chi-square; of v_k by the modified large-sample method for a difference of mean squares (Ting, Burdick,
Graybill, Jeyaratnam and Lu 1990), exact where v_k or v_rest is 0; of shares by generalized pivots (Weerahandi 1993). The F test of v_k = 0
is exact. A component may be estimated below 0; it is shown as 0 and nothing else is changed for it. Where mean squares are exactly 0 (all
scores equal) bounds are nan: scores that are not told apart are rounded ones, and would otherwise be taken for proof of no spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tempering.study.crossing import Levels
from tempering.study.variance import Array

SOURCES = ("data sample", "initialization", "order")
REST = "interactions"
NAN = math.nan
DRAWS = 10_000  # of the pivots; the same draws every time


@dataclass(frozen=True, slots=True)
class Component:
    """One source: ``variance`` (may be below 0) with the interval of its standard deviation, its share of the whole, and p of "none".

    ``low`` and ``high`` bound the standard deviation; ``share_low`` and ``share_high`` the share. p is nan for the rest, and bounds where
    nothing varies.
    """

    source: str
    variance: float
    low: float
    high: float
    share: float
    share_low: float
    share_high: float
    df: int
    p: float

    @property
    def sd(self) -> float:
        """The standard deviation; 0 where the variance was estimated below 0."""
        return math.sqrt(max(0.0, self.variance)) if math.isfinite(self.variance) else NAN


@dataclass(frozen=True, slots=True)
class Decomposition:
    """One recipe at one size: its components, those of `SOURCES` and then the rest; ``runs`` that finished of ``planned``.

    ``sd`` is that of a run of which every stream is new. Without enough runs ``components`` is empty and ``reason`` says why.
    """

    recipe: str
    size: str
    levels: int
    runs: int
    planned: int
    sd: float
    components: tuple[Component, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Square:
    """A sum of squares: its degrees of freedom, and how much of its own component one mean square holds."""

    mean: float
    df: int
    weight: float


def decompose(recipe: str, size: str, planned: int, scores: Mapping[Levels, float], confidence: float = 0.95) -> Decomposition:
    """The decomposition from finished runs, ``scores`` by their levels; a score that is not finite counts as missing."""
    found = {levels: score for levels, score in scores.items() if math.isfinite(score)}
    levels = round(math.sqrt(planned))
    squares = _squares(list(found), np.array(list(found.values()), dtype=float)) if found else []
    if not squares or min(s.df for s in squares) < 1:
        return Decomposition(recipe, size, levels, len(found), planned, NAN, (), "too few finished runs to tell the streams apart")
    parts = _components(squares, 1 - confidence)
    return Decomposition(recipe, size, levels, len(found), planned, math.sqrt(sum(max(0.0, c.variance) for c in parts)), parts)


def _squares(levels: Sequence[Levels], scores: Array) -> list[_Square]:
    """Mean squares of the three streams, each adjusted for the others, and of the rest."""
    table, scores = np.array(levels), scores - scores.mean()
    effects = [(table[:, [k]] == np.unique(table[:, k])).astype(float) for k in range(3)]
    ones = np.ones((len(table), 1))
    whole, rank = _projection([ones, *effects])
    found = []
    for k, mine in enumerate(effects):
        others, fewer = _projection([ones, *(e for i, e in enumerate(effects) if i != k)])
        part, df = whole - others, rank - fewer
        if df < 1:
            return []
        found.append(_Square(_clean(float(scores @ part @ scores) / df, scores), df, float(np.trace(mine.T @ part @ mine)) / df))
    df = len(table) - rank
    rest = scores - whole @ scores
    return [*found, _Square(_clean(float(rest @ rest) / df, scores) if df > 0 else 0.0, df, 1.0)]


def _projection(columns: Sequence[Array]) -> tuple[Array, int]:
    """The projection on the columns' span, and its rank."""
    left, singular, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    basis = left[:, singular > 1e-9 * singular[0]]
    return basis @ basis.T, basis.shape[1]


def _clean(square: float, scores: Array) -> float:
    """Rounding noise of equal scores, or beside a much larger stream, is no variance."""
    return 0.0 if square < max(1e-24, 1e-12 * float(scores.var())) else square


def _components(squares: Sequence[_Square], level: float) -> tuple[Component, ...]:
    *streams, rest = squares
    variances = [(s.mean - rest.mean) / s.weight for s in streams] + [rest.mean]
    bounds = [_difference(s, rest, level) for s in streams] + [_alone(rest, level)]
    whole = sum(max(0.0, v) for v in variances)
    shares = [max(0.0, v) / whole if whole > 0 else NAN for v in variances]
    share_bounds = _share_bounds(squares, level) if whole > 0 else [(NAN, NAN)] * len(squares)
    if all(low <= 0 for low, _ in bounds[:-1]):  # nothing but the rest is shown: pivots cut off at 0 would deny that it may be all
        share_bounds[-1] = (share_bounds[-1][0], 1.0 if whole > 0 else NAN)
    chances = [_p(s, rest) for s in streams] + [NAN]
    rows = zip((*SOURCES, REST), variances, bounds, shares, share_bounds, squares, chances, strict=True)
    return tuple(
        Component(name, v, _root(low), _root(high), share, near, far, square.df, p)
        for name, v, (low, high), share, (near, far), square, p in rows
    )


def _root(bound: float) -> float:
    return NAN if math.isnan(bound) else math.sqrt(max(0.0, bound))


def _p(stream: _Square, rest: _Square) -> float:
    """Of the F test that the stream does nothing; without any rest, a stream that varies is shown for certain."""
    if rest.mean == 0.0:
        return 1.0 if stream.mean == 0.0 else 0.0
    return float(stats.f.sf(stream.mean / rest.mean, stream.df, rest.df))


def _alone(rest: _Square, level: float) -> tuple[float, float]:
    if rest.mean == 0.0:
        return NAN, NAN
    low, high = (rest.df * rest.mean / float(stats.chi2.isf(tail, rest.df)) for tail in (level / 2, 1 - level / 2))
    return low, high


def _difference(stream: _Square, rest: _Square, level: float) -> tuple[float, float]:
    """Bounds of (theta_1 - theta_2) / weight, theta the expected mean squares: Ting et al. 1990, table 1, in its own letters."""
    a, n1, n2 = level / 2, stream.df, rest.df
    one, two = stream.mean, rest.mean
    if one == two == 0.0:
        return NAN, NAN

    def f(tail: float, first: int, second: float = math.inf) -> float:
        return float(stats.chi2.isf(tail, first)) / first if second == math.inf else float(stats.f.isf(tail, first, second))

    upper, lower = f(a, n1, n2), f(1 - a, n1, n2)
    g1, h2 = 1 - 1 / f(a, n1), 1 / f(1 - a, n2) - 1
    g12 = ((upper - 1) ** 2 - (g1 * upper) ** 2 - h2**2) / upper
    h1, g2 = 1 / f(1 - a, n1) - 1, 1 - 1 / f(a, n2)
    h12 = ((1 - lower) ** 2 - (h1 * lower) ** 2 - g2**2) / lower
    below = (g1 * one) ** 2 + (h2 * two) ** 2 + g12 * one * two
    above = (h1 * one) ** 2 + (g2 * two) ** 2 + h12 * one * two
    center = one - two
    return (center - math.sqrt(max(0.0, below))) / stream.weight, (center + math.sqrt(max(0.0, above))) / stream.weight


def _share_bounds(squares: Sequence[_Square], level: float) -> list[tuple[float, float]]:
    """Quantiles of the shares when every mean square is divided by its chi-square over its degrees of freedom."""
    rng = np.random.default_rng(0)
    drawn = np.stack([s.mean * s.df / rng.chisquare(s.df, DRAWS) for s in squares])
    parts = np.maximum(0.0, np.stack([*((d - drawn[-1]) / s.weight for s, d in zip(squares[:-1], drawn[:-1], strict=True)), drawn[-1]]))
    whole = parts.sum(0)
    shares = parts[:, whole > 0] / whole[whole > 0]
    return [(float(low), float(high)) for low, high in zip(*np.quantile(shares, (level / 2, 1 - level / 2), axis=1), strict=True)]
