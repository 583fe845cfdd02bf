"""R4F: R3F, and a head whose weight has spectral norm one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights
from tempering.errors import RecipeError
from tempering.stabilizers.r3f import NoiseKind, consistency

if TYPE_CHECKING:
    from tempering.learner import Learner

_HEADS = ("framing.final.weight", "framing.readout.final.weight")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class R4F:
    """Adds R3F's agreement under noise, and keeps the head's last linear map at spectral norm one in every pass.

    *Paper*: Aghajanyan et al. 2020 (R4F). *Formula*: R3F's loss with logits = h (W / sigma(W))^T + b, W [classes, dim], sigma its
    largest singular value, for each head on its own. What is evaluated and saved is W / sigma(W).
    *Needs*: framing head, or one of those over words. *Costs*: one more training pass, a singular value decomposition of each W a pass.
    *Differs*: the released code follows sigma by one power iteration a pass; here it is exact. Dropout and kinds of task as in R3F;
    weight 0 turns the whole method off, the norm with it.
    """

    touches: ClassVar[tuple[str, ...]] = ("term", "weights", "final")
    students: ClassVar[int] = 1
    perturbations: ClassVar[int] = 1
    needs_labels: ClassVar[bool] = True
    weight: float = Field(default=1.0, ge=0)
    eps: float = Field(default=1e-5, gt=0)
    noise: NoiseKind = "uniform"
    shared_dropout: bool = False

    @property
    def neutral(self) -> bool:
        """Weight 0 turns it off."""
        return self.weight == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with the term and the head's weight as every pass, and the final model, has it; no state."""
        head = next((name for name in _HEADS if name in trained), None)
        if head is None:
            raise RecipeError("r4f divides the weight of a trained head by its spectral norm, and this framing has none; use r3f")
        heads = int(getattr(learner.framing, "heads", 1))

        def weights(now: Weights, rng: np.random.Generator) -> Weights:
            return now | {head: normalized(now[head], heads)}

        def final() -> Weights:
            return {head: normalized(trained[head].detach(), heads)}

        return Hooks(term=consistency("r4f", self.weight, self.eps, self.noise, self.shared_dropout), weights=weights, final=final)


def normalized(weight: Tensor, heads: int = 1) -> Tensor:
    """``weight`` [heads * classes, dim] with every head's part divided by its largest singular value."""
    parts = weight.view(heads, -1, weight.shape[1])
    largest: Tensor = torch.linalg.matrix_norm(parts, 2, keepdim=True)
    return (parts / largest).view_as(weight)
