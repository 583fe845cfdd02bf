"""Any task as text in, text out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from tempering.errors import RecipeError
from tempering.framings.writing.decoding import Decoding
from tempering.framings.writing.labels import LabelScorer
from tempering.framings.writing.losses import Loss
from tempering.framings.writing.source import NAMES, fields_of, places
from tempering.framings.writing.states import writes
from tempering.framings.writing.writer import TextWriter

if TYPE_CHECKING:
    from tempering.backbone import Backbone

CHOICES = 256  # numbers on a grid that are worth scoring one by one
Answers = Literal["auto", "likelihood", "trie", "free"]
_BY_KIND: dict[str, tuple[str, ...]] = {  # the first is what "auto" means
    "classification": ("likelihood", "trie", "free"),
    "regression": ("likelihood", "trie", "free"),
    "multilabel": ("free",),
    "text": ("free",),
    "tagging": ("free",),
    "question_answering": ("free", "trie"),
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TextToText(Decoding):
    """Puts a task as a text to read and a text to write: the model is trained to write the label, or scores every label as if written.

    ``source`` is the text that is read, with ``{text}`` and ``{text_pair}`` in it ("": the text as it is; ``sentence1: .. sentence2: ..``
    for a pair, ``question: .. context: ..`` for a question); a source too long loses the end of its longest text, never a word of the
    template. ``\\{``, ``\\}`` and ``\\\\`` are a brace or a backslash itself; other blocks and Jinja are refused. ``cue`` ends it, as it
    stands, by default only for causal models. ``words`` maps labels to what is written for them. ``answers``: "likelihood" scores every
    label, "trie" decodes within the labels (of a question: within its context), "free" decodes anything; "auto" is the first of these that
    the kind of task allows. What `Decoding` says applies to the latter two. A control code is a part of the source: a column of codes as
    ``{text_pair}``, as in ``source: "{text_pair}: {text}"``.

    Targets: a class its word; several labels their words between commas; a number the nearest multiple of ``step`` (0.2 as T5 has it for
    STS-B); entities ``PER: Ada Lovelace; LOC: London``; a question its first answer; any text itself.

    *Paper*: Raffel et al. 2020 (T5); ``losses`` and ``length_norm``: Liu et al. 2022 (T-Few). *Formula*: log P(y | x) = sum over t of log
    P(y_t | x, y_<t), the token that ends the text included. "likelihood": scores [1, texts, labels] log P(y | x) / |y|^a with a
    ``length_norm`` (None: 0 where all labels have as many tokens, else 1), prediction their argmax, loss the sum of ``losses``
    (`tempering.framings.writing.losses`), of which "lm" reads the right label alone. "trie" and "free": loss the mean of - log P(y_t) over
    all target tokens; with as many beams as labels a trie gives the very log P(y | x). *Needs*: an encoder-decoder, whose decoder it
    loads and tunings reach too, or a causal model. *Costs*: the source once; then "likelihood" the decoder over all labels, in
    training over the right one alone where ``losses`` is "lm" and no stabilizer compares scores (a causal model that is trained by other
    losses: the source with each label), the others over the target, and as many decoder passes as tokens to predict. Logits are made at
    target tokens only. *Differs*: T5 counts a text that is no label as wrong by -1, here it stays in the prediction as written (case and
    spaces aside); a number out of the range of training is moved into it, what is no number to the middle. The output matrix is trained
    where the embeddings are. Sampling within a trie renormalizes at every step, which is not the distribution over labels.
    """

    source: str = ""
    answers: Answers = "auto"
    words: Any = Field(default=(), kw_only=True)
    cue: str | None = Field(default=None, kw_only=True)
    losses: Annotated[tuple[Loss, ...], Field(min_length=1)] = Field(default=("lm",), kw_only=True)
    length_norm: float | None = Field(default=None, ge=0, allow_inf_nan=False, kw_only=True)
    step: float = Field(default=0.2, gt=0, allow_inf_nan=False, kw_only=True)
    max_source_length: int | None = Field(default=None, ge=1, kw_only=True)
    max_target_length: int | None = Field(default=None, ge=2, kw_only=True)

    supervised: ClassVar[bool] = True
    works_untrained: ClassVar[bool] = True
    trains: ClassVar[bool] = False  # nothing of its own
    mappings: ClassVar[frozenset[str]] = frozenset({"words"})  # written as a mapping in a recipe

    @field_validator("words", mode="before")
    @classmethod
    def _hashable(cls, given: Any) -> tuple[tuple[Any, str], ...]:
        """Words as pairs, since a mapping does not hash. Keys stay what YAML read: ``true:`` may name a label that is a text."""
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            return tuple(sorted(((label, word) for label, word in pairs if _is_word(word)), key=lambda pair: str(pair[0])))
        except (TypeError, ValueError):
            raise ValueError("words must map every label to a text, as in  words: {0: negative, 1: positive}") from None

    @model_validator(mode="after")
    def _settings_agree(self) -> TextToText:
        if self.source:
            fields_of(self.source)
        if self.guidance_source is not None:
            places(self.guidance_source, "guidance_source")
        if any(f"{{{name}}}" in (self.cue or "") for name in NAMES):
            raise ValueError(f"cue {self.cue!r} is the same for every row; write the place for a text in source")
        if len(set(self.losses)) < len(self.losses):
            raise ValueError(f"losses names one twice ({', '.join(self.losses)}); name each once")
        if self.answers in ("trie", "free") and (self.losses != ("lm",) or self.length_norm is not None):
            raise ValueError(
                f"losses and length_norm compare all labels, and answers: {self.answers} reads the right one alone; leave them out"
            )
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """The labels it names words for: they stand for those of the data where there is none. Empty where it names none."""
        return tuple(str(label) for label, _ in self.words)

    def opens(self, backbone: Backbone) -> None:
        """Load the decoder of an encoder-decoder. A model that writes no text is a `ModelError`."""
        writes(backbone)

    def build(self, task: Any, backbone: Backbone) -> LabelScorer | TextWriter:
        """The module for ``task``: one that scores the labels, or one that writes."""
        self.opens(backbone)
        known = _BY_KIND.get(task.kind, ())
        chosen = known[0] if self.answers == "auto" and known else self.answers
        if chosen not in known or (task.kind == "text" and any(e.label is None for e in task.train)):
            raise RecipeError(
                f"text_to_text cannot serve a task of kind {task.kind!r} with answers={self.answers}: "
                + (
                    f"it has no few fixed answers; give answers={known[0]}"
                    if known and chosen not in known
                    else "its texts have no targets"
                )
            )
        if chosen == "likelihood":
            return _checked(LabelScorer(self, task, backbone))
        return TextWriter(self, task, backbone)


def _is_word(word: Any) -> bool:
    if not isinstance(word, str):
        raise TypeError
    return True


def _checked(module: LabelScorer) -> LabelScorer:
    if len(module.choices) > CHOICES and module.kind == "regression":
        raise RecipeError(
            f"text_to_text.step makes {len(module.choices)} numbers between the least and the greatest label, too many to score each; give"
            " a larger step, or answers=free"
        )
    return module
