"""How far two score slabs of the same rows lie apart: the measures the consistency methods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.contracts import Slab


def symmetric(a: Slab, b: Slab) -> Tensor:
    """Half the sum of both Kullback-Leibler divergences, averaged over rows and heads.

    Classes: of the two softmax distributions. Multi-label: of the Bernoulli distribution of each label, summed over labels.
    Values: the squared difference.
    """
    return both_ways(a, b) if a.kind == "regression" else 0.5 * both_ways(a, b)


def both_ways(a: Slab, b: Slab) -> Tensor:
    """The sum of both Kullback-Leibler divergences, averaged over rows and heads.

    Values: the squared difference, which is that sum for normal distributions of variance one.
    """
    if a.kind == "regression":
        return F.mse_loss(a.logits, b.logits)
    p, q = _log(a), _log(b)
    jeffreys = ((p.exp() - q.exp()) * (p - q)).sum(-1)  # KL(p||q) + KL(q||p) in one expression
    if a.kind == "multilabel":
        jeffreys = jeffreys.sum(-1)
    return jeffreys.mean()


def _log(slab: Slab) -> Tensor:
    """Log probabilities [heads, rows, classes], or [heads, rows, labels, 2]."""
    if slab.kind == "multilabel":
        return torch.stack([F.logsigmoid(slab.logits), F.logsigmoid(-slab.logits)], -1)
    return slab.logits.log_softmax(-1)
