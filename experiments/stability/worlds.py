"""Synthetic classification, many sets at once: a linear head on fixed features, and a small network that is tuned whole.

All sets of an experiment have one shape, so that every step of training is one batched product over sets and models. Shapes: S sets, K
models a set, n rows, d features, w units, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

torch.set_default_dtype(torch.float64)

REMOVED = 8  # rows left out of each set, one at a time
STARTS = 6  # models of each set where seeds are compared


def seeded(seed: int) -> torch.Generator:
    """Random numbers that are the same every time."""
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Sets:
    """``rows`` [S, n, d] of two classes ``signs`` [S, n] (-1, 1), whose means lie ``gap`` apart along a direction of the set's own."""

    rows: Tensor
    signs: Tensor

    @classmethod
    def draw(cls, sets: int, n: int, d: int, gap: float, rng: torch.Generator, direction: Tensor | None = None) -> Sets:
        """Half of the rows of each class, noise N(0, 1) in every feature; ``direction`` [S, d], else the first feature."""
        signs = torch.ones(sets, n)
        signs[:, n // 2 :] = -1.0
        if direction is None:
            direction = F.one_hot(torch.zeros(sets, dtype=torch.int64), d).to(torch.get_default_dtype())
        rows = torch.randn(sets, n, d, generator=rng) + gap / 2 * signs.unsqueeze(-1) * direction.unsqueeze(1)
        return cls(rows, signs)

    def first(self, n: int) -> Sets:
        """``n`` of the rows, half of each class: smaller sets lie inside larger ones."""
        half = self.signs.shape[1] // 2
        chosen = torch.cat([torch.arange(n // 2), half + torch.arange(n - n // 2)])
        return Sets(self.rows[:, chosen], self.signs[:, chosen])

    def left_out(self, models: int) -> Tensor:
        """Row weights [S, 1 + models, n]: 1 / n each, then with one row left out in every model; the divisor stays n."""
        sets, n = self.signs.shape
        weights = torch.full((sets, 1 + models, n), 1.0 / n)
        for k in range(models):
            weights[:, 1 + k, k * (n // models)] = 0.0
        return weights

    def whole(self, models: int) -> Tensor:
        """The same with nothing left out: [S, models, n]."""
        sets, n = self.signs.shape
        return torch.full((sets, models, n), 1.0 / n)

    @property
    def reach(self) -> Tensor:
        """The Lipschitz constant of the logistic loss in the weights of a linear head: the longest row [S]."""
        return self.rows.norm(dim=-1).amax(-1)


def minimize(sets: Sets, weights: Tensor, mu: float, scale: float = 1.0) -> Tensor:
    """The minimizer [S, K, d] of scale sum_i weights_i log(1 + exp(-y_i w x_i)) + mu / 2 |w|^2, by Newton's method."""
    count, models, _ = weights.shape
    d = sets.rows.shape[-1]
    found, signed = torch.zeros(count, models, d), sets.rows * sets.signs.unsqueeze(-1)
    for _ in range(100):
        chance = torch.sigmoid(-torch.einsum("snd,skd->skn", signed, found))
        gradient = mu * found - scale * torch.einsum("skn,snd->skd", weights * chance, signed)
        bend = scale * weights * chance * (1 - chance)
        hessian = torch.einsum("skn,snd,sne->skde", bend, sets.rows, sets.rows) + mu * torch.eye(d)
        move = torch.linalg.solve(hessian, gradient)
        found = found - move / move.norm(dim=-1, keepdim=True).clamp(min=1.0)  # no step longer than 1
        if float(gradient.norm(dim=-1).max()) < 1e-12:
            break
    return found


def descend(
    sets: Sets,
    weights: Tensor,
    start: Tensor,
    rate: Tensor | float,
    steps: int,
    marks: tuple[int, ...],
    mu: float = 0.0,
    scale: float = 1.0,
) -> dict[int, Tensor]:
    """Gradient descent from ``start`` [S, K, d]: the weights [S, K, d] after each of ``marks``. ``rate`` may be one a set [S, 1, 1]."""
    found, signed, at = start.clone(), sets.rows * sets.signs.unsqueeze(-1), {}
    turned = signed.transpose(1, 2).contiguous()
    for step in range(1, steps + 1):
        chance = torch.sigmoid(-(found @ turned))
        found = found - rate * (mu * found - scale * ((weights * chance) @ signed))
        if step in marks:
            at[step] = found.clone()
    return at


@dataclass(frozen=True)
class Net:
    """One hidden layer of tanh units: ``body`` [S, K, w, d + 1] (the last column is the bias) and ``heads`` [S, K, H, w]."""

    body: Tensor
    heads: Tensor

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [S, n, d] -> logits [S, K, H, n] and features [S, K, n, w]."""
        ones = torch.ones(*rows.shape[:-1], 1)
        features = torch.tanh(torch.cat([rows, ones], -1).unsqueeze(1) @ self.body.transpose(-1, -2))
        return self.heads @ features.transpose(-1, -2), features

    def flat(self) -> Tensor:
        """All weights of each model, heads averaged: [S, K, everything]."""
        return torch.cat([self.body.flatten(2), self.heads.mean(2)], -1)

    def chances(self, rows: Tensor) -> Tensor:
        """P(y = 1) of each model with its heads averaged: [S, K, n]."""
        return torch.sigmoid(self(rows)[0].mean(2))


@dataclass(frozen=True)
class Tuning:
    """How a network is tuned: plain stochastic gradient descent on rows drawn with the ``order`` generator's seed, ``batch`` a step.

    ``scale`` multiplies the loss (its Lipschitz constant), ``mmr`` weighs 1 / (1 + distance of the class means of the features).
    ``shared`` draws the same rows for all models of a set: what differs is then the data or the start alone.
    """

    rate: float = 0.1
    steps: int = 100
    batch: int = 16
    scale: float = 1.0
    mmr: float = 0.0
    shared: bool = True


def tune(net: Net, sets: Sets, weights: Tensor, how: Tuning, seed: int, marks: tuple[int, ...] = ()) -> dict[int, Net]:
    """The networks after each of ``marks`` (by default after the last step). A head keeps its own rate: the loss is summed over heads."""
    rng = seeded(seed)
    (count, models), n = net.body.shape[:2], sets.signs.shape[1]
    marks, found = marks or (how.steps,), {}
    for step in range(1, max(marks) + 1):
        drawn = torch.randint(0, n, (count, 1 if how.shared else models, how.batch), generator=rng).expand(count, models, -1)
        net = _step(net, sets, weights, how, drawn)
        if step in marks:
            found[step] = net
    return found


def _step(net: Net, sets: Sets, weights: Tensor, how: Tuning, drawn: Tensor) -> Net:
    """One step, gradients written out: of the mean over drawn rows of the logistic loss, and of the margin's term over all rows."""
    count, models, batch = drawn.shape
    n, d = sets.rows.shape[1:]
    picked = sets.rows.unsqueeze(1).expand(-1, models, -1, -1).gather(2, drawn.unsqueeze(-1).expand(-1, -1, -1, d))
    signs = sets.signs.unsqueeze(1).expand(-1, models, -1).gather(2, drawn)
    share = weights.gather(2, drawn) * n / batch * how.scale
    inputs = torch.cat([picked, torch.ones(count, models, batch, 1)], -1)
    features = torch.tanh(inputs @ net.body.transpose(-1, -2))
    logits = net.heads @ features.transpose(-1, -2)
    slope = -(share * signs).unsqueeze(2) * torch.sigmoid(-signs.unsqueeze(2) * logits)
    heads = slope @ features
    into = slope.transpose(-1, -2) @ net.heads / net.heads.shape[2]  # the body sees the mean over heads
    if how.mmr:
        into = into + how.mmr * _margin_slope(features, signs)
    body = (into * (1 - features.square())).transpose(-1, -2) @ inputs
    return replace(net, body=net.body - how.rate * body, heads=net.heads - how.rate * heads)


def _margin_slope(features: Tensor, signs: Tensor) -> Tensor:
    """The gradient [S, K, batch, w] of R = 1 / (1 + |m_+ - m_-|) in the features; 0 where a class is not in the batch."""
    plus, minus = (signs > 0).to(features), (signs < 0).to(features)
    side = plus / plus.sum(-1, keepdim=True).clamp(min=1) - minus / minus.sum(-1, keepdim=True).clamp(min=1)
    both = ((plus.sum(-1) > 0) & (minus.sum(-1) > 0)).to(features)
    apart = (side.unsqueeze(-1) * features).sum(2)
    length = apart.norm(dim=-1).clamp(min=1e-9)
    pull = -(both / ((1 + length) ** 2 * length)).unsqueeze(-1) * apart
    return side.unsqueeze(-1) * pull.unsqueeze(2)


def pretrained(sets: int, width: int, d: int, gap: float, rng: torch.Generator, turn: float) -> tuple[Net, Tensor]:
    """One network a set, trained on 400 rows of a source task; and the target's direction [S, d], ``turn`` radians off the source's."""
    axis = F.normalize(torch.randn(sets, d, generator=rng), dim=-1)
    other = torch.randn(sets, d, generator=rng)
    other = F.normalize(other - (other * axis).sum(-1, keepdim=True) * axis, dim=-1)
    source = Sets.draw(sets, 400, d, gap, rng, axis)
    net = fresh(sets, 1, 1, width, d, rng)
    trained = tune(net, source, source.whole(1), Tuning(rate=0.2, steps=400, batch=32), seed=1)[400]
    return trained, torch.cos(torch.tensor(turn)) * axis + torch.sin(torch.tensor(turn)) * other


def fresh(sets: int, models: int, heads: int, width: int, d: int, rng: torch.Generator, scale: float = 1.0) -> Net:
    """Networks with drawn weights."""
    body = torch.randn(sets, models, width, d + 1, generator=rng) / d**0.5
    return Net(body, new_heads(sets, models, heads, width, rng, scale))


def new_heads(sets: int, models: int, heads: int, width: int, rng: torch.Generator, scale: float = 1.0) -> Tensor:
    """Drawn heads [S, models, heads, width]."""
    return scale * torch.randn(sets, models, heads, width, generator=rng) / width**0.5


def pairs_apart(found: Tensor) -> Tensor:
    """The mean distance [S] between all pairs of models, of whatever the last axis of ``found`` [S, K, ...] holds."""
    models = found.shape[1]
    gaps = [(found[:, i] - found[:, j]).norm(dim=-1) for i in range(models) for j in range(i)]
    return torch.stack(gaps).mean(0)


def from_whole(found: Tensor) -> Tensor:
    """The distance [S, K - 1] of every model with a row left out to the first, trained on all rows."""
    return (found[:, 1:] - found[:, :1]).norm(dim=-1)
