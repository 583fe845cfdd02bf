"""What a task's labels are called when a model writes them, and which label a written text means. One class a kind of task."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tempering.contracts import Example, Label, Prediction, Span
from tempering.errors import RecipeError
from tempering.framings.gaps.naming import by_class
from tempering.framings.writing.linear import NONE, check_tags, linear, locate, parse
from tempering.tags import scheme_of, split_words, types_of

AMONG = ", "  # between the labels of a row that has several


@dataclass
class Targets(ABC):
    """Labels as text and back. ``missed`` counts, by reason, what was written and could not be read as it stands."""

    missed: dict[str, int] = field(default_factory=dict, kw_only=True)

    @abstractmethod
    def text(self, example: Example) -> str:
        """The target of a labelled example."""

    @abstractmethod
    def read(self, said: str, example: Example) -> Prediction:
        """The prediction that a written text means."""

    def choices(self) -> list[str]:
        """Every target there is, in the order of the classes; none where they are not a fixed few."""
        return []

    def miss(self, why: str, times: int = 1) -> None:
        """Count what could not be read."""
        if times:
            self.missed[why] = self.missed.get(why, 0) + times


@dataclass
class Names(Targets):
    """Classes by their words; what is written is another text than any of them is kept as it is, and so counts as wrong."""

    labels: tuple[Label, ...]
    words: tuple[str, ...]

    @classmethod
    def of(cls, labels: Sequence[Label], given: Mapping[Any, str]) -> Names:
        """Words as ``given`` by label, else the labels' own names. Two labels of one word, or a word for no label, are refused."""
        named = by_class(given, labels, "text_to_text.words")
        unknown = [name for name in named if name not in set(labels)]
        if unknown and labels:
            raise RecipeError(f"text_to_text.words: {unknown[0]!r} is no label of the task; its labels: {', '.join(map(str, labels))}")
        words = tuple(named.get(label, str(label)).strip() for label in labels)
        for i, word in enumerate(words):
            if not word or word in words[:i]:
                twin = f"{labels[words.index(word)]!r} and {labels[i]!r} are both written {word!r}" if word else f"{labels[i]!r} has none"
                raise RecipeError(f"text_to_text.words: {twin}; give each label a word of its own, as in  words: {{{labels[i]}: ...}}")
        return cls(tuple(labels), words)

    def text(self, example: Example) -> str:
        """The word of its label."""
        return self.word(example.label)

    def word(self, label: Label) -> str:
        """The word of one label."""
        return self.words[self.index(label)]

    def index(self, label: Label) -> int:
        """The number of one label; 1, True and 1.0 are not the same."""
        return next(i for i, known in enumerate(self.labels) if known == label and type(known) is type(label))

    def read(self, said: str, example: Example) -> Prediction:
        """The label of this word."""
        found = self.named(said)
        if found is None:
            self.miss("no label")
            return Prediction(said.strip())
        return Prediction(self.labels[found])

    def named(self, said: str) -> int | None:
        """The number of the class that ``said`` names: by its very word, or but for case and spaces where that leaves one class."""
        if said.strip() in self.words:
            return self.words.index(said.strip())
        alike = [i for i, word in enumerate(self.words) if _folded(word) == _folded(said)]
        return alike[0] if len(alike) == 1 else None

    def choices(self) -> list[str]:
        """The words."""
        return list(self.words)


@dataclass
class Sets(Targets):
    """Several labels: their words in the order of the labels, ``none`` for a row without any."""

    names: Names

    def __post_init__(self) -> None:
        """Refuse words that could never be read again: in a list of labels they would be several, or no label at all."""
        for label, word in zip(self.names.labels, self.names.words, strict=True):
            if AMONG.strip() in word or _folded(word) == NONE:
                why = f"{NONE!r} stands for a row without labels" if _folded(word) == NONE else "a comma stands between the labels of a row"
                raise RecipeError(
                    f"text_to_text.words: label {label!r} would be written {word!r}, but {why}, so that it could never be predicted; give"
                    f" it another word, as in  {example_of(label)}"
                )

    def text(self, example: Example) -> str:
        """The words of its labels."""
        return AMONG.join(self.names.words[i] for i in sorted(self.names.index(label) for label in example.label)) or NONE

    def read(self, said: str, example: Example) -> Prediction:
        """The labels that are named; what is no label is dropped and counted."""
        parts = [] if _folded(said) == NONE else [part for part in said.split(AMONG.strip()) if part.strip()]
        found = [self.names.named(part) for part in parts]
        self.miss("no label", found.count(None))
        return Prediction(tuple(label for i, label in enumerate(self.names.labels) if i in found))


