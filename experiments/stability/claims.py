"""What the theory says, as measurements: every claim is a quantity of each synthetic set at several levels of what is varied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from judging import Measured
from torch import Tensor
from torch.nn import functional as F
from worlds import Net, Sets, Tuning, descend, from_whole, minimize, new_heads, pairs_apart, pretrained, tune

D = 16  # features of the linear world
REMOVED = 8  # rows left out of each set, one at a time
STARTS = 6  # models of each set where seeds are compared
MU = 0.1


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    whole = Sets.draw(count, 320, D, 1.0, _rng(0))
    return _minimizers([20, 40, 80, 160, 320], lambda n: (whole.first(int(n)), MU, 1.0))


def convex_lipschitz(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, _rng(1))
    return _minimizers([0.1, 0.2, 0.5, 1, 2], lambda scale: (sets, MU, scale))


def convex_curvature(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, _rng(2))
    return _minimizers([0.03, 0.1, 0.3, 1, 3], lambda mu: (sets, mu, 1.0))


def convex_steps(count: int) -> Measured:
    """Models of S from one start and of S without a row from another; with a gradient step of 1 / beta the bound has a second term."""
    sets, rng, mu, levels = Sets.draw(count, 40, D, 1.0, _rng(3)), _rng(4), 0.3, [1, 3, 10, 30]
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


def _removed(sets: Sets, rate: float, marks: tuple[int, ...], size: float = 0.1) -> dict[int, Tensor]:
    """Models with a row left out and the whole one, from one shared start, small as heads are."""
    start = size * torch.randn(len(sets.rows), 1, D, generator=_rng(5)).expand(-1, 1 + REMOVED, -1)
    return descend(sets, sets.left_out(REMOVED), start, rate, max(marks), marks)


def _started(sets: Sets, rate: float, marks: tuple[int, ...], size: float = 1.0, heads: int = 1) -> dict[int, Tensor]:
    """The same set from different starts; with several heads the mean of so many models is one."""
    start = size * torch.randn(len(sets.rows), STARTS * heads, D, generator=_rng(6))
    found = descend(sets, sets.whole(STARTS * heads), start, rate, max(marks), marks)
    return {t: w.view(len(w), STARTS, heads, D).mean(2) for t, w in found.items()}


STEPS = (10, 50, 200, 1000)
RATES = [0.02, 0.05, 0.1, 0.5, 1.0]


def head_rows(count: int) -> Measured:
    whole, levels = Sets.draw(count, 160, D, 1.0, _rng(7)), [20, 40, 80, 160]
    found = [from_whole(_direction(_removed(whole.first(n), 0.5, (300,))[300])).mean(1) for n in levels]
    return Measured([float(n) for n in levels], torch.stack(found, 1))


def head_margin(count: int) -> Measured:
    levels = [0.5, 1.0, 2.0, 4.0, 8.0]
    worlds = [Sets.draw(count, 40, D, gap, _rng(8)) for gap in levels]
    return Measured(levels, torch.stack([from_whole(_direction(_removed(sets, 0.5, (300,))[300])).mean(1) for sets in worlds], 1))


def _over_steps(found: dict[int, Tensor], apart: Callable[[Tensor], Tensor]) -> Measured:
    return Measured([float(t) for t in STEPS], torch.stack([apart(found[t]) for t in STEPS], 1))


def head_steps(count: int) -> Measured:
    found = _removed(Sets.draw(count, 40, D, 1.0, _rng(9)), 0.5, STEPS)
    return _over_steps(found, lambda w: from_whole(_direction(w)).mean(1))


def head_steps_raw(count: int) -> Measured:
    return _over_steps(_removed(Sets.draw(count, 40, D, 1.0, _rng(9)), 0.5, STEPS), lambda w: from_whole(w).mean(1))


def head_steps_seeds(count: int) -> Measured:
    return _over_steps(_started(Sets.draw(count, 40, D, 1.0, _rng(9)), 0.5, STEPS), lambda w: pairs_apart(_direction(w)))


def head_rate_raw(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, _rng(10))
    return Measured(RATES, torch.stack([from_whole(_removed(sets, rate, (200,))[200]).mean(1) for rate in RATES], 1))


def head_rate_seeds(count: int) -> Measured:
    sets = Sets.draw(count, 40, D, 1.0, _rng(10))
    return Measured(RATES, torch.stack([pairs_apart(_direction(_started(sets, rate, (200,))[200])) for rate in RATES], 1))


def head_start(count: int) -> Measured:
    sets, levels = Sets.draw(count, 40, D, 1.0, _rng(11)), [0.1, 0.3, 1.0, 3.0]
    return Measured(levels, torch.stack([pairs_apart(_direction(_started(sets, 0.5, (200,), size)[200])) for size in levels], 1))


def head_heads(count: int) -> Measured:
    sets, levels = Sets.draw(count, 40, D, 1.0, _rng(12)), [1, 2, 5, 10, 20, 50]
    found = [pairs_apart(_direction(_started(sets, 0.5, (50,), heads=heads)[50])) for heads in levels]
    return Measured([float(x) for x in levels], torch.stack(found, 1))


# Full fine-tuning: a pretrained network of tanh units, stochastic gradient descent, a target task turned by 45 degrees from the source.

WIDTH, NET_D, NET_GAP, NET_ROWS = 12, 8, 2.0, 48


@dataclass(frozen=True)
class _Target:
    """The pretrained networks, the target's rows, and rows to compare predictions on."""

    base: Net
    sets: Sets
    fresh_rows: Tensor

    @classmethod
    def draw(cls, count: int, n: int = NET_ROWS, seed: int = 20) -> _Target:
        rng = _rng(seed)
        base, axis = pretrained(count, WIDTH, NET_D, NET_GAP, rng, turn=0.785)
        sets = Sets.draw(count, n, NET_D, NET_GAP, rng, axis)
        return cls(base, sets, Sets.draw(count, 100, NET_D, NET_GAP, rng, axis).rows)

    def start(self, models: int, heads: int = 1, shared: bool = True, seed: int = 21, away: float = 0.0) -> Net:
        """The pretrained body with new heads, the same for all models if ``shared``; ``away`` moves the body in a drawn direction."""
        rng, (count, _, width, columns) = _rng(seed), self.base.body.shape
        head = new_heads(count, 1 if shared else models, heads, width, rng).expand(count, models, heads, width)
        move = torch.randn(count, 1 if shared else models, width, columns, generator=rng)
        body = self.base.body + away * move / move.flatten(2).norm(dim=-1)[..., None, None]
        return Net(body.expand(count, models, width, columns), head)

    def removal(self, how: Tuning, away: float = 0.0, sets: Sets | None = None) -> Tensor:
        """The mean distance [S] in all weights between the model of all rows and those with one left out: same start, same order."""
        sets = sets or self.sets
        found = tune(self.start(1 + REMOVED, away=away), sets, sets.left_out(REMOVED), how, seed=22)[how.steps]
        return from_whole(found.flat()).mean(1)

    def seeds(self, how: Tuning, heads: int = 1, away: float = 0.0, sets: Sets | None = None) -> Tensor:
        """The mean difference [S] of P(y = 1) on new rows between models whose heads (and body's move) and order are drawn anew."""
        sets = sets or self.sets
        net = self.start(STARTS, heads, shared=False, away=away)
        found = tune(net, sets, sets.whole(STARTS), _own_order(how), seed=23)[how.steps].chances(self.fresh_rows)
        gaps = [(found[:, i] - found[:, j]).abs().mean(-1) for i in range(STARTS) for j in range(i)]
        return torch.stack(gaps).mean(0)


