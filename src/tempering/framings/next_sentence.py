"""Next sentences: which sentence follows another, a task that texts carry in themselves, put to the model as any labelled one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Batch, Example, Prompt, Scores
from tempering.errors import DataError
from tempering.framings.around import Around
from tempering.framings.cloze import Cloze
from tempering.framings.head import Head
from tempering.framings.neighbors import RELATIONS, Pool, chosen, related
from tempering.framings.text_to_text import TextToText

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner

PAIR = "{text} {mask}. {text_pair}"
PAIR_LAST = "{text} {text_pair} Is it the next one? {mask}"  # for models that read from left to right


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NextSentence:
    """Trains to tell which sentence follows another, as a task of the form that ``framing`` puts it in. Labels are not read.

    ``asks`` "pair": of two sentences, whether the second is the next one (yes), another of the same text (maybe) or of another text
    (no). "choice": of ``choices`` sentences, which one follows the first text; one of them does, one is another of the same text (where it
    has one), the rest are of other texts; the answers are letters. ``framing`` is a cloze, ``text_to_text`` or (pairs) a head: what
    the stage after it puts the task itself in. A cloze without a template takes the paper's, ``{text} {mask}. {text_pair}`` or
    ``{text}? A. {a} B. {b} ... Answer is {mask}.``; one of your own names these fields.

    *Paper*: Gu et al. 2022 (PPT), section 3: with the tuning ``prompt_tuning`` this pre-trains a soft prompt, "pair" for tasks of sentence
    pairs and "choice" for its unified form, in which any classification is a choice among lettered label names. *Formula*: y drawn evenly
    among the classes; (s_i, s_i+1) for yes, (s_i, s_j) with j not in {i, i + 1} for maybe, s_j of another text for no; the loss is that of
    ``framing`` over the classes. *Needs*: two texts or more, better documents of many sentences; of a text with one sentence the halves
    stand for two. *Costs*: one pass over pairs, or over ``choices`` + 1 sentences. Drawn anew in every epoch.
    *Differs*: the paper draws its pairs once, from 10 GB of OpenWebText; its third form, a single text with labels that a teacher gave, is
    prompt transfer from that labelled file (recipe ``spot``). The model is frozen by the tuning, not by this framing.
    """

    framing: Any = Field(default_factory=Cloze)
    asks: Literal["pair", "choice"] = "pair"
    choices: int = Field(default=6, ge=2, le=len(ascii_uppercase))

    supervised: ClassVar[bool] = False

    @field_validator("framing")
    @classmethod
    def _is_known(cls, given: Any) -> Any:
        if not isinstance(given, Cloze | TextToText | Head):
            raise ValueError(
                "expected a cloze, text_to_text or a head, such as  framing: cloze: the form that pairs of sentences are put in"
            )
        return given

    @model_validator(mode="after")
    def _reads_choices(self) -> NextSentence:
        if self.asks == "choice" and not isinstance(self.framing, Cloze):
            raise ValueError("asks: choice shows several lettered sentences, which only a template can; give framing: cloze, or asks: pair")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in their order."""
        return RELATIONS if self.asks == "pair" else tuple(ascii_uppercase[: self.choices])

    @property
    def trains(self) -> bool:
        """Whether the form has weights of its own."""
        return bool(getattr(self.framing, "trains", True))

    @property
    def max_length(self) -> int | None:
        """The longest prompt that the form makes, where it says so."""
        length: int | None = getattr(self.framing, "max_length", None)
        return length

    def opens(self, backbone: Backbone) -> None:
        """Load what the form reads of the model beside its body."""
        if hasattr(self.framing, "opens"):
            self.framing.opens(backbone)

    def form(self, causal: bool) -> Any:
        """The framing with the paper's template, where it is a cloze that has none."""
        if not isinstance(self.framing, Cloze):
            return self.framing
        fields = self.framing.fields or (() if self.asks == "pair" else ("text", *map(str.lower, self.labels)))
        return replace(self.framing, template=self.framing.template or self._template(causal), fields=fields)

    def _template(self, causal: bool) -> str:
        if self.asks == "pair":
            return PAIR_LAST if causal else PAIR
        listed = " ".join(f"{letter}. {{{letter.lower()}}}" for letter in self.labels)
        return f"{{text}}? {listed} Answer is {{mask}}" + ("" if causal else ".")

    def build(self, task: Any, backbone: Backbone) -> NextSentenceModule:
        """The module for ``backbone``, whatever the task. Weights come from torch's generator."""
        return NextSentenceModule(self, backbone)


class NextSentenceModule(Around):
    """`NextSentence` at run time. Weights: those of ``inner``, the form's module, which does all but drawing the sentences."""

    asks = "inner"
    deterministic = False
    renders_anew = True
    predicts_labels = False

    def __init__(self, framing: NextSentence, backbone: Backbone) -> None:
        super().__init__()
        self.value, labels = framing, framing.labels
        texts = ("",) * (2 if framing.asks == "pair" else framing.choices + 1)
        asked = SimpleNamespace(kind="classification", labels=labels, target=labels.index, train=(Example(texts),))
        self.inner: Any = framing.form(backbone.layout.kind == "decoder").build(asked, backbone)
        self.reads, self.reads_lm_head, self.keeps_scores = self.inner.reads, self.inner.reads_lm_head, self.inner.keeps_scores
        self.smooths, self.notes = self.inner.smooths, self.inner.notes

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Refuse a text alone; the form chooses from questions of the training texts."""
        if len(examples) < 2:
            raise DataError(
                f"next_sentence draws wrong answers from other texts, and there is {len(examples) or 'no'} text to train on; give a corpus"
                " of two texts or more, or say what one text is by  documents: paragraph"
            )
        self.inner.prepare(learner, self._drawn(examples, examples, rng), rng)
        self.notes = self.inner.notes

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The form's own last step."""
        self.inner.finish(learner, self._drawn(examples, examples, rng), rng)

    def keep(self) -> dict[str, Any]:
        """What the form keeps."""
        found: dict[str, Any] = self.inner.keep()
        return found

    def recall(self, kept: dict[str, Any]) -> None:
        """Give it back to the form."""
        self.inner.recall(kept)

    def length_hint(self, lengths: Sequence[int], limit: int) -> int:
        """At most as many sentences as a prompt shows, each as long as a text."""
        shown = 2 if self.value.asks == "pair" else self.value.choices + 1
        return min(limit, shown * max(lengths, default=limit))

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """A question of each text, as the form puts it; in training other sentences are of ``support``, else of ``examples``."""
        found: list[list[Prompt]] = self.inner.render(self._drawn(examples, support or examples, rng), (), rng)
        return [prompts[:1] for prompts in found]

    def _drawn(self, examples: Sequence[Example], others: Sequence[Example], rng: np.random.Generator) -> list[Example]:
        """A question of each text with its answer."""
        pool, ask = Pool([" ".join(e.texts) for e in others]), self.value
        found = []
        for example in examples:
            text = " ".join(example.texts)
            texts, label = related(text, pool, rng) if ask.asks == "pair" else chosen(text, pool, ask.choices, rng)
            found.append(Example(texts, label, example.row))
        return found

    def part(self, batch: Batch, rows: slice) -> Batch:
        """As the form does."""
        found: Batch = self.inner.part(batch, rows)
        return found

    def trunk_key(self) -> str:
        """Sentences are drawn anew, so that the trunk's output is never worth keeping."""
        return f"next_sentence {self.value.asks} {self.inner.trunk_key()}"

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """As the form takes it."""
        self.inner.train(self.training)
        return super().loss(scores, batch)
