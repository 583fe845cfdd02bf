"""The small values that travel between the parts: examples, prompts, batches, scores, predictions, seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = Literal["classification", "regression", "multilabel", "text", "tagging", "question_answering"]
Label = str | int | bool | float
Weights = dict[str, "Tensor"]  # trained tensors only, by their name in the learner


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the user's data: one or two texts, its label as given, its 1-based row in the file.

    The label is a tuple for several labels; of a task of tagging one tag for each of ``words``, which are (start, end) in characters of
    the only text; of question answering (question, context) the answers as (start, text) in the context, none where there is none.
    """

    texts: tuple[str, ...]
    label: Any = None
    row: int = -1
    words: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a framing makes of an example: token ids (truncated, special tokens placed) and a class index, a value, or 0/1 a label.

    ``extra`` is the framing's own: where its masks are, which words its tokens belong to.
    """

    input_ids: Sequence[int]
    token_type_ids: Sequence[int] | None = None
    target: Any = None
    weight: float = 1.0
    extra: Any = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """Examples as the prompts a framing makes of them, which stand one after the other: ``counts`` [examples] of each.

    Of rows that were prompts from the start ``examples`` is empty, and each has one.
    """

    examples: Sequence[Example]
    prompts: Sequence[Prompt]
    counts: Sequence[int]

    @classmethod
    def of(cls, examples: Sequence[Example], found: Sequence[Sequence[Prompt]]) -> Rendered:
        """From ``found``, the prompts of each example (`FramingModule.render`)."""
        return cls(examples, [prompt for prompts in found for prompt in prompts], [len(prompts) for prompts in found])


class RowForm(NamedTuple):
    """How a framing wants tokens of running text as rows: ``length`` with special tokens, those ``before`` and ``after`` each piece of
    text and the one ``closing`` a whole text, whether rows are ``packed`` with several pieces, and whether it reads which tokens make
    up ``words``.
    """

    length: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    packed: bool = False
    words: bool = False
    closing: tuple[int, ...] = ()

    @property
    def room(self) -> int:
        """Tokens of text in a row of one piece."""
        return self.length - len(self.before) - len(self.after)


@dataclass(slots=True)
class Batch:
    """Rows that go through the model together.

    ``inputs``: ``input_ids`` [rows, length], where needed ``attention_mask`` (absent when nothing is padded) and ``token_type_ids``;
    with a cached trunk ``features`` [rows, dim] instead. ``targets`` [rows], or [rows, classes] for several labels; ``weights`` [rows].
    """

    inputs: dict[str, Tensor]
    targets: Tensor | None = None
    weights: Tensor | None = None
    task: str = "task"
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        extra = {k: v.to(device) if hasattr(v, "to") else v for k, v in self.extra.items()}
        targets = None if self.targets is None else self.targets.to(device)
        weights = None if self.weights is None else self.weights.to(device)
        return Batch({k: v.to(device) for k, v in self.inputs.items()}, targets, weights, self.task, extra)


class Slab(NamedTuple):
    """A task's rows: ``logits`` [heads, rows, classes] (1 class for a value), ``features`` [rows, dim] as the last linear map read them.

    ``sizes`` [prompts] says how many rows each prompt has, one after the other, where that is not one (words, masks). ``steps`` [rows,
    tokens] are the log-probabilities that a row's logits are sums of, where classes are texts of several tokens.
    """

    logits: Tensor
    targets: Tensor | None
    weights: Tensor | None
    features: Tensor | None
    kind: Kind
    task: str = "task"
    sizes: Tensor | None = None
    steps: Tensor | None = None


class Scores(NamedTuple):
    """One slab for each task in the batch. Terms fold over slabs by their row counts (`Scores.fold`)."""

    slabs: tuple[Slab, ...]
    layers: tuple[Tensor, ...] = ()  # what each block put out [rows, length, dim], bottom first, where a method reads layers

    @property
    def only(self) -> Slab:
        """The slab of a single-task batch."""
        (slab,) = self.slabs
        return slab

    def fold(self, other: Scores, term: Callable[[Slab, Slab], Tensor]) -> Tensor:
        """Row-weighted mean over tasks of ``term(mine, theirs)``, each a mean over rows."""
        pairs = list(zip(self.slabs, other.slabs, strict=True))
        rows = sum(a.logits.shape[1] for a, _ in pairs)
        return sum((term(a, b) * (a.logits.shape[1] / rows) for a, b in pairs[1:]), term(*pairs[0]) * (pairs[0][0].logits.shape[1] / rows))


class Span(NamedTuple):
    """A stretch of a text: characters ``start`` up to ``end``, what it is, and how sure the model is of it."""

    start: int
    end: int
    label: str
    probability: float = 1.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label as the user wrote it (a tuple for multi-label data, a float for regression) and a probability for every label.

    Tagging: ``label`` is a tuple of tags, one a word; ``spans`` the entities in characters of the text; ``each`` the probabilities of
    every tag, for each word. Question answering: ``label`` is the answer's text, "" where there is none; ``spans`` its place in the
    context, if any; ``probabilities`` those of the best few answers.
    """

    label: Any
    probabilities: Mapping[Any, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    each: tuple[Mapping[Any, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Seeds:
    """A seed for each of ``sampling`` (subsets, splits), ``init`` (new weights), ``order`` (of rows), ``dropout`` (draws inside a step)."""

    sampling: int
    init: int
    order: int
    dropout: int

    @classmethod
    def of(cls, seed: int, **given: int | None) -> Seeds:
        """All four seeds from ``seed``; any given by name replaces the derived one."""
        derived = {name: seed * 4 + i for i, name in enumerate(("sampling", "init", "order", "dropout"))}
        return cls(**(derived | {k: v for k, v in given.items() if v is not None}))
