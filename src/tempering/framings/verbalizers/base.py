"""What a verbalizer must answer, and how a framing with masks runs it: from a batch to class scores.

A verbalizer *value* (frozen, in the recipe) has ``build(task, backbone, words)``, which makes a `VerbalizerModule`. A framing with
masks (a cloze) is what it reads through: the framing's ``trunk(backbone, batch)`` gives the body's last states at the masks of each
prompt, [prompts, masks, dim] or the same flattened to [prompts, masks dim], and ``batch.extra["mask_positions"]`` [prompts, masks]
says where they are. From there `class_scores` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tempering.contracts import Batch, Example, Rendered, Slab
from tempering.errors import DataError
from tempering.framings.output_head import language_head, output_matrix

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner

Wants = Literal["logits", "states", "hidden"]
Words = Mapping[Any, tuple[str, ...]]
Run = Callable[[Batch], Tensor]  # a batch -> logits over the vocabulary at its masks [prompts, masks, vocabulary]
MASKS = "mask_positions"  # the entry of a batch's ``extra``: where the masks of each prompt are [prompts, masks]


class Verbalizer(Protocol):
    """A verbalizer value. ``trains`` tells whether it has weights of its own that the optimizer moves; one with a ``reads_rows`` that is
    False chooses nothing from training rows.
    """

    @property
    def trains(self) -> bool:
        """Whether the optimizer moves weights of this verbalizer."""

    def build(self, task: Any, backbone: Backbone, words: Words) -> VerbalizerModule:
        """The module for the classes of ``task`` (`classes_of`), with the label words of each."""


class VerbalizerModule(nn.Module, ABC):
    """A verbalizer at run time.

    ``labels`` are the classes in the order of the scores; ``masks`` how many masks a prompt must hold, one after the other; ``wants``
    what `forward` reads: "logits" of the tokens ``ids`` (None: of the whole vocabulary), "states" as the output matrix reads them
    (after the language-model head's transform), or "hidden", the body's last states before it. ``walks``: it runs the model several
    times over changed prompts (`walk`) in place of `forward`.
    """

    labels: tuple[Any, ...] = ()
    masks: int = 1
    ids: tuple[int, ...] | None = None
    wants: Wants = "logits"
    walks: bool = False

    @property
    def reads_head(self) -> bool:
        """Whether scores come from the language-model head, which is then saved along."""
        return self.walks or self.wants != "hidden"

    @abstractmethod
    def forward(self, read: Tensor) -> Tensor:
        """Logits [rows, masks, ids] or states [rows, masks, width] -> class scores [rows, classes], whose softmax is probabilities."""

    def scores(self, backbone: Backbone, hidden: Tensor) -> Tensor:
        """Class scores [rows, classes] from the body's last states at the masks [rows, masks, dim]."""
        found: Tensor = self(reading(self, backbone, hidden))
        return found

    def walk(self, run: Run, batch: Batch) -> Tensor:
        """Class scores [rows, classes] from as many runs of the model as it takes. Default: one run."""
        found: Tensor = self(run(batch))
        return found

    def loss(self, slab: Slab) -> Tensor | None:
        """A loss of its own, a mean over rows; None where it is the cross entropy of the class scores."""
        return None

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Choose from the training rows before anything is trained. Default: nothing."""

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The same once training is over. Default: nothing."""

    def keep(self) -> dict[str, Any]:
        """What was chosen from the training rows, JSON-ready; tensors of the state dict aside."""
        return {}

    def recall(self, kept: dict[str, Any]) -> None:
        """Take back what `keep` gave, before the weights are loaded. Default: nothing."""


def unlabeled(examples: Sequence[Example]) -> list[Example]:
    """The same rows without their labels."""
    return [replace(example, label=None) for example in examples]


def checked(given: Any) -> Any:
    """``given`` if it is a verbalizer value; for the fields that hold one."""
    if isinstance(given, type) or not hasattr(given, "build") or not hasattr(given, "trains"):
        raise ValueError("expected a verbalizer, such as Manual() or Soft()")
    return given


class Targets(NamedTuple):
    """The class of each labelled row, and which rows those are."""

    rows: list[int]
    classes: Tensor


def targets_of(labels: Sequence[Any], examples: Sequence[Example], asks: str) -> Targets:
    """The class index of every row of a class; ``asks`` names who needs it. Without a single such row it is a `DataError`."""
    index = {label: i for i, label in enumerate(labels)}
    rows = [i for i, e in enumerate(examples) if e.label in index]
    if not rows:
        raise DataError(f"{asks} needs training rows with a label among {', '.join(map(str, labels))}; found none in {len(examples)} rows")
    return Targets(rows, torch.tensor([index[examples[i].label] for i in rows]))


def classes_of(task: Any, words: Words) -> tuple[Any, ...]:
    """The classes in the order of the task's labels; of a task without labels (two poles of a value) in the order of ``words``."""
    return tuple(task.labels) or tuple(words)


def class_scores(module: VerbalizerModule, framing: Any, backbone: Backbone, batch: Batch) -> Tensor:
    """Class scores [prompts, classes] of a batch with masks. ``features`` in its inputs stand for the trunk's output."""
    if module.walks:
        return module.walk(lambda changed: vocabulary_logits(backbone, hidden_of(framing, backbone, changed)), batch)
    return module.scores(backbone, hidden_of(framing, backbone, batch))


def hidden_of(framing: Any, backbone: Backbone, batch: Batch) -> Tensor:
    """The body's last states at the masks [prompts, masks, dim]; the cached ones where the batch has them."""
    cached = batch.inputs.get("features")
    found: Tensor = framing.trunk(backbone, batch) if cached is None else cached
    return found if found.dim() == 3 else found.unflatten(-1, (-1, backbone.hidden_size))


def reading(module: VerbalizerModule, backbone: Backbone, hidden: Tensor) -> Tensor:
    """What ``module`` reads of the body's last states [rows, masks, dim]; only the rows of the output matrix it asks for are used."""
    if module.wants == "hidden":
        return hidden
    head = language_head(backbone)
    states: Tensor = head.features(hidden)
    if module.wants == "states":
        return states
    return head.logits(
        states, output_matrix(head, backbone), None if module.ids is None else torch.tensor(module.ids, device=states.device)
    )


def vocabulary_logits(backbone: Backbone, hidden: Tensor) -> Tensor:
    """Logits of the whole vocabulary [..., vocabulary] from the body's last states [..., dim]."""
    head = language_head(backbone)
    logits: Tensor = head(hidden, output_matrix(head, backbone))[0]
    return logits


def output_rows(head: Any, backbone: Backbone, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The rows of the output matrix [ids, width] and their biases [ids] (zero where the head has none)."""
    matrix = output_matrix(head, backbone)
    chosen = torch.tensor(list(ids), device=matrix.device)
    rows = matrix[chosen]
    return rows, rows.new_zeros(len(rows)) if head.bias is None else head.bias[chosen]


class Found(NamedTuple):
    """``rows`` [prompts, ...] of all prompts, in order, and how many prompts each example has."""

    rows: Tensor
    counts: Sequence[int]

    def each(self) -> Tensor:
        """The mean over the prompts of each example [examples, ...]."""
        return torch.stack([part.mean(0) for part in self.rows.split(list(self.counts))])


def over_prompts(
    learner: Learner, examples: Sequence[Example], rng: np.random.Generator, work: Callable[[Batch], Tensor], batch_size: int = 64
) -> Found:
    """``work`` (a batch -> [prompts, ...]) in evaluation mode on the prompts of ``examples``, gathered in main memory."""
    asked = Rendered.of(examples, learner.framing.render(examples, (), rng))
    mode = learner.training
    rows = learner.outputs(asked.prompts, batch_size, lambda batch: work(batch).float())
    learner.train(mode)
    return Found(rows, asked.counts)


def mask_states(learner: Learner, examples: Sequence[Example], rng: np.random.Generator, wants: Wants = "hidden") -> Tensor:
    """States of each example at its masks [examples, masks, dim] ("hidden") or as the output matrix reads them ("states")."""
    body = learner.backbone

    def work(batch: Batch) -> Tensor:
        hidden = hidden_of(learner.framing, body, batch)
        return hidden if wants == "hidden" else language_head(body).features(hidden)

    return over_prompts(learner, examples, rng, work).each()


def token_logits(learner: Learner, examples: Sequence[Example], rng: np.random.Generator, ids: Sequence[int] | None = None) -> Tensor:
    """Logits of the tokens ``ids`` (None: of all) at the first mask of each example [examples, ids]."""
    body = learner.backbone
    chosen = None if ids is None else torch.tensor(ids, device=learner.device)

    def work(batch: Batch) -> Tensor:
        head = language_head(body)
        return head.logits(head.features(hidden_of(learner.framing, body, batch)[:, 0]), output_matrix(head, body), chosen)

    return over_prompts(learner, examples, rng, work).each()
