"""The base of framings that put their own questions to another framing: it has the weights, they choose what it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from tempering.contracts import Batch, Prediction, Prompt, Scores
from tempering.framings.module import FramingBase

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from tempering.backbone import Backbone


class Around(FramingBase):
    """All but `render` and `trunk_key` is as the framing in the attribute called ``asks`` does it."""

    asks: str = "cloze"

    @property
    def asked(self) -> Any:
        """The framing that is asked."""
        return getattr(self, self.asks)

    @property
    def smoothing(self) -> float:
        """The framing that is asked takes the loss."""
        return float(self.asked.smoothing)

    @smoothing.setter
    def smoothing(self, share: float) -> None:
        self.asked.smoothing = share

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """As the framing that is asked does."""
        found: Batch = self.asked.collate(prompts, rng)
        return found

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """As the framing that is asked does."""
        found: Tensor = self.asked.trunk(backbone, batch)
        return found

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """As the framing that is asked does."""
        found: Scores = self.asked.scores(backbone, batch)
        return found

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """As the framing that is asked takes it."""
        found: Tensor = self.asked.loss(scores, batch)
        return found

    def decode(self, scores: Scores) -> list[Prediction]:
        """As the framing that is asked does."""
        found: list[Prediction] = self.asked.decode(scores)
        return found
