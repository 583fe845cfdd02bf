"""The base of framing modules: what a framing must answer, and the defaults of what it need not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn

from tempering.contracts import Batch, Example, Prediction, Prompt, Scores

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone


class Support(Protocol):
    """All training rows, as a framing sees them when it re-estimates its state (`FramingBase.refresh`).

    ``step`` optimizer steps have been taken; ``targets`` are those of the prompts; ``rng`` is a stream of this step's own.
    """

    step: int
    targets: Sequence[Any]
    rng: np.random.Generator

    def trunk(self, rows: Sequence[int] | None = None) -> Tensor:
        """What `FramingBase.trunk` says of all rows, or of some, now: [rows, dim], in evaluation mode, in main memory."""


class FramingBase(nn.Module, ABC):
    """A framing at run time (`tempering.contracts.FramingModule`).

    ``deterministic``: neither rendering nor collating draws; ``renders_anew``: rendering itself draws, so prompts are made every epoch;
    ``reads``: what of the body it reads ("pooler" where the family's pooler is in between); ``refresh_steps``: how many steps lie
    between two calls of `refresh` (0: they come with the epochs); ``undecayed``: weights that weight decay leaves alone; ``smooths``: its
    loss spreads the share ``smoothing`` of each target over all classes in training mode.
    Defaults: rendering and collating draw nothing, there is no state to refresh, and the weights have no home in a transformers
    class.
    """

    deterministic: bool = True
    renders_anew: bool = False
    reads: str = "tokens"
    labels: tuple[Any, ...] = ()
    refresh_steps: int = 0
    undecayed: ClassVar[frozenset[str]] = frozenset()
    smooths: bool = False
    smoothing: float = 0.0

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

    def refresh(self, support: Support) -> Mapping[str, Tensor]:
        """Re-estimate state that depends on all training rows: before the first step, and as training goes on. Default: nothing.

        Returns which entries of its weights were placed anew, as masks by name: what the optimizer, teachers and averages know of
        those is out of date.
        """
        return {}

    def facts(self) -> dict[str, float]:
        """What is worth following while training, by name; told after each `refresh`. Default: nothing."""
        return {}

    def export_state(self) -> dict[str, Tensor] | None:
        """The weights under the names of the family's transformers class; None where it has no such class."""
        return None
