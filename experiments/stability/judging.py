"""Claims, what was measured of them, and when one holds.

A claim holds when the slope of log(quantity) against log(level), fitted in every set by least squares, lies with its whole 95 % interval
over sets where the claim says, and no measurement exceeds its bound, where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """``values`` [S, levels] at ``levels``; where there is a bound, its mean ``bounds``, and whether all measurements are ``inside``."""

    levels: list[float]
    values: Tensor
    bounds: Tensor | None = None
    inside: Tensor | None = None


@dataclass(frozen=True)
class Claim:
    """One line of the result. ``slope`` is the range in which the whole interval of the slope must lie; ``why`` what a failure means."""

    name: str
    world: str
    says: str
    level: str
    quantity: str
    slope: tuple[float, float]
    measure: Callable[[int], Measured]
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """The mean slope with its 95 % interval over ``sets``; ``inside`` is the share of measurements within their bound, nan without one."""

    slope: float
    low: float
    high: float
    sets: int
    inside: float
    holds: bool


FALLS, RISES = (-math.inf, 0.0), (0.0, math.inf)


def judge(claim: Claim, found: Measured) -> Verdict:
    """Whether the claim holds in what was measured."""
    x = torch.tensor(found.levels).log()
    x = x - x.mean()
    slopes = (found.values.log() * x).sum(1) / x.square().sum()
    count, mean = len(slopes), float(slopes.mean())
    half = float(stats.t.isf(0.025, count - 1)) * float(slopes.std()) / math.sqrt(count)
    inside = math.nan if found.inside is None else float(found.inside.double().mean())
    right = claim.slope[0] < mean - half and mean + half < claim.slope[1]
    return Verdict(mean, mean - half, mean + half, count, inside, right and (math.isnan(inside) or inside == 1.0))
