"""The base of framing modules: what a framing must answer, and the defaults of what it need not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from tempering.contracts import Batch, Example, Prediction, Prompt, Rendered, Scores, Slab
from tempering.errors import RecipeError
from tempering.framings.lm_head import lm_state

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner


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
    loss spreads the share ``smoothing`` of each target over all classes in training mode; ``compared``: while training something beside
    its loss may read the scores, which must then be whole; ``reads_lm_head``: its scores come from the backbone's language-model head,
    which is saved along; ``keeps_scores``: the scores of a whole split fit into memory (not where a row has a vocabulary of logits: then
    the loss is taken batch by batch, and `predictions` is given no scores); ``notes``: what is worth telling the user once the framing is
    prepared; ``windows``: several prompts of an example are parts of it, all of which are trained
    on (those of weight 0 hold nothing to learn); ``walks``: an epoch goes through what `walk` makes of the prompts of all rows;
    ``couples_rows``: its loss compares the rows of a batch, which can then be neither cut nor shared by processes; ``compares_texts``: in
    evaluation it compares all texts of a batch, which are then drawn and not of like length; ``texts_a_row``: how many texts go through
    the model for one row; ``predicts_labels``: it predicts what the task asks for; ``form``: which kind of transformers class holds its
    weights (`tempering.exporting.FORMS`).
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
    compared: bool = True
    reads_lm_head: bool = False
    keeps_scores: bool = True
    windows: bool = False
    walks: bool = False
    couples_rows: bool = False
    compares_texts: bool = False
    texts_a_row: int = 1
    predicts_labels: bool = True
    form: str = "sequence"
    notes: tuple[str, ...] = ()

    @abstractmethod
    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """Prompts of each example; more than one prompt = averaged scores."""

    def walk(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """What an epoch goes through, made of the prompts of all rows (pairs of them, say); by default these themselves.

        It may have ``batches(size, rng)`` where it is too long for its order to be laid out.
        """
        return prompts

    @abstractmethod
    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Pad prompts into a batch."""

    def begun(self, prompt: Prompt) -> str:
        """What ``prompt`` begins with that is computed once for all that begin alike: they are evaluated together. Default: nothing."""
        return ""

    def part(self, batch: Batch, rows: slice) -> Batch:
        """Some of the rows of a collated batch: what one of several processes works on, where collating draws.

        A framing that draws and keeps things of its own in ``Batch.extra`` says which of them belong to these rows.
        """
        if batch.extra:
            raise RecipeError(f"{type(self).__name__.removesuffix('Module')} cannot share a batch between processes; run it in one process")
        inputs = {name: values[rows] for name, values in batch.inputs.items()}
        targets, weights = (None if values is None else values[rows] for values in (batch.targets, batch.weights))
        return Batch(inputs, targets, weights, batch.task)

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

    def predictions(self, learner: Learner, asked: Rendered, scores: Scores | None, batch_size: int = 64) -> list[Prediction]:
        """One prediction an example; ``scores`` are those of its prompts, None where they are not kept.

        Default: what `combine` makes of the scores. A framing that has the model write, or reads texts anew, has its own.
        """
        assert scores is not None  # a framing without kept scores has its own way to predict
        return self.combine(asked, scores)

    def combine(self, asked: Rendered, scores: Scores) -> list[Prediction]:
        """One prediction an example, from the scores of its prompts alone.

        Default: logits averaged over the prompts of an example, decoded. A framing that joins windows has its own.
        """
        return self.decode(scores if max(asked.counts) == 1 else averaged(scores, asked.counts))

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Choose from the training rows, once before anything is trained: demonstrations, label words, a calibration. Default: nothing.

        A resumed run comes here again, with the same weights and the same ``rng``.
        """

    def alone(self, learner: Learner) -> Learner:
        """``learner`` as it asks without examples beside the query, which show what is chosen: label words. Default: itself."""
        return learner

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The same once training is over and the kept weights are in place: a calibration of the trained model. Default: nothing."""

    def keep(self) -> dict[str, Any]:
        """What of the training data this framing needs again to predict (demonstrations, label words found), JSON-ready."""
        return {}

    def recall(self, kept: dict[str, Any]) -> None:
        """Take back what `keep` gave, after a build on a task without rows and before the weights are loaded. Default: nothing."""

    def refresh(self, support: Support) -> Mapping[str, Tensor]:
        """Re-estimate state that depends on all training rows: before the first step, and as training goes on. Default: nothing.

        Returns which entries of its weights were placed anew, as masks by name: what the optimizer, teachers and averages know of
        those is out of date.
        """
        return {}

    def facts(self) -> dict[str, float]:
        """What is worth following while training, by name; told after each `refresh`. Default: nothing."""
        return {}

    def costs(self, examples: Sequence[Example]) -> str:
        """What training and predicting cost beyond one prompt a row of ``examples`` (there may be none), in words. Default: nothing."""
        return ""

    def beside(self, output: Any, scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the family's transformers class put out for ``batch``, and our ``scores``, in the same form, to be compared."""
        return output.logits.float(), scores.only.logits.mean(0)

    def language_state(self, backbone: Backbone) -> dict[str, Tensor]:
        """The language-model head's weights under the names of the family's class that fills masks; empty where the backbone has none."""
        return lm_state(backbone)

    def export_state(self) -> dict[str, Tensor] | None:
        """The weights under the names of the family's transformers class; None where it has no such class."""
        return None


def averaged(scores: Scores, counts: Sequence[int]) -> Scores:
    """Mean logits over the prompts of each example."""
    slab = scores.only
    logits = torch.stack([part.mean(1) for part in slab.logits.split(list(counts), 1)], 1)
    return Scores((Slab(logits, None, None, None, slab.kind, slab.task),))
