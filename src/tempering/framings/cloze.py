"""Cloze prompts: a text becomes a sentence with a gap, and the class is read off what the model would put there."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from tempering.errors import ModelError, RecipeError
from tempering.framings.gaps import label_words
from tempering.framings.gaps.cloze_module import ClozeModule
from tempering.framings.templates import lm_bff
from tempering.framings.templates.encoder import NAMES
from tempering.framings.templates.marks import normal_marks
from tempering.framings.templates.pieces import AnyTemplate, Soft, masks_in
from tempering.framings.templates.reading import FILES, parse, resolve
from tempering.framings.templates.truncation import Shorten
from tempering.framings.verbalizers.base import checked
from tempering.framings.verbalizers.manual import Manual

if TYPE_CHECKING:
    from tempering.backbone import Backbone

GENERIC = {1: "{text} It was {mask}.", 2: "{text:strip_punct}? {mask}, {text_pair}"}
GENERIC_LAST = {1: "{text} It was {mask}", 2: "{text} {text_pair} It was {mask}"}  # for models that read from left to right

_parsed = lru_cache(maxsize=256)(parse)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Cloze:
    """Asks the model to fill a gap in a sentence made of the text, and reads the class off the label words there.

    ``template`` is our plain form, LM-BFF's, OpenPrompt's or Jinja (`tempering.framings.templates`), ``lm-bff/sst2`` of LM-BFF's own
    table, ``promptsource:FILE#NAME`` or ``lm-eval:FILE``; by default a generic one. Several templates are an ensemble: a row is trained
    on under one of them, drawn anew in every epoch (``trains_on`` "one"), or under all of them, and predicted under all. ``words`` maps
    each label to its word or words (or lists them in the order of the labels); by default those that come with the (first) template,
    given to labels by name or as the template numbers them, else the labels' own names. ``verbalizer`` makes class scores of the words.
    Prompts too long for ``max_length`` are shortened by ``truncation``, after each text was cut to its entry of ``limits``; ``fields``
    says what the texts are called in the template, in the order of the data (by default text and text_pair, or as its columns are
    called); ``marks`` names parts of the texts by what stands before
    and after them, as in {subject: ['<e1>', '</e1>']}, and takes those marks out. Of a value, ``bounds`` are the ends of its scale (by
    default those of the training values), and ``words`` are those of its poles ``low`` and ``high``.

    *Paper*: Schick and Schütze 2021 (PET); Gao, Fisch, Chen 2021 (LM-BFF), whose settings `lm_bff` holds. *Formula*: s_y = class
    scores of the verbalizer at the mask, with one word a class the logit of that word; loss = cross entropy over the classes alone.
    Several templates: the mean of s over them. A value: p = softmax(s_low, s_high), prediction v_l + (v_u - v_l) p_high, loss =
    KL((v_u - y, y - v_l) / (v_u - v_l) || p).
    *Needs*: a model with a mask and a masked-language-model head; one that reads from left to right with the mask last. *Costs*: one
    pass; the head is applied at masks only, and of its output matrix only the label words' rows. *Differs*: the head is trained where
    the tuning trains matrices of the pretrained body, as in both papers, and else stays as it is. LM-BFF's own loss for values is
    wrong (princeton-nlp/LM-BFF#45) and comes only with ``reference_kl``.
    """

    template: str | tuple[str, ...] | None = None
    verbalizer: Any = Field(default_factory=Manual)
    words: Any = ()
    truncation: Shorten = "longest"
    max_length: Annotated[int, Field(ge=1)] | None = None
    limits: tuple[Annotated[int, Field(ge=1)], ...] = ()
    fields: tuple[str, ...] = ()
    marks: Any = ()
    bounds: tuple[float, float] | None = None
    reference_kl: bool = False
    trains_on: Literal["one", "all"] = "one"

    supervised: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("classification", "regression")

    @field_validator("verbalizer")
    @classmethod
    def _is_verbalizer(cls, given: Any) -> Any:
        return checked(given)

    @field_validator("words", mode="before")
    @classmethod
    def _hashable(cls, given: Any) -> Any:
        return label_words.normal(given)

    @field_validator("marks", mode="before")
    @classmethod
    def _paired(cls, given: Any, info: ValidationInfo) -> Any:
        found = normal_marks(given)
        if taken := [name for name, _ in found if name in (info.data.get("fields") or NAMES)]:
            raise ValueError(f"marks: {taken[0]!r} is the name of a whole text already; choose another, such as subject")
        return found

    @field_validator("template")
    @classmethod
    def _readable(cls, given: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """A template is read here, so that a mistake in it is found with the recipe; one that stands in a file becomes its text."""
        if given is None or isinstance(given, str):
            return None if given is None else readable(given)
        if not given:
            raise ValueError("expected a template or several, found an empty list; leave it out for the generic one")
        found = tuple(readable(one) for one in given)
        if len(set(found)) < len(found):
            raise ValueError(f"template {next(t for t in found if found.count(t) > 1)!r} stands there twice; give each once")
        if len(found) > 1 and any(isinstance(p, Soft) for t in found for p in _parsed(t).skeleton()):
            raise ValueError("several templates cannot hold trained vectors; give one template with them, or templates of words alone")
        return found if len(found) > 1 else found[0]

    @property
    def mappings(self) -> tuple[str, ...]:
        """Fields that a recipe file writes as a mapping."""
        return (*(("words",) if label_words.is_mapping(self.words) else ()), *(("marks",) if self.marks else ()))

    @property
    def templates(self) -> tuple[str, ...]:
        """All templates given; none where the generic one serves."""
        return self.template if isinstance(self.template, tuple) else () if self.template is None else (self.template,)

    @property
    def first(self) -> str | None:
        """The first template, whose label words and limits are those of all."""
        return self.templates[0] if self.templates else None

    @property
    def named(self) -> tuple[Any, ...]:
        """The labels it names words for: they stand for those of the data where there is none. Empty where it names none."""
        choices = () if self.first is None else _parsed(self.first).choices
        return label_words.labels_of(self.words, self.first, choices)

    @property
    def soft(self) -> bool:
        """Whether the template holds trained vectors."""
        return any(isinstance(p, Soft) for t in self.templates for p in _parsed(t).skeleton())

    @property
    def trains(self) -> bool:
        """Whether it has weights of its own: vectors in the template, or those of the verbalizer."""
        return self.soft or bool(getattr(self.verbalizer, "trains", False))

    @property
    def works_untrained(self) -> bool:
        """Whether it means something before any step: with trained vectors it does where all of them begin as words."""
        pieces = [p for t in self.templates for p in _parsed(t).skeleton()]
        return all(p.init for p in pieces if isinstance(p, Soft)) and bool(getattr(self.verbalizer, "works_untrained", True))

    @property
    def why_not_cached(self) -> str:
        """Why a frozen model's output may not be kept; empty if it may."""
        if len(self.templates) > 1:
            return "prompts are made by several templates"
        return "vectors inside its prompts are trained" if self.soft else str(getattr(self.verbalizer, "why_not_cached", ""))

    def templates_for(self, task: Any, backbone: Backbone) -> tuple[AnyTemplate, ...]:
        """The templates given, or the generic one for the task's texts and the model's direction."""
        return tuple(_parsed(one) for one in self.settled(task, backbone).templates)

    def settled(self, task: Any, backbone: Backbone) -> Cloze:
        """This value with a template, as a saved folder needs it: one that is loaded has no rows to tell how many texts there are.

        Templates that call the texts as the columns of the data are called get these names as ``fields``.
        """
        if self.templates:
            columns = getattr(task, "columns", None) or {}
            called = tuple(columns[name] for name in NAMES if name in columns)
            read = {field for one in self.templates for field in _parsed(one).fields()}
            theirs = read <= {*called} and not read <= {*NAMES}
            return replace(self, fields=called) if theirs and not self.fields and not self.marks else self
        texts = max((len(e.texts) for e in list(task.train)[:1]), default=len(self.fields) or 1)
        return replace(self, template=(GENERIC_LAST if backbone.layout.kind == "decoder" else GENERIC)[texts])

    def length(self) -> int | None:
        """The length asked for, or that of LM-BFF's setting."""
        named = self.first is not None and self.first.startswith(lm_bff.PREFIX)
        return lm_bff.setting(str(self.first)).max_length if named and self.max_length is None else self.max_length

    def build(self, task: Any, backbone: Backbone) -> ClozeModule:
        """The module for ``task``. What cannot work is refused: a model without masks, a template without one, words it does not know."""
        if task.kind not in self.kinds:
            others = "cloze_ner, head" if task.kind == "tagging" else "head"
            raise RecipeError(
                f"cloze cannot serve a task of kind {task.kind!r}: it reads one class or value off a mask; use framing {others} or"
                " text_to_text"
            )
        refuse(backbone, "cloze")
        self._check_words(task, backbone)
        return ClozeModule(self, task, backbone)

    def _check_words(self, task: Any, backbone: Backbone) -> None:
        """Refuse a verbalizer that reads a word at each of several masks, where none are given: a label's name is one word."""
        template = self.templates_for(task, backbone)[0]
        masks = masks_in(template.skeleton())
        if getattr(self.verbalizer, "asks_words", False) and masks > 1 and not self.words and not template.choices:
            label = task.labels[0] if task.labels else "low"
            raise RecipeError(
                f"template {str(template)!r} has {masks} masks, and no words are given; give each class its {masks} words in the order of"
                f" the masks, as in  framing.words: {{{label}: [{', '.join(f'word{i + 1}' for i in range(masks))}], ...}}"
            )


def readable(given: str) -> str:
    """A template whose text can be parsed."""
    found = resolve(given) if given.startswith(tuple(FILES)) else given
    try:
        _parsed(found)
    except RecipeError as error:
        raise ValueError(str(error)) from None
    return found


def refuse(backbone: Backbone, method: str) -> None:
    """A sentence for a model that has no mask and does not name the next word either."""
    layout, config = backbone.layout, backbone.config
    layout.require(method)
    name = f"{method} cannot serve {backbone.source} ({layout.family})"
    if layout.kind == "text-encoder" or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name}: it writes its answer with a decoder and has no masks; use framing text_to_text, or choose roberta-base")
    if layout.kind == "encoder" and backbone.tokenizer.mask_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no mask token; choose an encoder such as roberta-base")
