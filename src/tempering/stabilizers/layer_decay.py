"""Layer-wise learning-rate decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from tempering.contracts import Hooks, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class LayerDecay:
    """Trains lower blocks with smaller learning rates, so that general features move less than task features.

    *Paper*: Sun et al. 2019 (How to Fine-Tune BERT, section 5.3.4); Zhang et al. 2021 use the same with 0.95.
    *Formula*: rate of block l = learning_rate * decay^(L - l), l = 1 .. L; embeddings count as block 0; what lies above the blocks and
    the head keep the full rate.
    *Needs*: at least two depths among the trained weights. *Costs*: no pass.
    *Differs*: the code of Sun et al. leaves the embeddings at the full rate; here they are the lowest layer, as in Zhang et al.
    """

    touches: ClassVar[tuple[str, ...]] = ("rate",)
    shards: ClassVar[bool] = True
    decay: float = Field(default=0.95, gt=0, le=1)

    @property
    def neutral(self) -> bool:
        """A decay of 1 changes nothing."""
        return self.decay == 1.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks that scale learning rates; no state."""
        blocks = learner.backbone.top - 1
        factors = {name: self.decay ** max(0, blocks - learner.depth(name)) for name in trained}
        return Hooks(rate=lambda name, _progress: factors[name])