def _own_order(how: Tuning) -> Tuning:
    return Tuning(how.rate, how.steps, how.batch, how.scale, how.mmr, shared=False)


def _levels(levels: list[float], of: Callable[[float], Tensor]) -> Measured:
    return Measured(levels, torch.stack([of(level) for level in levels], 1))


def full_rows(count: int) -> Measured:
    target = _Target.draw(count, 192)
    return _levels([24, 48, 96, 192], lambda n: target.removal(Tuning(), sets=target.sets.first(int(n))))


def full_rows_seeds(count: int) -> Measured:
    target = _Target.draw(count, 192)
    return _levels([24, 48, 96, 192], lambda n: target.seeds(Tuning(), sets=target.sets.first(int(n))))


def full_lipschitz(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([0.25, 0.5, 1.0, 2.0], lambda scale: target.removal(Tuning(scale=scale)))


def full_start(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([0.5, 1.0, 2.0, 4.0, 8.0], lambda away: target.removal(Tuning(), away))


def full_start_seeds(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([0.5, 1.0, 2.0, 4.0, 8.0], lambda away: target.seeds(Tuning(), away=away))


def full_steps(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([25, 50, 100, 200], lambda steps: target.removal(Tuning(steps=int(steps))))


def full_steps_seeds(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([25, 50, 100, 200], lambda steps: target.seeds(Tuning(steps=int(steps))))


def full_rate(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([0.02, 0.05, 0.1, 0.2], lambda rate: target.removal(Tuning(rate=rate)))


def full_heads(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([1, 2, 5, 10, 20], lambda heads: target.seeds(Tuning(), heads=int(heads)))


def full_mmr(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([0.03, 0.1, 0.3, 1.0, 3.0], lambda weight: target.seeds(Tuning(mmr=weight)))
