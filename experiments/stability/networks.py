"""Small networks tuned whole: a quantity of each synthetic set at several levels of what is varied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from judging import Measured
from torch import Tensor
from worlds import REMOVED, STARTS, Net, Sets, Tuning, from_whole, new_heads, pretrained, seeded, tune

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
        rng = seeded(seed)
        base, axis = pretrained(count, WIDTH, NET_D, NET_GAP, rng, turn=0.785)
        sets = Sets.draw(count, n, NET_D, NET_GAP, rng, axis)
        return cls(base, sets, Sets.draw(count, 100, NET_D, NET_GAP, rng, axis).rows)

    def start(self, models: int, heads: int = 1, shared: bool = True, seed: int = 21, away: float = 0.0) -> Net:
        """The pretrained body with new heads, the same for all models if ``shared``; ``away`` moves the body in a drawn direction.

        The move is the set's own and the same for all its models: starts that differ would grow apart with it, and what is asked is
        whether the same new heads and orders matter more from farther away.
        """
        rng, (count, _, width, columns) = seeded(seed), self.base.body.shape
        head = new_heads(count, 1 if shared else models, heads, width, rng).expand(count, models, heads, width)
        move = torch.randn(count, 1, width, columns, generator=rng)
        body = self.base.body + away * move / move.flatten(2).norm(dim=-1)[..., None, None]
        return Net(body.expand(count, models, width, columns), head)

    def removal(self, how: Tuning, away: float = 0.0, sets: Sets | None = None) -> Tensor:
        """The mean distance [S] in all weights between the model of all rows and those with one left out: same start, same order."""
        sets = sets or self.sets
        found = tune(self.start(1 + REMOVED, away=away), sets, sets.left_out(REMOVED), how, seed=22)[how.steps]
        return from_whole(found.flat()).mean(1)

    def seeds(self, how: Tuning, heads: int = 1, away: float = 0.0, sets: Sets | None = None) -> Tensor:
        """The mean difference [S] of P(y = 1) on new rows between models whose heads and order are drawn anew."""
        sets = sets or self.sets
        net = self.start(STARTS, heads, shared=False, away=away)
        found = tune(net, sets, sets.whole(STARTS), replace(how, shared=False), seed=23)[how.steps].chances(self.fresh_rows)
        gaps = [(found[:, i] - found[:, j]).abs().mean(-1) for i in range(STARTS) for j in range(i)]
        return torch.stack(gaps).mean(0)


Measure = Callable[[int], Measured]  # of so many sets


def _levels(levels: list[float], of: Callable[[float], Tensor]) -> Measured:
    return Measured(levels, torch.stack([of(level) for level in levels], 1))


def full_rows(count: int) -> Measured:
    target = _Target.draw(count, 192)
    return _levels([24, 48, 96, 192], lambda n: target.removal(Tuning(), sets=target.sets.first(int(n))))


def full_rows_seeds(count: int) -> Measured:
    target = _Target.draw(count, 192)
    return _levels([24, 48, 96, 192], lambda n: target.seeds(Tuning(), sets=target.sets.first(int(n))))


def _both(levels: list[float], tuning: Callable[[float], Tuning]) -> tuple[Measure, Measure]:
    """Both quantities, where a row is left out and between seeds, over ``levels`` of what ``tuning`` makes of them."""

    def removal(count: int) -> Measured:
        target = _Target.draw(count)
        return _levels(levels, lambda level: target.removal(tuning(level)))

    def seeds(count: int) -> Measured:
        target = _Target.draw(count)
        return _levels(levels, lambda level: target.seeds(tuning(level)))

    return removal, seeds


full_lipschitz, full_lipschitz_seeds = _both([0.25, 0.5, 1.0, 2.0], lambda scale: Tuning(scale=scale))
full_steps, full_steps_seeds = _both([25, 50, 100, 200], lambda steps: Tuning(steps=int(steps)))
full_rate, full_rate_seeds = _both([0.02, 0.05, 0.1, 0.2], lambda rate: Tuning(rate=rate))


def full_start(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([0.5, 1.0, 2.0, 4.0, 8.0], lambda away: target.removal(Tuning(), away))


def full_start_seeds(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([0.5, 1.0, 2.0, 4.0, 8.0], lambda away: target.seeds(Tuning(), away=away))


def full_heads(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([1, 2, 5, 10, 20], lambda heads: target.seeds(Tuning(), heads=int(heads)))


def full_mmr(count: int) -> Measured:
    target = _Target.draw(count)
    return _levels([0.03, 0.1, 0.3, 1.0, 3.0], lambda weight: target.seeds(Tuning(mmr=weight)))
