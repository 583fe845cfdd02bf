"""The four principles over all classes: where prototypes start, and how a refresh adds, drops and merges them. In main memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tempering.framings.clusters.capacity import centers, closest, light, outliers, separation, spread, threshold
from tempering.framings.clusters.mixture import nearness

if TYPE_CHECKING:
    from tempering.framings.prototypes import Prototypes

_SEVERAL = 20  # rows of a class from which on it starts with several prototypes
_PART = 4096  # rows whose distances are held at once
_COMPARED = 2048  # rows among which the nearest of another class is looked for


@dataclass
class State:
    """Prototypes ``points`` [classes, slots, dim] of which ``active`` [classes, slots] are in use, and what a refresh changed of them."""

    points: Tensor
    active: Tensor
    sigma: float
    d_min: float
    changes: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, points: Tensor, active: Tensor, sigma: float, d_min: float) -> State:
        """A copy of what a module holds."""
        return cls(points.detach().cpu().clone(), active.cpu().clone(), sigma, d_min)

    def mine(self, label: int) -> Tensor:
        """The prototypes of one class [k, dim]."""
        return self.points[label][self.active[label]]

    def room(self, label: int) -> int:
        """Free slots of one class."""
        return int((~self.active[label]).sum())

    def add(self, label: int, points: Tensor) -> None:
        """Put ``points`` [k, dim] into the first free slots of a class."""
        free = (~self.active[label]).nonzero()[: len(points), 0]
        self.points[label, free] = points
        self.active[label, free] = True


def place(state: State, rows: Tensor, targets: Tensor, rng: np.random.Generator, settings: Prototypes) -> None:
    """Mixture initialization from embedded ``rows`` [n, dim] of every class that has any; sigma such that D / (2 sigma) is ``d_eff``."""
    state.points.zero_()
    state.active.zero_()
    for label in present(targets):
        mine = rows[targets == label]
        several = min(settings.initial, settings.slots) if len(mine) >= _SEVERAL else 1
        state.add(label, centers(mine, several, rng))
    state.sigma = mean_distance(rows, state.points[state.active]) / (2 * settings.d_eff) or 1.0
    _set_apart(state, rows, targets, rng, settings)


def grow(state: State, rows: Tensor, targets: Tensor, rng: np.random.Generator, settings: Prototypes) -> None:
    """Creation, simplification and the least distance, from all training rows [n, dim] as they are embedded now."""
    before = int(state.active.sum())
    if settings.create:
        limit = threshold(state.sigma, spread(state.points[state.active]), rows.shape[-1], settings.alpha)
        order = torch.from_numpy(rng.permutation(len(rows)))
        for label in present(targets):
            mine = rows[order][targets[order] == label]
            state.add(label, mine[outliers(mine, state.mine(label), limit, state.room(label))])
    created = int(state.active.sum()) - before
    if settings.simplify:
        simplify(state, rows, targets, settings.min_mass)
    state.changes = {"created": float(created), "removed": float(before + created - int(state.active.sum()))}
    _set_apart(state, rows, targets, rng, settings)


def simplify(state: State, rows: Tensor, targets: Tensor, min_mass: float) -> None:
    """Drop the prototypes with less than ``min_mass`` / K of the rows' weights, then merge those of a class closer than d_min.

    A class without rows here stays as it is, and the last prototype of a class always stays.
    """
    mass = masses(state, rows, targets)
    least = min_mass / max(1, int(state.active.sum()))
    for label in present(targets):
        slots = state.active[label].nonzero()[:, 0]
        state.active[label, slots[light(mass[label, slots], least)]] = False
        while pair := closest(state.mine(label), state.d_min):
            slots = state.active[label].nonzero()[:, 0]
            _merge(state.points[label], state.active[label], mass[label], int(slots[pair[0]]), int(slots[pair[1]]))


def _merge(points: Tensor, active: Tensor, mass: Tensor, i: int, j: int) -> None:
    """Two prototypes of a class become their mean by mass, in the slot of the heavier."""
    keep, drop = (i, j) if mass[i] >= mass[j] else (j, i)
    total = mass[i] + mass[j]
    share = mass[drop] / total if total > 0 else 0.5
    points[keep] = points[keep] + share * (points[drop] - points[keep])
    mass[keep], active[drop] = total, False


def masses(state: State, rows: Tensor, targets: Tensor) -> Tensor:
    """[classes, slots]: the sum of P(p_k | x) over the rows of the prototype's own class, divided by the number of all rows."""
    mass, log_sigma = torch.zeros_like(state.active, dtype=rows.dtype), torch.tensor(math.log(state.sigma), dtype=rows.dtype)
    for part, own in zip(rows.split(_PART), targets.split(_PART), strict=True):
        near = nearness(part, state.points, state.active, log_sigma)
        weights = near.flatten(1).softmax(-1).view_as(near)
        mass.index_add_(0, own, weights[torch.arange(len(own)), own])
    return mass / len(rows)


def mean_distance(rows: Tensor, points: Tensor) -> float:
    """Mean of |h - p|^2 over all pairs, from means and variances."""
    inside = sum(float((x - x.mean(0)).square().sum(-1).mean()) for x in (rows, points))
    return inside + float((rows.mean(0) - points.mean(0)).square().sum())


def present(targets: Tensor) -> list[int]:
    """The classes that have rows, in order."""
    return targets.unique().tolist()  # type: ignore[no-any-return]


def sampled(targets: Tensor, most: int, rng: np.random.Generator) -> list[int]:
    """At most ``most`` rows of every class, drawn at random, in order."""
    order = torch.from_numpy(rng.permutation(len(targets)))
    return sorted(i for label in present(targets) for i in order[targets[order] == label][:most].tolist())


def _set_apart(state: State, rows: Tensor, targets: Tensor, rng: np.random.Generator, settings: Prototypes) -> None:
    """d_min follows the data, and never falls."""
    if settings.simplify or settings.diversity:
        chosen = torch.from_numpy(np.sort(rng.permutation(len(rows))[:_COMPARED]))
        state.d_min = max(state.d_min, separation(rows[chosen], targets[chosen], settings.quantile))
