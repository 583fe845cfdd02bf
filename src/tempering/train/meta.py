"""Model-agnostic meta-learning as sums over named tensors: it knows neither learners nor texts.

*Paper*: Finn, Abbeel, Levine 2017 (MAML, and its first-order form); after Gheini, Ma, May 2022, where what the inner loop moves are the
weights of a light tuning and its head, and what the outer loop moves is the body.
*Formula*: with phi the weights that the inner loop moves and theta all others,
phi_0 = phi; phi_{s+1} = phi_s - alpha grad_phi L_support(theta, phi_s), s = 0 .. K-1; the meta-gradient is that of
L_query(theta, phi_K) by the weights the outer loop moves. First order: phi_K is a constant (by a weight of phi itself, the gradient at
phi_K stands for that at phi). Exact: phi_K is a function of theta and phi, and the chain rule goes through all K steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tempering.contracts import Weights

Loss = Callable[[Weights], Tensor]


@dataclass(frozen=True)
class Inner:
    """The inner loop: ``steps`` steps of plain gradient descent of ``rate``; ``exact`` keeps how they came about."""

    steps: int
    rate: float
    exact: bool = False


class Episode(NamedTuple):
    """One task's share: meta-gradients by name, the query loss, and the weights the inner loop ended with (detached)."""

    gradients: Weights
    loss: float
    adapted: Weights


def adapt(support: Loss, start: Weights, inner: Inner) -> Weights:
    """phi_K from ``start`` = phi_0, whose tensors require gradient. A weight that the loss does not depend on stays."""
    weights = dict(start)
    for _ in range(inner.steps if inner.rate else 0):
        slopes = torch.autograd.grad(support(weights), list(weights.values()), create_graph=inner.exact, allow_unused=True)
        moved = {n: w if g is None else w - inner.rate * g for (n, w), g in zip(weights.items(), slopes, strict=True)}
        weights = moved if inner.exact else {n: w.detach().requires_grad_() for n, w in moved.items()}
    return weights


def episode(support: Loss, query: Loss, weights: Weights, moved: Collection[str], outer: Collection[str], inner: Inner) -> Episode:
    """The meta-gradient of one task. ``moved`` are the inner loop's weights, ``outer`` those whose gradient is wanted.

    ``weights`` are neither changed nor given a gradient: the losses are functions of leaves that share their memory.
    """
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    still = leaves if inner.exact else {name: weight.detach() for name, weight in weights.items()}
    adapted = adapt(lambda phi: support(still | phi), {name: leaves[name] for name in weights if name in moved}, inner)
    final = leaves | adapted
    loss = query(final)
    wanted = {name: leaves[name] if inner.exact else final[name] for name in weights if name in outer}
    slopes = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    gradients = {name: g.detach() for name, g in zip(wanted, slopes, strict=True) if g is not None}
    return Episode(gradients, float(loss.detach()), {name: weight.detach() for name, weight in adapted.items()})


@torch.no_grad()
def accumulate(total: Weights, gradients: Weights, share: float) -> None:
    """Add ``share`` of the ``gradients`` to ``total``, in place."""
    for name, gradient in gradients.items():
        if name in total:
            total[name].add_(gradient, alpha=share)
        else:
            total[name] = gradient * share
