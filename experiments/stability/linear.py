"""Linear heads on fixed features, with a penalty and without: a quantity of each synthetic set at several levels of what is varied."""

from __future__ import annotations

from collections.abc import Callable

import torch
from judging import Measured
from torch import Tensor
from torch.nn import functional as F
from worlds import REMOVED, STARTS, Sets, descend, from_whole, minimize, pairs_apart, seeded

D = 16  # features of each row
MU = 0.1


# Head tuning with a penalty mu / 2 |w|^2: strongly convex, exact minimizers. Bound: |A(S^i) - A(S)| <= 2 L / (mu n).


def _minimizers(levels: list[float], world: Callable[[float], tuple[Sets, float, float]]) -> Measured:
    values, bounds, inside = [], [], []
    for level in levels:
        sets, mu, scale = world(level)
        apart = from_whole(minimize(sets, sets.left_out(REMOVED), mu, scale))
        values.append(apart.mean(1))
        bounds.append(2 * scale * sets.reach / (mu * sets.signs.shape[1]))
        inside.append(apart.amax(1) <= bounds[-1])
    return Measured(levels, *(torch.stack(x, 1) for x in (values, bounds, inside)))


def convex_rows(count: int) -> Measured:
    whole = Sets.draw(count, 320, D, 1.0, seeded(0))
    return _minimizers([20, 40, 80, 160, 320], lambda n: (whole.first(int(n)), MU, 1.0))


def convex_lipschitz(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, seeded(1))
    return _minimizers([0.1, 0.2, 0.5, 1, 2], lambda scale: (sets, MU, scale))


def convex_curvature(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, seeded(2))
    return _minimizers([0.03, 0.1, 0.3, 1, 3], lambda mu: (sets, mu, 1.0))


def convex_steps(count: int) -> Measured:
    """Models of S from one start and of S without a row from another; with a gradient step of 1 / beta the bound has a second term."""
    sets, rng, mu, levels = Sets.draw(count, 40, D, 1.0, seeded(3)), seeded(4), 0.3, [1, 3, 10, 30]
    weights = sets.left_out(REMOVED)
    best = minimize(sets, weights, mu)
    start = torch.randn(best.shape, generator=rng)
    beta = torch.linalg.matrix_norm(sets.rows, ord=2).square() / (4 * 40) + mu
    at = descend(sets, weights, start, (1 / beta).view(-1, 1, 1), 30, tuple(levels), mu)
    away, apart = (start - best).norm(dim=-1), torch.stack([from_whole(at[t]) for t in levels], -1)
    shrink = torch.stack([(1 - mu / beta) ** t for t in levels], -1)
    bounds = 2 * sets.reach.view(-1, 1, 1) / (mu * 40) + shrink.unsqueeze(1) * (away[:, :1] + away[:, 1:]).unsqueeze(-1)
    return Measured([float(t) for t in levels], apart.mean(1), bounds.mean(1), (apart <= bounds).all(1))


# Head tuning as published: no penalty, gradient descent on separable features, directions w / |w| compared (spec, section 2.6).


def _direction(found: Tensor) -> Tensor:
    return F.normalize(found, dim=-1)


def _removed(sets: Sets, rate: float, marks: tuple[int, ...], heads: int = 1) -> dict[int, Tensor]:
    """Models with a row left out and the whole one, from one shared start, small as heads are; with several heads their mean is one."""
    start = 0.1 * torch.randn(len(sets.rows), 1, heads, D, generator=seeded(5)).expand(-1, 1 + REMOVED, -1, -1)
    weights = sets.left_out(REMOVED).repeat_interleave(heads, dim=1)
    return _mean_heads(descend(sets, weights, start.flatten(1, 2), rate, max(marks), marks), heads)


def _started(sets: Sets, rate: float, marks: tuple[int, ...], size: float = 1.0, heads: int = 1) -> dict[int, Tensor]:
    """The same set from different starts; with several heads the mean of so many is one model."""
    start = size * torch.randn(len(sets.rows), STARTS * heads, D, generator=seeded(6))
    return _mean_heads(descend(sets, sets.whole(STARTS * heads), start, rate, max(marks), marks), heads)


def _mean_heads(found: dict[int, Tensor], heads: int) -> dict[int, Tensor]:
    return {t: w.unflatten(1, (-1, heads)).mean(2) for t, w in found.items()}


STEPS = (10, 50, 200, 1000)
RATES = [0.02, 0.05, 0.1, 0.5, 1.0]
GAPS = [0.5, 1.0, 2.0, 4.0, 8.0]
HEADS = [1, 2, 5, 10, 20, 50]


def head_rows(count: int) -> Measured:
    whole, levels = Sets.draw(count, 160, D, 1.0, seeded(7)), [20, 40, 80, 160]
    found = [from_whole(_direction(_removed(whole.first(n), 0.5, (300,))[300])).mean(1) for n in levels]
    return Measured([float(n) for n in levels], torch.stack(found, 1))


def head_margin(count: int) -> Measured:
    worlds = [Sets.draw(count, 40, D, gap, seeded(8)) for gap in GAPS]
    return Measured(GAPS, torch.stack([from_whole(_direction(_removed(sets, 0.5, (300,))[300])).mean(1) for sets in worlds], 1))


def head_margin_seeds(count: int) -> Measured:
    worlds = [Sets.draw(count, 40, D, gap, seeded(8)) for gap in GAPS]
    return Measured(GAPS, torch.stack([pairs_apart(_direction(_started(sets, 0.5, (300,))[300])) for sets in worlds], 1))


def _over_steps(found: dict[int, Tensor], apart: Callable[[Tensor], Tensor]) -> Measured:
    return Measured([float(t) for t in STEPS], torch.stack([apart(found[t]) for t in STEPS], 1))


def head_steps(count: int) -> Measured:
    found = _removed(Sets.draw(count, 40, D, 1.0, seeded(9)), 0.5, STEPS)
    return _over_steps(found, lambda w: from_whole(_direction(w)).mean(1))


def head_steps_raw(count: int) -> Measured:
    return _over_steps(_removed(Sets.draw(count, 40, D, 1.0, seeded(9)), 0.5, STEPS), lambda w: from_whole(w).mean(1))


def head_steps_seeds(count: int) -> Measured:
    return _over_steps(_started(Sets.draw(count, 40, D, 1.0, seeded(9)), 0.5, STEPS), lambda w: pairs_apart(_direction(w)))


def head_rate_raw(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, seeded(10))
    return Measured(RATES, torch.stack([from_whole(_removed(sets, rate, (200,))[200]).mean(1) for rate in RATES], 1))


def head_rate_seeds(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, seeded(10))
    return Measured(RATES, torch.stack([pairs_apart(_direction(_started(sets, rate, (200,))[200])) for rate in RATES], 1))


def head_start(count: int) -> Measured:
    sets, levels = Sets.draw(count, 40, D, 1.0, seeded(11)), [0.1, 0.3, 1.0, 3.0]
    return Measured(levels, torch.stack([pairs_apart(_direction(_started(sets, 0.5, (200,), size)[200])) for size in levels], 1))


def head_heads(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, seeded(12))
    found = [pairs_apart(_direction(_started(sets, 0.5, (50,), heads=heads)[50])) for heads in HEADS]
    return Measured([float(x) for x in HEADS], torch.stack(found, 1))


def head_heads_removed(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, seeded(12))
    found = [from_whole(_direction(_removed(sets, 0.5, (50,), heads)[50])).mean(1) for heads in HEADS]
    return Measured([float(x) for x in HEADS], torch.stack(found, 1))
