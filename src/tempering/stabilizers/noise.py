"""Noise of the shape of a tensor from a keyed stream, which tokens are real, and a perturbation that moves from pass to pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Batch


def uniform(x: Tensor, rng: np.random.Generator) -> Tensor:
    """U(-1, 1) of the shape, type and place of ``x``."""
    return torch.from_numpy(rng.random(tuple(x.shape), np.float32)).to(x).mul_(2).sub_(1)


def normal(x: Tensor, rng: np.random.Generator) -> Tensor:
    """N(0, 1) of the shape, type and place of ``x``."""
    return torch.from_numpy(rng.standard_normal(tuple(x.shape), np.float32)).to(x)


def real_tokens(batch: Batch, x: Tensor) -> Tensor:
    """Ones for real tokens and zeros for padding, [rows, length, 1] for ``x`` [rows, length, dim]; what stands before a text is real."""
    mask = batch.extra.get("read", batch.inputs.get("attention_mask"))  # a framing may have the body read more than its inputs
    if mask is None:
        return x.new_ones(*x.shape[:2], 1)
    return torch.nn.functional.pad(mask.to(x.dtype), (x.shape[1] - mask.shape[1], 0), value=1.0).unsqueeze(-1)


class Shift:
    """A perturbation added to embeddings [rows, length, dim]. ``draw`` makes it when the first pass shows them; ``delta`` is it."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        self._draw = draw
        self._delta: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` shifted."""
        if self._delta is None:
            self._delta = self._draw(x.detach()).requires_grad_()
        return x + self._delta

    @property
    def delta(self) -> Tensor:
        """The perturbation as it stands."""
        assert self._delta is not None  # a pass has been made
        return self._delta

    def move(self, to: Tensor, last: bool) -> None:
        """Put the perturbation at ``to``. The ``last`` one needs no gradient of its own."""
        self._delta = to.detach().requires_grad_(not last)
