"""Re-initialization of the top layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights
from tempering.errors import ModelError, RecipeError
from tempering.streams import torch_stream

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class ReInit:
    """Draws the top ``k`` blocks and the pooler anew before training: what they learned for pretraining's own task is in the way.

    *Paper*: Zhang et al. 2021 (Revisiting few-sample BERT fine-tuning). *Formula*: the weights of blocks L - k + 1 .. L and of all above
    them (pooler; final norm where the family has one) become what the family's own transformers class draws from its configuration;
    for BERT that is N(0, initializer_range), biases 0, norms 1 and 0. Once, before the first step.
    *Needs*: a tuning that trains all of those, of a family with separate blocks. *Costs*: no pass; for a moment a second body.
    *Differs*: the paper searches k from 1 to 6; methods that draw weights back to their start take these as the start.
    """

    touches: ClassVar[tuple[str, ...]] = ()
    shards: ClassVar[bool] = True
    needs_pretrained: ClassVar[bool] = True
    needs_matrices: ClassVar[bool] = True
    does: ClassVar[str] = "draws pretrained layers anew, and training must then shape them"
    k: int = Field(default=2, ge=0)

    @property
    def neutral(self) -> bool:
        """No block, no change; the pooler is left alone too."""
        return self.k == 0

    def initialize(self, learner: Learner, seed: int) -> None:
        """Overwrite the top of the body with weights drawn from ``seed``."""
        names = self._chosen(learner)
        body: Any = learner.backbone.model
        with torch_stream(seed):
            fresh = type(body)(body.config).state_dict()
        own: Weights = body.state_dict()
        with torch.no_grad():
            for name in names:
                own[name].copy_(fresh[name])

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """No hooks: all is done before the first step. What cannot work is refused."""
        self._chosen(learner)
        return Hooks()

    def _chosen(self, learner: Learner) -> list[str]:
        """The body's own weights that are drawn anew: every one of them trained."""
        backbone = learner.backbone
        backbone.layout.require("re_init", "blocks")
        there = backbone.top - 1
        if self.k > there:
            raise ModelError(f"re_init: k = {self.k}, but {backbone.source} has {there} blocks; give k between 1 and {there}")
        weights: dict[str, Tensor] = dict(backbone.model.named_parameters())
        names = [n for n in weights if n in backbone.own and backbone.depth(n) > there - self.k]
        frozen = [n for n in names if not weights[n].requires_grad]
        if frozen:
            raise RecipeError(
                f"re_init draws the top {self.k} blocks anew, and this tuning would leave {frozen[0]} as drawn, at random; use tuning"
                " full, or top_layers with the same k"
            )
        return names
