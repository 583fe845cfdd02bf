"""The base of framing modules: what a framing must answer, and the defaults of what it need not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tempering.contracts import Batch, Example, Prediction, Prompt, Scores

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone


class FramingBase(nn.Module, ABC):
    """A framing at run time (`tempering.contracts.FramingModule`).

    ``deterministic``: neither rendering nor collating draws; ``renders_anew``: rendering itself draws, so prompts are made every epoch;
    ``reads``: what of the body it reads ("pooler" where the family's pooler is in between).
    Defaults: rendering and collating draw nothing, there is no state to refresh, and the weights have no home in a transformers
    class.
    """

    deterministic: bool = True
    renders_anew: bool = False
    reads: str = "tokens"
    labels: tuple[Any, ...] = ()

    @abstractmethod
    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """Prompts of each example; more than one prompt = averaged scores."""

    @abstractmethod
    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Pad prompts into a batch."""

    @abstractmethod
    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """What the framing reads of the backbone: [rows, dim]."""

    @abstractmethod
    def trunk_key(self) -> str:
        """Everything of this framing that its trunk output depends on, beside backbone and texts."""

    @abstractmethod
    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """Logits and features of the batch."""

    @abstractmethod
    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """The supervised loss: a scalar, a mean over rows and heads."""

    @abstractmethod
    def decode(self, scores: Scores) -> list[Prediction]:
        """Labels with probabilities, one a row."""

    def refresh(self, backbone: Backbone, support: Sequence[Example]) -> None:
        """Re-estimate state that depends on all training data: nothing by default."""

    def export_state(self) -> dict[str, Tensor] | None:
        """The weights under the names of the family's transformers class; None where it has no such class."""
        return None
