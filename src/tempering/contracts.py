"""The protocols between the parts of a recipe, and the small values that travel between them.

A *recipe* is made of frozen values that satisfy `Tuning`, `Framing`, `Stabilizer` and `Stage`; the run-time objects they make are
`FramingModule`, `Hooks` and the learner. A *row* is what one logit vector belongs to: a text, a token, a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from tempering.values import (
    Batch,
    Example,
    Kind,
    Label,
    Prediction,
    Prompt,
    Rendered,
    RowForm,
    Scores,
    Seeds,
    Slab,
    Span,
    Weights,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tempering.backbone import Backbone
    from tempering.learner import Learner
    from tempering.passes import Passes

__all__ = [
    "Batch",
    "Example",
    "Framing",
    "FramingModule",
    "Hooks",
    "Kind",
    "Label",
    "Prediction",
    "Probe",
    "Prompt",
    "Rendered",
    "RowForm",
    "Scores",
    "Seeds",
    "Slab",
    "Span",
    "Stabilizer",
    "Stage",
    "Tuning",
    "Weights",
    "predicts",
]


class Hooks(NamedTuple):
    """What a method touches while training is visible from which field is not None: folds commute, or admit one."""

    rate: Callable[[str, float], float] | None = None  # (name, progress in [0, 1]) -> factor on a learning rate; product
    term: Callable[[Passes], Tensor] | None = None  # added to the loss; sum
    noise: Callable[[Tensor, np.random.Generator], Tensor] | None = None  # added to a student pass's embeddings; sum
    gradient: Callable[[str, Tensor], Tensor | float] | None = None  # (name, gradient) -> factor; product
    pull: Callable[[str, Tensor], Tensor] | None = None  # (name, weight) -> what learning rate times this is taken off it; sum
    weights: Callable[[Weights, np.random.Generator], Weights] | None = None  # weights of one training pass; at most one
    base: Callable[[Passes], Tensor] | None = None  # replaces the supervised loss; at most one
    after_step: Callable[[Weights], None] | None = None  # updates only its own state; in turn
    final: Callable[[], Weights] | None = None  # the weights evaluated and saved; at most one
    save: Callable[[], dict[str, Tensor]] | None = None  # its state for a checkpoint: copies of weights under "<any>/<name>" ...
    restore: Callable[[dict[str, Tensor]], None] | None = None  # ... and how it comes back


class Probe(Protocol):
    """What a tuning may ask of the task before training, to choose what is trained (``prepare``)."""

    def gradients(self, rows: int | None = None, batch_size: int = 1, sampled: bool = False) -> Iterator[Weights]:
        """Gradients of the loss by all the body's weights, without dropout, of ``rows`` rows; ``sampled`` labels, or the true ones."""

    def fine_tuned(self, tuning: Tuning, num_train_epochs: float | None = None) -> Weights:
        """The weights trained by this stage's loop with another ``tuning``, on a copy: the learner stays as it is."""


@runtime_checkable
class Tuning(Protocol):
    """What of the backbone is tuned. A frozen value in the recipe.

    It may also have ``prepare(learner, probe)``, called once before the first step to choose from the data what is trained, ``notes``,
    sentences on its settings that are worth telling before that, and what a `Stabilizer` has (``neutral``, ``touches``, ``start``), to act
    while training. Its state lives in buffers of the modules it adds.
    """

    @property
    def trunk_eval(self) -> bool:
        """The backbone runs in evaluation mode while training (no dropout), so its output may be cached."""

    @property
    def trains_backbone(self) -> bool:
        """Something inside the backbone is trained."""

    @property
    def trains_pretrained(self) -> bool:
        """Some pretrained weight is trained in place."""

    @property
    def identity(self) -> Literal["exact", "near", "no"]:
        """How close the model is to the backbone right after `attach`."""

    @property
    def merges(self) -> bool:
        """Whether `merge` can fold the change into the weights."""

    def attach(self, backbone: Backbone) -> None:
        """Freeze, unfreeze and add modules; afterwards ``requires_grad`` says everything. New weights are drawn here."""

    def merge(self, backbone: Backbone) -> None:
        """Fold the change into the backbone's own weights and take the added modules off. No-op where nothing was added."""

    def count(self, backbone: Backbone) -> int:
        """The number of trained backbone parameters by the method's published formula, from the configuration alone."""


class FramingModule(Protocol):
    """How the task is put to the model, at run time: an ``nn.Module`` with the task's own weights."""

    deterministic: bool  # rendering and collating draw nothing
    renders_anew: bool  # rendering draws: prompts are made again every epoch
    labels: tuple[Any, ...]

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """Prompts of each example (more than one: averaged scores), of many examples at once, as tokenizers are fast in bulk."""

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Pad prompts of similar length into a batch."""

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The part of the forward pass that depends on the backbone only."""

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """Logits and features of the batch."""

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """The supervised loss of this framing: a mean over rows and heads."""

    def decode(self, scores: Scores) -> list[Prediction]:
        """Labels with probabilities."""

    def refresh(self, support: Any) -> Mapping[str, Tensor]:
        """Re-estimate state that depends on all training rows (`tempering.framings.module.Support`); what was placed anew, as masks."""


@runtime_checkable
class Framing(Protocol):
    """How the task is put to the model. A frozen value in the recipe.

    It may also have ``opens(backbone)``, called before a tuning is attached, to load parts of the model that only it reads (a decoder).
    """

    supervised: bool  # reads labels

    def build(self, task: Any, backbone: Backbone) -> FramingModule:
        """The module for this task and backbone. New weights are drawn here."""


def predicts(framing: Any) -> bool:
    """Whether ``framing`` predicts labels, which can be judged: it reads them, and not only to shape the vectors of texts."""
    return bool(framing.supervised and getattr(framing, "predicts", True))


@runtime_checkable
class Stabilizer(Protocol):
    """What steadies training. A frozen value in the recipe; run-time state is born in `start`.

    It may also have, each called once before the first step: ``initialize(learner, seed)``, to set weights before anyone reads them, and
    ``prepare(learner, probe)``, to choose from the data; the tensors it returns are given to ``Hooks.restore``, as a checkpoint's are.
    """

    @property
    def neutral(self) -> bool:
        """True when the setting changes nothing: the loop then leaves it out altogether."""

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks over fresh state for one run."""


@runtime_checkable
class Stage(Protocol):
    """One step of the way from backbone to model."""

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """Backbone in, learner out."""
