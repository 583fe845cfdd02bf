"""One verdict for each claim of an experiment: the mean over tasks decides, seed by seed, and single tasks are shown without one.

With three seeds a paired t test has two degrees of freedom. Corrected for a test of every task it could decide nothing but a miracle, so
that a claim is judged once, for all tasks together. Tasks whose runs of one seed start from the same trained model are not independent of
each other: they are one group, and enter as their mean. Groups that share no model are tested each for itself, and the tests joined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cells import gap, paired
from claims_statistics import holm, joined
from scipy import stats

from tempering.study.pairs import Pair

Scores = Mapping[str, Sequence[float]]  # task -> score by seed, nan where it is not there

HOW = (
    "A claim is judged once, by the mean over tasks (paired by seed, t test over seeds; 5 % after Holm's correction for all claims of the"
    " table)."
)
JOINED = (
    " Tasks that start from the same trained models count as one, and the tests of those that share none are joined by the sum of their"
    " normal quantiles (Stouffer et al. 1949)."
)


@dataclass(frozen=True)
class Claim:
    """``first`` minus ``second``: the mean over tasks, p of "there is none" alone, and the pair where a single test says it all."""

    difference: float
    p: float
    pair: Pair | None = None


def mean(scores: Scores, tasks: Sequence[str]) -> list[float]:
    """The mean over ``tasks`` by seed; nan where one of them is not there."""
    return [sum(found) / len(found) for found in zip(*(scores[task] for task in tasks), strict=True)]


def together(first: Scores, second: Scores, groups: Sequence[Sequence[str]]) -> Claim:
    """``first`` against ``second`` over all ``groups`` of tasks of which a seed is finished on both sides.

    The tests are joined by their quantiles with the sign of their differences: p is exact where groups are independent, however much one
    varies more than another. Where what the tests say together lies on the other side of 0 than the mean, nothing is said (p = 1).
    """
    pairs = [(group, paired(mean(first, group), mean(second, group))) for group in groups]
    found = [(len(group), pair) for group, pair in pairs if math.isfinite(pair.difference)]
    if not found:
        return Claim(math.nan, 1.0)
    difference = sum(count * pair.difference for count, pair in found) / sum(count for count, _ in found)
    if len(found) == 1:
        return Claim(difference, found[0][1].p, found[0][1])
    quantile = joined([(pair.difference, pair.p) for _, pair in found])
    return Claim(difference, 2 * float(stats.norm.sf(abs(quantile))) if quantile * difference > 0 else 1.0)


def verdicts(claims: Mapping[Any, Claim]) -> dict[Any, tuple[str, str, str]]:
    """For each claim its difference in points, its p corrected for all of them, and in a word whether it holds."""
    known = {name: claim.p for name, claim in claims.items() if math.isfinite(claim.difference)}
    adjusted = holm(known)
    return {name: _told(claim, adjusted.get(name, 1.0)) for name, claim in claims.items()}


def _told(claim: Claim, p: float) -> tuple[str, str, str]:
    if not math.isfinite(claim.difference):
        return "", "", "not run"
    shown = gap(claim.pair) if claim.pair else f"{100 * claim.difference:+.1f}"
    if p < 0.05:
        return shown, f"{p:.3f}", "holds" if claim.difference > 0 else "is reversed"
    direction = "right" if claim.difference > 0 else "other"
    same = abs(claim.difference) < 1e-12
    return shown, f"{p:.3f}", f"not decided ({'no difference' if same else f'{direction} direction'})"


def counted(words: Sequence[str]) -> str:
    """How many claims got which verdict."""
    return "; ".join(f"{words.count(one)} of {len(words)} {one}" for one in dict.fromkeys(words))