@dataclass
class Values(Targets):
    """Numbers on a grid of ``step`` (T5 writes STS-B so: the nearest 0.2, with one decimal). ``low`` to ``high`` is what training held."""

    step: float
    low: float = 0.0
    high: float = 0.0

    @property
    def decimals(self) -> int:
        """Digits that the step needs."""
        return len(f"{self.step:.6f}".rstrip("0").partition(".")[2])

    def at(self, value: float) -> str:
        """A number as it is written."""
        return f"{round(value / self.step) * self.step + 0.0:.{self.decimals}f}"

    def text(self, example: Example) -> str:
        """Its value."""
        return self.at(float(example.label))

    def grid(self) -> list[float]:
        """The values there are between the least and the greatest."""
        first, last = round(self.low / self.step), round(self.high / self.step)
        return [float(f"{i * self.step:.{self.decimals}f}") for i in range(first, last + 1)]

    def read(self, said: str, example: Example) -> Prediction:
        """The number, kept between the least and the greatest; the middle of the two where it is none."""
        try:
            value = float(said)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.miss("no number")
            value = (self.low + self.high) / 2
        return Prediction(min(max(value, self.low), self.high))

    def choices(self) -> list[str]:
        """The grid."""
        return [self.at(value) for value in self.grid()]


@dataclass
class Free(Targets):
    """Text as it is."""

    def text(self, example: Example) -> str:
        """Its label."""
        return str(example.label)

    def read(self, said: str, example: Example) -> Prediction:
        """What was written."""
        return Prediction(said.strip())


@dataclass
class Entities(Targets):
    """The entities of a text in one line (`tempering.framings.writing.linear`)."""

    labels: tuple[str, ...]

    def text(self, example: Example) -> str:
        """Its entities."""
        return linear(example, example.label)

    def read(self, said: str, example: Example) -> Prediction:
        """Tags and places of the entities that were found in the text."""
        if not example.words:
            example = Example(example.texts, None, example.row, split_words(example.texts[0]))
        found = parse(said, example, types_of(self.labels), scheme_of(self.labels))
        self.miss("not as asked", found.broken)
        self.miss("not in the text", found.lost)
        return Prediction(found.tags, spans=found.spans)


@dataclass
class Answers(Targets):
    """The first answer, ``none`` where there is none."""

    def text(self, example: Example) -> str:
        """Its first answer."""
        return str(example.label[0][1]) if example.label else NONE

    def read(self, said: str, example: Example) -> Prediction:
        """The answer with its place, as the context has it; what the context lacks stays as it was written, without a place."""
        said = said.strip()
        if _folded(said) in (NONE, ""):
            return Prediction("")
        place = locate(example.texts[1], said.split())
        if place is None:
            self.miss("not in the text")
            return Prediction(said)
        answer = example.texts[1][place[0] : place[1]]
        return Prediction(answer, spans=(Span(*place, "answer"),))


def example_of(label: Label) -> str:
    """How a recipe gives the word of ``label``."""
    return f"words: {{{json.dumps(str(label), ensure_ascii=False)}: ...}}"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def targets_of(task: Any, words: Mapping[Any, str], step: float) -> Targets:
    """The targets of ``task`` by its kind."""
    if words and task.kind not in ("classification", "multilabel"):
        raise RecipeError(f"text_to_text.words names classes, and a task of kind {task.kind!r} has none; leave it out")
    if task.kind == "classification":
        return Names.of(task.labels, words)
    if task.kind == "multilabel":
        return Sets(Names.of(task.labels, words))
    if task.kind == "regression":
        values = [float(e.label) for e in task.train if e.label is not None]
        return Values(step, min(values, default=0.0), max(values, default=0.0))
    if task.kind == "tagging":
        check_tags(task.labels)
        return Entities(tuple(task.labels))
    return Answers() if task.kind == "question_answering" else Free()
