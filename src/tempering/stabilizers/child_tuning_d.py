"""Child-Tuning D: only the weights that matter to the task, by Fisher information."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Probe, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class ChildTuningD:
    """Trains, of all numbers in the blocks, the part ``p`` that the task's own gradients ask for most, chosen once before training.

    *Paper*: Xu et al. 2021 (Child-Tuning, task-driven). *Formula*: F = mean over batches of g^2 at the start weights, g the gradient of
    the loss by each weight, cut to norm ``clip``; the round(p n) largest of all n numbers of trained pretrained weights in the blocks
    keep their gradient, the others' is 0 in every step. Embeddings, pooler and head are not masked.
    *Needs*: a tuning that trains pretrained weights in place, of a family whose blocks are known. *Costs*: no pass while training; one
    pass forward and back over all rows before it, a byte for each masked number.
    *Differs*: the gradients are taken without dropout, the released code keeps it on. As there, weight decay, where it is set, still
    moves what is masked.
    """

    touches: ClassVar[tuple[str, ...]] = ("gradient",)
    needs_pretrained: ClassVar[bool] = True
    does: ClassVar[str] = "chooses among trained pretrained weights"
    p: float = Field(default=0.3, gt=0, le=1)
    batch_size: int = Field(default=16, ge=1)
    clip: float = Field(default=1.0, gt=0)

    @property
    def neutral(self) -> bool:
        """With p = 1 every weight is chosen."""
        return self.p == 1.0

    def prepare(self, learner: Learner, probe: Probe) -> Weights:
        """The masks, by weight: 1 where a number is trained."""
        chosen = _in_blocks(learner, learner.trained())
        fisher = {name: torch.zeros_like(weight, device="cpu") for name, weight in chosen.items()}
        for gradients in probe.gradients(batch_size=self.batch_size):
            for name, total in fisher.items():
                if name in gradients:
                    total += clipped(gradients[name], self.clip).square().cpu()
        return largest(fisher, self.p)

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks that mask gradients by what `prepare` chose; until its masks are put in, everything is trained."""
        learner.backbone.layout.require("child_tuning_d", "blocks")
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in _in_blocks(learner, trained).items()}

        def gradient(name: str, grad: Tensor) -> Tensor | float:
            return masks[name].to(grad.dtype) if name in masks else 1.0

        def restore(state: Weights) -> None:
            masks.update({name: mask.to(masks[name].device) for name, mask in state.items()})

        return Hooks(gradient=gradient, save=lambda: dict(masks), restore=restore)


def clipped(gradient: Tensor, limit: float) -> Tensor:
    """``gradient`` scaled to a norm of at most ``limit``, as torch's own clipping does it."""
    return gradient * min(1.0, limit / (float(gradient.norm()) + 1e-6))


def largest(scores: Weights, share: float) -> Weights:
    """Masks of the round(share n) largest of all n numbers, at least one; of equal ones at the border those that come first."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.argsort(descending=True, stable=True)[: max(1, round(share * len(flat)))]] = True
    parts = kept.split([score.numel() for score in scores.values()])
    return {name: part.view(scores[name].shape).clone() for name, part in zip(scores, parts, strict=True)}


def _in_blocks(learner: Learner, trained: Weights) -> Weights:
    return {n: w for n, w in trained.items() if learner.pretrained(n) and 1 <= learner.depth(n) < learner.backbone.top}
