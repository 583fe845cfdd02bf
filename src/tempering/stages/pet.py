"""The stage that teaches a classifier by an ensemble of prompted models: PET and iPET."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.codec import methods
from tempering.contracts import Example, Seeds
from tempering.errors import DataError, RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.gaps import label_words
from tempering.framings.head import Head
from tempering.framings.verbalizers.manual import Manual
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.acting import Acting
from tempering.stages.checks import check_train
from tempering.stages.pet_models import Teachers, distilled, foretold
from tempering.stages.pet_sets import Weighting
from tempering.stages.setup import Surroundings
from tempering.streams import key_of
from tempering.tasks.readers import read_rows
from tempering.train.settings import Loop
from tempering.train.stream import OWN, source_of, unseen
from tempering.tunings.full import Full


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PET(Loop, Acting):
    """Trains models under several cloze patterns, lets their ensemble label unlabelled texts softly, and trains a classifier on those.

    ``patterns`` are templates, ``words`` and ``verbalizer`` as in `Cloze`; each pattern is trained ``repetitions`` times, for
    ``pattern_steps`` steps at ``pattern_learning_rate``. ``text`` says where the unlabelled texts come from: "unlabeled" are those of the
    training split, anything else is a corpus (of a task of pairs, rows with its two columns). ``weighting`` "wmean" weighs a model by its
    accuracy on the training rows before it was trained. With ``generations`` (iPET) the models are trained so many times more, each on the
    labelled rows and a set that a share ``others`` of the other models has labelled, ``scale`` times as large as the last.
    ``zero_shot`` uses no labelled row: the first models are the pretrained one under each pattern, all count alike, and their first sets
    are drawn from the ``most_likely`` rows of a class.
    The loop's settings, ``framing``, ``tuning`` and ``stabilizers`` are those of the classifier in the end; models under patterns are
    trained with the same ``tuning``.

    *Paper*: Schick and Schütze 2021 (EACL and NAACL). *Formula*: a pattern's loss = alpha CE + (1 - alpha) MLM on unlabelled texts under
    the pattern; soft labels s = sum_m w_m s_m / sum w_m; the classifier's loss = T^2 KL(softmax(s / T) || softmax(logits / T)).
    *Needs*: a masked language model; unlabelled texts. *Costs*: (generations + 1) x patterns x repetitions trainings and readings of the
    texts, then the classifier. *Differs*: PET takes 5000 steps for the classifier, and one more step than asked for; here as many as are
    set. A class of which no model finds a text is an error and not an empty set.
    """

    patterns: tuple[str, ...] = ()
    words: Any = ()
    verbalizer: Any = Field(default_factory=Manual)
    repetitions: int = Field(default=3, gt=0)
    alpha: float = Field(default=0.9999, gt=0, le=1)
    pattern_steps: int = Field(default=250, gt=0)
    pattern_learning_rate: float = Field(default=1e-5, gt=0)
    pattern_batch_size: int = Field(default=16, gt=0)
    pattern_max_length: int | None = Field(default=256, gt=0)
    text: str = Field(default="unlabeled", min_length=1)
    documents: Literal["line", "paragraph", "file"] = "line"
    column: str | None = Field(default=None, min_length=1)
    weighting: Weighting = "wmean"
    temperature: float = Field(default=2.0, gt=0)
    generations: int = Field(default=0, ge=0)
    others: float = Field(default=0.25, gt=0, le=1)
    scale: float = Field(default=5.0, gt=1)
    zero_shot: bool = False
    most_likely: int = Field(default=100, gt=0)
    framing: Any = Field(default_factory=Head)
    tuning: Any = Field(default_factory=Full)
    stabilizers: tuple[Any, ...] = ()

    cached: ClassVar[bool] = False
    why_not_cached: ClassVar[str] = "models under patterns are trained before"
    data: ClassVar[str | None] = None
    trained_in: ClassVar[str] = "classifier"  # the folder of its checkpoints in that of the stage

    @field_validator("framing", "tuning", "stabilizers", "verbalizer", mode="before")
    @classmethod
    def _by_name(cls, given: Any, info: ValidationInfo) -> Any:
        return methods(str(info.field_name), given, f"PET.{info.field_name}")

    @field_validator("words", mode="before")
    @classmethod
    def _hashable(cls, given: Any) -> Any:
        return label_words.normal(given)

    @field_validator("patterns", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @property
    def mappings(self) -> tuple[str, ...]:
        """Fields that a recipe file writes as a mapping."""
        return ("words",) if label_words.is_mapping(self.words) else ()

    def cloze(self, pattern: str) -> Cloze:
        """The framing of one pattern."""
        return Cloze(template=pattern, words=self.words, verbalizer=self.verbalizer, max_length=self.pattern_max_length)

    def foretold(self, backbone: Backbone, task: Any) -> tuple[str, ...]:
        """Notes on the patterns, as far as ``backbone`` and the rows of ``task`` (None: unknown) tell; one that cannot serve is refused."""
        return foretold([self.cloze(pattern) for pattern in self.patterns], backbone, task)

    def costs(self, rows: Sequence[Example]) -> str:
        """The models that are made before the classifier, in words; ``rows`` are the unlabelled texts, none where they are not known."""
        each = len(self.patterns) * self.repetitions
        generations = f" x {self.generations + 1} generations" if self.generations else ""
        untrained = f", the first {each} of them as they are" if self.zero_shot else ""
        texts = f"the {len(rows):,} unlabelled texts" if rows else "all unlabelled texts"
        return (
            f"{each * (self.generations + 1)} models ({len(self.patterns)} patterns x {self.repetitions} repetitions{generations}) are"
            f" trained before the classifier, {self.pattern_steps:,} steps of {self.pattern_batch_size} rows each{untrained}, and each"
            f" reads {texts}"
        )

    def check(self, where: str, last: bool) -> list[str]:
        """Refuse what cannot work or means nothing, before any weight is loaded; notes worth printing."""
        if not self.patterns:
            raise RecipeError(
                f"{where}: pet needs patterns, and names none; set  stages.0.patterns=['{{text}} It was {{mask}}.', '{{mask}}! {{text}}']"
            )
        if len(set(self.patterns)) < len(self.patterns):
            raise RecipeError(f"{where}: a pattern stands there twice; raise repetitions in place of it")
        if soft := next((p for p in self.patterns if self.cloze(p).soft), None):
            raise RecipeError(f"{where}: pattern {soft!r} holds trained vectors, which pet does not train; write words")
        if self.generations and len(self.patterns) * self.repetitions < 2:
            raise RecipeError(f"{where}: generations need other models to learn from; give more patterns or repetitions")
        if not self.framing.supervised or hasattr(self.framing, "verbalizer"):
            raise RecipeError(
                f"{where}: the classifier in the end is trained on soft labels; take framing head, not {name_of(self.framing)[1]}"
            )
        if taken := [name_of(s)[1] for s in self.live if "base" in s.touches]:
            raise RecipeError(f"{where}: {taken[0]} replaces the loss, and pet's is that of the soft labels; leave it out")
        if self.class_weights != "none" or self.label_smoothing_factor:
            asked = "class_weights" if self.class_weights != "none" else "label_smoothing_factor"
            raise RecipeError(f"{where}: {asked} is for labels, and pet's classifier learns the soft labels of its models; leave it out")
        return check_train(_Classifier(self), where, last)

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """Train everything; the classifier, on ``backbone``, is the learner. Models under patterns are trained on copies."""
        around: Surroundings = context.get("around") or Surroundings()
        if task.kind != "classification":
            raise RecipeError(f"pet labels texts by class, and {task.name} is of kind {task.kind}; take framing cloze, or head")
        pool = self.pool(task)
        texts = f"{key_of(*(text for e in pool for text in e.texts)):x}"  # what was made of other texts is not taken up again
        around = dataclasses.replace(around, identity=(*around.identity, ("unlabeled texts", texts)))
        teachers = Teachers(self, backbone, task, pool, seeds, around)
        soft = teachers.soft_labels()
        learner = distilled(self, backbone, task, pool, soft, seeds, around)
        learner.record["stage"] |= {"unlabeled": len(pool), "models": teachers.account}
        return learner

    def pool(self, task: Any) -> list[Example]:
        """The unlabelled texts: copies of development and test texts are left out."""
        if self.text in OWN:
            found = unseen(task)
        elif task.columns.get("text_pair") or any(len(e.texts) == 2 for e in task.train[:1]):
            found = unseen(task, self._pairs(task))
        else:
            found = unseen(task, [Example((text,), row=i) for i, text in enumerate(source_of(self), start=1)])
        if not found:
            raise DataError(f"pet: {self.text!r} holds no text that is not a development or test text too; give other unlabelled texts")
        return found

    def _pairs(self, task: Any) -> Sequence[Example]:
        """The pairs of the file or folder ``text``; labels are not read, and need not be there."""
        try:
            return read_rows(self.text, columns=task.columns, split="train")[1]
        except DataError as error:
            first, second = (task.columns.get(name) or name for name in ("text", "text_pair"))
            raise DataError(
                f"pet: text {self.text!r} cannot be read as pairs: {str(error).partition(';')[0]}; call its columns as in the training"
                f" data, {first} and {second}"
            ) from None


class _Classifier:
    """The stage as the check of a training stage reads it: its rows are soft-labelled."""

    def __init__(self, stage: PET) -> None:
        self.stage = stage
        self.text = "labeled"
        self.column = self.curate = None
        self.documents = "line"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)
