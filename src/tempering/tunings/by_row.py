"""Maps of several tasks in one batch: every row of the input goes through its own task's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_by_row(weights: Sequence[Tensor], x: Tensor, owner: Tensor, biases: Sequence[Tensor] | None = None) -> Tensor:
    """``weights[owner[i]] x[i] + biases[owner[i]]`` for every row i: x [rows, ..., in] -> [rows, ..., out].

    A weight (out_t, in_t) smaller than the largest is filled up with zeros, so that its row has zeros where a larger one has values.
    """
    outputs, inputs = max(len(w) for w in weights), max(w.shape[1] for w in weights)
    maps = torch.stack([F.pad(w, (0, inputs - w.shape[1], 0, outputs - len(w))) for w in weights])[owner].mT
    rows = x.reshape(len(x), -1, inputs)
    if biases is None:
        return torch.bmm(rows, maps).view(*x.shape[:-1], outputs)
    shifts = torch.stack([F.pad(b, (0, outputs - len(b))) for b in biases])
    return torch.baddbmm(vectors_by_row(shifts, owner, 3), rows, maps).view(*x.shape[:-1], outputs)


def vectors_by_row(vectors: Tensor, owner: Tensor, dim: int) -> Tensor:
    """Vectors [tasks, d] and owners [rows] -> [rows, 1, .., d] of ``dim`` dimensions: row i has the vector of its owner."""
    return vectors[owner].view(len(owner), *(1,) * (dim - 2), -1)
