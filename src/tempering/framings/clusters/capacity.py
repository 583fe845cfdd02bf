"""How many prototypes a class has: where they start, when one is added, which are dropped or merged. No gradients, a class at a time.

After Infinite Mixture Prototypes (Allen et al. 2019), whose code compares an example with the first prototype of its class only; here,
as in the paper's text, with all of them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_ROUNDS = 10  # of Lloyd's algorithm: a start, not a fit


def threshold(sigma: float, rho: float, dim: int, alpha: float) -> float:
    """lambda = -2 sigma log(alpha) + d sigma log(1 + rho / sigma): a squared distance beyond it asks for a new prototype."""
    return -2 * sigma * math.log(alpha) + dim * sigma * math.log1p(rho / sigma)


def spread(prototypes: Tensor) -> float:
    """rho: the (unbiased) variance across prototypes [K, dim], mean over dimensions; 0 for a single one."""
    return float(prototypes.var(0).mean()) if len(prototypes) > 1 else 0.0


def squared(rows: Tensor, prototypes: Tensor) -> Tensor:
    """Squared distances [rows, K] by differences: exact where two coincide."""
    return torch.stack([(rows - p).square().sum(-1) for p in prototypes], -1)


def centers(rows: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """``count`` centers of ``rows`` [n, dim] (fewer where fewer rows differ): k-means++ and a few rounds of Lloyd's algorithm."""
    found = rows.mean(0, keepdim=True)
    if count == 1:
        return found
    found = rows[int(rng.integers(len(rows)))].unsqueeze(0)
    while len(found) < count:
        chances = squared(rows, found).amin(-1).double().numpy()
        if chances.sum() <= 0:
            break
        found = torch.cat([found, rows[int(rng.choice(len(rows), p=chances / chances.sum()))].unsqueeze(0)])
    for _ in range(_ROUNDS):
        own = squared(rows, found).argmin(-1)
        found = torch.stack([rows[own == k].mean(0) for k in range(len(found)) if bool((own == k).any())])
    return found


def outliers(rows: Tensor, prototypes: Tensor, limit: float, room: int) -> list[int]:
    """Which of a class's ``rows``, seen in order, become prototypes: those farther than ``limit`` from all it has by then."""
    nearest = squared(rows, prototypes).amin(-1)
    found: list[int] = []
    while len(found) < room and bool((nearest > limit).any()):
        found.append(int((nearest > limit).int().argmax()))  # the first one
        nearest = torch.minimum(nearest, (rows - rows[found[-1]]).square().sum(-1))
    return found


def light(mass: Tensor, least: float) -> Tensor:
    """Which of a class's prototypes carry less than ``least``, [k]; never all of them: the heaviest stays."""
    drop = mass < least
    drop[int(mass.argmax())] = False
    return drop


def closest(prototypes: Tensor, least: float) -> tuple[int, int] | None:
    """The two closest of a class's prototypes [k, dim], if they are closer than ``least``."""
    if len(prototypes) < 2:
        return None
    apart = squared(prototypes, prototypes).fill_diagonal_(torch.inf)
    i, j = divmod(int(apart.argmin()), len(prototypes))
    return (min(i, j), max(i, j)) if math.sqrt(float(apart[i, j])) < least else None


def separation(rows: Tensor, targets: Tensor, quantile: float) -> float:
    """The ``quantile`` of the distances from each row to the nearest row of another class; 0 where there is one class only."""
    apart = torch.cdist(rows, rows).masked_fill(targets.unsqueeze(0) == targets.unsqueeze(1), torch.inf).amin(-1)
    known = apart[apart.isfinite()]
    return float(known.quantile(quantile)) if len(known) else 0.0
