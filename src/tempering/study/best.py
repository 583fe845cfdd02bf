"""Which recipes may be the best: the answer of a study, at a smaller price than telling all pairs apart.

The best recipe is among the contenders with the confidence stated: a recipe is *behind* exactly when some other one is better with
an interval at the level (1 - confidence) / (k - 1) for k recipes. The truly best recipe meets k - 1 others, none of which is truly
better, so it falls behind by mistake with a chance of at most 1 - confidence (after Gupta 1965 and Hsu 1984, with Bonferroni in
place of equal variances). All pairs together would ask for (1 - confidence) / (k (k - 1) / 2): at 30 recipes and five seeds that
makes every interval about twice as wide and ties what nobody would. A pair told apart there is told apart here too, so that no two
contenders are different in `pairs.compare_all`; with two recipes both are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tempering.study.intervals import NAN
from tempering.study.pairs import Contrast, Pair, by_mean, contrast_of, judged
from tempering.study.variance import Array

POWER, CONFIDENCE = 0.8, 0.95


@dataclass(frozen=True, slots=True)
class Best:
    """``contenders``: the recipe with the best mean, then all others that may be the best; ``behind``: those shown not to be. Both by mean.

    ``leads`` compares the best mean with every other recipe. Where it is the only contender, all these intervals hold together with
    the confidence asked for.
    """

    contenders: list[str]
    behind: list[str]
    leads: list[Pair]


def find_best(
    scores: Mapping[str, Sequence[float]],
    items: Mapping[str, Array] | None = None,
    higher_is_better: bool = True,
    confidence: float = CONFIDENCE,
) -> Best:
    """The contenders of ``scores`` and ``items`` (as `pairs.compare_all` takes them); recipes without a finished run are left out."""
    order = by_mean(scores, higher_is_better)
    contrasts = _contrasts(order, scores, items)
    count = _comparisons(contrasts)
    found = [judged(a, b, contrast, count, 1 - confidence) for (a, b), contrast in contrasts.items()]
    lost = {_worse(pair, higher_is_better) for pair in found if pair.different} - set(order[:1])
    return Best(
        contenders=[name for name in order if name not in lost],
        behind=[name for name in order if name in lost],
        leads=[pair for pair in found if pair.a == order[0]],
    )


def smallest_difference(
    scores: Mapping[str, Sequence[float]], items: Mapping[str, Array] | None, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """The true difference, in units of the score, that puts a typical recipe behind a better one with chance ``power``.

    For this many seeds, test items and recipes: the median over the pairs that are not told apart (over all, if all are), since two
    recipes that are far apart disagree on many items, and a close pair does not. nan without any pair.
    """
    contrasts = _contrasts(by_mean(scores, higher_is_better=True), scores, items)
    known = [(abs(c.difference), c.spread) for c in contrasts.values() if c.spread is not None]
    if not known:
        return NAN
    level = (1 - confidence) / _comparisons(contrasts)
    close = [spread for difference, spread in known if difference <= spread.half(level)]
    return float(np.median([spread.typical().detectable(level, power) for spread in close or [spread for _, spread in known]]))


def _contrasts(
    names: Sequence[str], scores: Mapping[str, Sequence[float]], items: Mapping[str, Array] | None
) -> dict[tuple[str, str], Contrast]:
    return {(a, b): contrast_of(scores, items, a, b) for a, b in itertools.combinations(names, 2)}


def _comparisons(contrasts: Mapping[tuple[str, str], Contrast]) -> int:
    """How many others the best recipe meets; those that can be compared with nobody cost nothing."""
    compared = {name for pair, contrast in contrasts.items() if contrast.spread is not None for name in pair}
    return max(1, len(compared) - 1)


def _worse(pair: Pair, higher_is_better: bool) -> str:
    return pair.b if (pair.difference > 0) == higher_is_better else pair.a
