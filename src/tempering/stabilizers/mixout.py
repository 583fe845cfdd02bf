"""Mixout: dropout towards the pretrained weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tempering.contracts import Hooks, Weights
from tempering.dropout import keep_mask
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class Mixout:
    """Replaces a random part of the weights by their pretrained values in each pass, so that they stay near where they came from.

    *Paper*: Lee et al. 2020 (Mixout). *Formula*: w' = (M * w + (1 - M) * u - p * u) / (1 - p), u the value at the start of the stage,
    M ~ Bernoulli(1 - p), one draw an input column, shared by all outputs; so E[w'] = w. Biases, norms, embeddings and new weights
    are left alone.
    *Needs*: a tuning that trains pretrained weights in place. *Costs*: no pass; a copy of the mixed weights.
    *Differs*: the released code returns a gradient without the factor 1 / (1 - p); here the gradient is that of the formula, unless
    ``official_grad`` asks for theirs. The paper turns dropout off where mixout is on; here the model's own dropout stays as it is
    configured. p = 1, which would train none of these weights, is refused.
    """

    touches: ClassVar[tuple[str, ...]] = ("weights",)
    needs_pretrained: ClassVar[bool] = True
    needs_matrices: ClassVar[bool] = True
    p: float = Field(default=0.1, ge=0, lt=1)
    official_grad: bool = False

    @property
    def neutral(self) -> bool:
        """p = 0 changes nothing."""
        return self.p == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks that mix weights; the start values are kept and travel with checkpoints."""
        axes = {n: axis for n in trained if learner.pretrained(n) and (axis := _input_axis(learner, n)) is not None}
        if not axes:
            raise RecipeError(
                "mixout mixes the weights of linear maps with their pretrained values, and this tuning trains none of those;"
                " use tuning full or top_layers, or drop it"
            )
        start = {n: trained[n].detach().clone() for n in axes}

        def weights(now: Weights, rng: np.random.Generator) -> Weights:
            return now | {n: mix(now[n], start[n], self.p, rng, axis, self.official_grad) for n, axis in axes.items()}

        def restore(state: Weights) -> None:
            start.update({n: v.to(start[n].device) for n, v in state.items()})

        return Hooks(weights=weights, save=lambda: dict(start), restore=restore)


def mix(w: Tensor, u: Tensor, p: float, rng: np.random.Generator, axis: int = 1, official_grad: bool = False) -> Tensor:
    """Mixout of ``w`` with ``u``: each slice along the input ``axis`` is ``w``'s with probability 1 - p, and the mean is ``w``.

    The gradient by ``w`` is M / (1 - p), or M with ``official_grad``.
    """
    scaled = keep_mask(torch.Size([w.shape[axis]]), p, rng).to(w.device)  # M / (1 - p)
    scaled = scaled if axis == 1 else scaled[:, None]
    mixed = u + (w - u) * scaled
    return mixed.detach() + (w - w.detach()) * (scaled > 0) if official_grad else mixed


def _input_axis(learner: Learner, name: str) -> int | None:
    """The axis of a linear map's weight that runs over its inputs; None for what is not the weight of a linear map."""
    owner, _, leaf = name.rpartition(".")
    module = learner.get_submodule(owner)
    if leaf != "weight" or not isinstance(module, (nn.Linear, Conv1D)):
        return None
    return 1 if isinstance(module, nn.Linear) else 0
