"""Child-Tuning F: a random part of the gradient in each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights
from tempering.dropout import keep_mask
from tempering.streams import numpy_stream

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class ChildTuningF:
    """Keeps a random part of every gradient in each step, scaled up to make good for the rest: noise that keeps weights from rushing off.

    *Paper*: Xu et al. 2021 (Child-Tuning, task-free). *Formula*: g <- g * M / p, M ~ Bernoulli(p) for each number, drawn anew in each
    step, before Adam's moments; so E[g M / p] = g. All trained weights. p = 1 is plain training.
    *Needs*: nothing. *Costs*: no pass; one random number for each trained one a step.
    *Differs*: gradients are clipped after the mask, not before it, and weight decay, where it is set, acts on all weights as in the
    released code.
    """

    touches: ClassVar[tuple[str, ...]] = ("gradient", "after_step")
    p: float = Field(default=0.3, gt=0, le=1)

    @property
    def neutral(self) -> bool:
        """With p = 1 every gradient is kept."""
        return self.p == 1.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks that mask gradients; their state is the step, which keys the masks."""
        step = torch.zeros((), dtype=torch.int64)

        def gradient(name: str, grad: Tensor) -> Tensor:
            return keep_mask(grad.shape, 1.0 - self.p, numpy_stream(seed, int(step), name)).to(grad)

        def after_step(_: Weights) -> None:
            step.add_(1)

        def restore(state: Weights) -> None:
            step.copy_(state["step"])

        return Hooks(gradient=gradient, after_step=after_step, save=lambda: {"step": step.clone()}, restore=restore)
