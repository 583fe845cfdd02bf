"""How much the predictions of two seeds differ: a recipe may score alike with every seed and yet answer single rows differently.

Formula, S seeds and n items, x[s, i] the prediction::

    d[s, t] = mean over i of (x[s, i] != x[t, i])                       labels: the share of items on which s and t disagree
    d[s, t] = mean over i of |x[s, i] - x[t, i]| / sd of the true values    values
    churn   = mean over all pairs s < t of d[s, t]                       (Milani Fard et al. 2016 for one pair)

The mean over pairs is a U-statistic in the seeds. Its interval joins the jackknife over seeds (Arvesen 1969: every seed left out in
turn) with the spread over items, each with its own t quantile, as in `tempering.study.variance`, on the scale of the logarithm, since
shares near 0 have their long tail above. Measured: 94 to 99 % where it says 95 %. It cannot see a collapse that did not happen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tempering.errors import DataError
from tempering.study.variance import Array, quantile

NAN = math.nan


@dataclass(frozen=True, slots=True)
class Disagreement:
    """``value``: the mean over pairs of seeds, a share of rows or, ``in_sd``, a difference in target standard deviations.

    ``low`` and ``high`` are nan with fewer than three seeds: leaving one of two out leaves no pair. Everything is nan with fewer than two.
    """

    value: float
    low: float
    high: float
    in_sd: bool = False


def disagreement(predictions: Sequence[Sequence[Any]], gold: Sequence[Any] | None = None, confidence: float = 0.95) -> Disagreement:
    """Of ``predictions`` [S][n] of the same items, seeds without any left out. ``gold`` [n], the true values, says they are values.

    Raises `DataError` when the seeds predict different numbers of items.
    """
    kept = [list(row) for row in predictions if len(row)]
    lengths = sorted({len(row) for row in kept})
    if len(lengths) > 1:
        raise DataError(f"seeds predict different numbers of test rows ({lengths[0]} and {lengths[-1]}); they must share one test set")
    if len(kept) < 2:
        return Disagreement(NAN, NAN, NAN, gold is not None)
    if gold is None:
        codes = _codes(kept)
        return _interval(*_pairwise((codes != mine).astype(float) for mine in codes), 1 - confidence, in_sd=False)
    sd = float(np.std(np.asarray(gold, dtype=float), ddof=1)) if len(gold) > 1 else 0.0
    if not sd > 0:
        return Disagreement(NAN, NAN, NAN, in_sd=True)
    values = np.asarray(kept, dtype=float)
    return _interval(*_pairwise(np.abs(values - mine) / sd for mine in values), 1 - confidence, in_sd=True)


def churn(predictions: Sequence[Sequence[Any]]) -> float:
    """The mean share of items, over all pairs of seeds, on which two seeds predict differently; nan with fewer than two seeds."""
    return disagreement(predictions).value


def _codes(rows: Sequence[Sequence[Any]]) -> Array:
    """A number for each distinct prediction, so that labels of any kind (texts, sets of labels) can be compared at once."""
    known: dict[str, float] = {}
    return np.array([[known.setdefault(json.dumps(x, sort_keys=True, default=str), float(len(known))) for x in row] for row in rows])


def _pairwise(apart: Iterable[Array]) -> tuple[Array, Array]:
    """Mean over items [S, S] and mean over pairs [n] of how far every run is from each: one [S, n] a run, 0 in its own row."""
    by_pair, by_item = zip(*((rows.mean(1), rows.sum(0)) for rows in apart), strict=True)
    return np.stack(by_pair), np.sum(by_item, axis=0) / (len(by_pair) * (len(by_pair) - 1))


def _interval(by_pair: Array, by_item: Array, level: float, in_sd: bool) -> Disagreement:
    seeds, items = len(by_pair), len(by_item)
    value = float(by_item.mean())
    if seeds < 3 or items < 2:
        return Disagreement(value, NAN, NAN, in_sd)
    if value == 0.0:  # nothing seen in n items: what would be seen with chance 1 - level / 2 (Clopper and Pearson 1934)
        return Disagreement(0.0, 0.0, 0.0 if in_sd else 1 - (level / 2) ** (1 / items), in_sd)
    without = (by_pair.sum() - 2 * by_pair.sum(1)) / ((seeds - 1) * (seeds - 2))
    of_seeds = (seeds - 1) / seeds * float(((without - without.mean()) ** 2).sum())
    of_items = float(by_item.var(ddof=1)) / items
    half = math.sqrt(quantile(level, seeds - 1) ** 2 * of_seeds + quantile(level, items - 1) ** 2 * of_items) / value
    high = value * math.exp(min(half, 700.0))
    return Disagreement(value, value * math.exp(-min(half, 700.0)), high if in_sd else min(1.0, high), in_sd)
