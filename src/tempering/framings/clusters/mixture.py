"""A mixture of prototypes as a classifier: how near a text is to each, and what that says about its class. All of it has gradients.

Prototypes stand in slots, [classes, slots, dim], with a mask [classes, slots] of those in use. Log space throughout, so that a tiny
scale leaves everything finite.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Readout = Literal["mixture", "nearest"]
UNUSED = -1e30  # nearness of a slot that is not in use: nothing, and finite, so that its gradient is a clean zero
ABSENT = -30.0  # log-probability of a class without prototypes: it had no training row


def nearness(rows: Tensor, prototypes: Tensor, active: Tensor, log_sigma: Tensor) -> Tensor:
    """-D / (2 sigma) for D = |h - p|^2, up to a summand that is the same for all prototypes of a row: [rows, classes, slots].

    |h|^2 / (2 sigma) is that summand, and what is left is linear in h. The origin is moved to the mean prototype first: that changes
    no difference of distances, and keeps the digits that a common offset of all texts would eat.
    """
    weight = active.unsqueeze(-1).to(prototypes.dtype)
    origin = ((prototypes * weight).sum((0, 1)) / weight.sum()).detach()
    moved = (prototypes - origin).flatten(0, 1)
    linear = (rows - origin) @ moved.T - moved.square().sum(-1) / 2
    return (linear * torch.exp(-log_sigma)).view(-1, *active.shape).masked_fill(~active, UNUSED)


def log_chances(near: Tensor, active: Tensor, readout: Readout = "mixture", soft: Tensor | None = None) -> Tensor:
    """log P(y | x) = log sum_k P(p_k | x) P(y | p_k), [rows, classes], from the `nearness` of all slots.

    Without ``soft`` a prototype speaks for its own class alone, and the sum is one over the class's slots; ``nearest`` lets the
    nearest of them speak alone. ``soft`` [classes, slots, classes] are the logits of every prototype's label vector.
    """
    if soft is not None:
        weights = near.flatten(1).log_softmax(-1)
        return torch.logsumexp(weights.unsqueeze(-1) + soft.log_softmax(-1).flatten(0, 1), 1)
    each = near.logsumexp(-1) if readout == "mixture" else near.amax(-1)
    return each.log_softmax(-1).masked_fill(~active.any(-1), ABSENT)


def crowding(prototypes: Tensor, active: Tensor, least: Tensor) -> Tensor:
    """2 / (K (K - 1)) sum over pairs of max(0, least - |p_i - p_j|)^2: what prototypes closer than ``least`` cost."""
    chosen = prototypes[active]
    if len(chosen) < 2:
        return chosen.sum() * 0.0
    return (least - F.pdist(chosen)).clamp(min=0).square().mean()


def stray(rows: Tensor, targets: Tensor, prototypes: Tensor, active: Tensor) -> Tensor:
    """Squared distance of each row to the nearest prototype of its own class, [rows]; zero where the class has none."""
    apart = (rows.unsqueeze(1) - prototypes[targets]).square().sum(-1)
    nearest = apart.masked_fill(~active[targets], torch.inf).amin(-1)
    return torch.where(active[targets].any(-1), nearest, torch.zeros_like(nearest))
