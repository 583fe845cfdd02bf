"""Named entities by cloze prompts: each stretch of words is put into a sentence that says what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from tempering.contracts import Kind
from tempering.errors import RecipeError
from tempering.framings.cloze import Cloze, readable, refuse
from tempering.framings.gaps import label_words
from tempering.framings.gaps.ner_module import SPAN, TEXT, ClozeNERModule
from tempering.framings.templates.reading import parse
from tempering.framings.verbalizers.base import checked
from tempering.framings.verbalizers.manual import Manual
from tempering.tags import OUTSIDE, scheme_of, types_of

if TYPE_CHECKING:
    from tempering.backbone import Backbone

GENERIC = "{text} {span} is a {mask} entity."
GENERIC_LAST = "{text} {span} is a {mask}"  # for models that read from left to right
WORDS = {OUTSIDE: "non", "PER": "person", "PERS": "person", "LOC": "location", "ORG": "organization", "GPE": "country", "MISC": "other"}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ClozeNER:
    """Asks of every stretch of words what kind of entity it is, by a sentence with a gap, and keeps those that are one and do not overlap.

    ``template`` reads ``{text}``, the whole text, and ``{span}``, the stretch, around its mask (by default "{text} {span} is a {mask}
    entity."). ``words`` maps each type, and O for a stretch that is none, to its word or words; what it leaves out is the type's own
    name, of PER, LOC, ORG and MISC person, location, organization and other, of O "non". ``verbalizer`` makes class scores of them.
    Two statements of any lengths, as in the paper, are ``template`` "{text} {span} is {mask} entity." with words "a person" and, for O,
    "not a named", under the verbalizer ``multi_mask``. ``max_span`` is the most words of a stretch, ``negatives`` how many stretches that
    are no entity are trained on for each that is. Of a text that is too long for ``max_length``, the words around the stretch are shown.

    *Paper*: after Cui, Wu, Liu, Yang, Zhang 2021 (Template-Based NER using BART; negatives 1.5, spans up to 8 words). *Formula*: s(x,
    c) = the cloze's score of class c for stretch x of text t; P(c | t, x) = softmax_c s(x, c); loss = the cloze's, a mean over all
    entities and the stretches drawn. Prediction: every x with argmax_c P(c | t, x) other than O is an entity of that type, the largest
    P first, where it shares no word with one taken before. *Needs*: tags with a scheme (B-, I-, O); a masked language model, or for a
    template that ends with its mask one that reads from left to right. *Costs*: training, a prompt for each entity and 1.5 for others;
    prediction, one for each stretch, k n - k (k - 1) / 2 for n words and k = ``max_span`` (`temper explain` counts them). *Differs*: a
    mask is filled in place of the whole sentence being scored by a decoder; stretches that are none are drawn from all rows together,
    anew in every epoch; equally sure ones go by their place.
    """

    template: str | None = None
    verbalizer: Any = Field(default_factory=Manual)
    words: Any = ()
    max_span: Annotated[int, Field(ge=1)] = 8
    negatives: Annotated[float, Field(gt=0)] = 1.5
    max_length: Annotated[int, Field(ge=1)] | None = None

    supervised: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("tagging",)
    why_not_cached: ClassVar[str] = "other stretches of words are drawn in every epoch"

    @field_validator("template")
    @classmethod
    def _reads_the_span(cls, given: str | None) -> str | None:
        found = None if given is None else readable(given)
        if found is not None and SPAN not in parse(found).fields():
            raise ValueError("expected a template with {span}, where the words that may be an entity go")
        return found

    @field_validator("verbalizer")
    @classmethod
    def _is_verbalizer(cls, given: Any) -> Any:
        return checked(given)

    @field_validator("words", mode="before")
    @classmethod
    def _by_type(cls, given: Any) -> Any:
        found = label_words.normal(given)
        if found and not label_words.is_mapping(found):
            raise ValueError("words must map entity types to their words, as in  {PER: person, O: non}")
        return found

    @property
    def mappings(self) -> tuple[str, ...]:
        """Fields that a recipe file writes as a mapping."""
        return ("words",) if self.words else ()

    @property
    def cloze(self) -> Cloze:
        """The prompt of one stretch."""
        return Cloze(self.template or GENERIC, self.verbalizer, self.words, max_length=self.max_length, fields=(TEXT, SPAN))

    @property
    def named(self) -> tuple[str, ...]:
        """Tags of the types it names words for: they stand for those of the data where there is none."""
        types = [str(type_) for type_, _ in self.words if type_ != OUTSIDE]
        return (OUTSIDE, *(f"{letter}-{type_}" for type_ in types for letter in "BI")) if types else ()

    @property
    def trains(self) -> bool:
        """Whether it has weights of its own: vectors in the template, or those of the verbalizer."""
        return self.cloze.trains

    @property
    def works_untrained(self) -> bool:
        """Whether it means something before any step."""
        return self.cloze.works_untrained

    def build(self, task: Any, backbone: Backbone) -> ClozeNERModule:
        """The module for ``task``. Tags without a scheme, and models that fill no masks, are refused."""
        if task.kind != "tagging":
            raise RecipeError(
                f"cloze_ner cannot serve a task of kind {task.kind!r}: it finds entities among words that are tagged; use framing cloze"
            )
        if scheme_of(task.labels) == "plain":
            raise RecipeError(
                f"cloze_ner needs entity tags such as B-PER, I-PER and O, and the tags here are {', '.join(map(str, task.labels[:5]))};"
                " use framing token_head for tags of single words"
            )
        refuse(backbone, "cloze_ner")
        template = self.template or (GENERIC_LAST if backbone.layout.kind == "decoder" else GENERIC)
        words = words_for(types_of(task.labels), self.words)
        cloze = Cloze(template, self.verbalizer, words, max_length=self.max_length, fields=(TEXT, SPAN))
        return ClozeNERModule(self, cloze, task, backbone)


def words_for(types: tuple[str, ...], given: Any) -> dict[str, tuple[str, ...]]:
    """The words of O and of each type: those ``given``, else the usual ones, else its own name."""
    own = {str(type_): words for type_, words in given}
    usual = {type_: (WORDS[type_] if type_ in WORDS else _said(type_),) for type_ in (OUTSIDE, *types) if type_ not in own}
    return {type_: own.get(type_) or usual[type_] for type_ in (OUTSIDE, *types)} | own


def _said(type_: str) -> str:
    """``creative-work`` as "creative work", ``EVENT`` as "event"."""
    said = label_words.spoken(type_.replace("-", " "))
    return said.lower() if said.isupper() else said
