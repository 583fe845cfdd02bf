"""Discriminative learning rates: the ratio of ULMFiT between a layer and the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from tempering.contracts import Hooks, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class Discriminative:
    """Trains each layer ``ratio`` times more slowly than the one above it, the new head fastest.

    *Paper*: Howard and Ruder 2018 (ULMFiT, section 3.2). *Formula*: rate of block l = base / ratio^(L + 1 - l) for L blocks; embeddings
    count as block 0; the head and what lies above the blocks have the full rate.
    *Needs*: something trained inside the backbone. *Costs*: no pass.
    *Differs*: the ratio was chosen for an LSTM of three layers. With twelve blocks the lowest one has 2.6^-12 = 1e-5 of the rate and
    stands all but still; `LayerDecay` is the same idea with the ratios used for transformers, and the top block at the full rate.
    """

    touches: ClassVar[tuple[str, ...]] = ("rate",)
    needs_backbone: ClassVar[bool] = True
    ratio: float = Field(default=2.6, ge=1)

    @property
    def neutral(self) -> bool:
        """A ratio of 1 changes nothing."""
        return self.ratio == 1.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks that scale learning rates; no state."""
        top = learner.backbone.top
        factors = {name: self.ratio ** -max(0, top - learner.depth(name)) for name in trained}
        return Hooks(rate=lambda name, _progress: factors[name])
