"""Prompts as plain strings: a pattern with slots for the texts and the answer, label words, and the formats of published prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tempering.errors import RecipeError
from tempering.framings.gaps.label_words import is_mapping, normal
from tempering.framings.gaps.naming import for_each

SLOTS = ("text", "text_pair", "answer")
_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
Words = tuple[tuple[str, tuple[str, ...]], ...]  # label -> its words, first of them shown in demonstrations


class Prompting(Protocol):
    """The fields that values of framings with demonstrations share."""

    @property
    def template(self) -> str | None: ...

    @property
    def words(self) -> Any: ...

    @property
    def instruction(self) -> str | None: ...

    @property
    def separator(self) -> str: ...

    @property
    def shots(self) -> int: ...

    @property
    def per_class(self) -> bool: ...

    @property
    def max_length(self) -> int | None: ...

    @property
    def cache(self) -> bool: ...


@dataclass(frozen=True)
class Format:
    """A published prompt: its pattern, the words of the labels under each spelling that data sets use, and an instruction."""

    template: str
    words: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    instruction: str = ""


_TOPICS = "Company School Artist Athlete Politician Transportation Building Nature Village Animal Plant Album Film Book".split()
_CUT = {"Athlete": "Ath", "Politician": "Polit"}  # labels of several tokens in GPT-2's vocabulary
_ONTOLOGY = {  # what DBpedia itself calls them
    "School": "educationalinstitution",
    "Politician": "officeholder",
    "Transportation": "meanoftransportation",
    "Nature": "naturalplace",
    "Book": "writtenwork",
}

# The manual formats of Zhao et al. 2021 (their code's, with labels cut where one token was wanted), and two plain ones.
FORMATS: dict[str, Format] = {
    "plain": Format("Input: {text}\nLabel: {answer}"),
    "plain_pair": Format("Sentence 1: {text}\nSentence 2: {text_pair}\nLabel: {answer}"),
    "channel": Format("Label: {answer}\nInput: {text}"),
    "channel_pair": Format("Label: {answer}\nSentence 1: {text}\nSentence 2: {text_pair}"),
    "sst2": Format(
        "Review: {text}\nSentiment: {answer}",
        ((("negative", "neg", "0"), ("Negative",)), (("positive", "pos", "1"), ("Positive",))),
    ),
    "ag_news": Format(
        "Article: {text}\nAnswer: {answer}",
        (
            (("world", "0"), ("World",)),
            (("sports", "1"), ("Sports",)),
            (("business", "2"), ("Business",)),
            (("sci/tech", "sci_tech", "technology", "3"), ("Technology", "Science")),
        ),
        "Classify the news articles into the categories of World, Sports, Business, and Technology.",
    ),
    "trec": Format(
        "Question: {text}\nAnswer Type: {answer}",
        (
            (("num", "number", "numeric"), ("Number",)),
            (("loc", "location"), ("Location",)),
            (("hum", "person", "human"), ("Person",)),
            (("desc", "description"), ("Description",)),
            (("enty", "entity"), ("Entity",)),
            (("abbr", "abbreviation", "expression"), ("Ab",)),
        ),
        "Classify the questions based on whether their answer type is a Number, Location, Person, Description, Entity, or Abbreviation.",
    ),
    "rte": Format(
        "{text}\nquestion: {text_pair} True or False?\nanswer: {answer}",
        ((("entailment", "true", "0"), ("True",)), (("not_entailment", "false", "1"), ("False",))),
    ),
    "cb": Format(
        "{text}\nquestion: {text_pair}. true, false, or neither?\nanswer: {answer}",
        ((("entailment", "true"), ("true",)), (("contradiction", "false"), ("false",)), (("neutral", "neither"), ("neither",))),
    ),
    "dbpedia": Format(
        "Article: {text}\nAnswer: {answer}",
        tuple(((name.lower(), _ONTOLOGY.get(name, name.lower()), str(i)), (_CUT.get(name, name),)) for i, name in enumerate(_TOPICS)),
        "Classify the documents based on whether they are about a Company, School, Artist, Athlete, Politician, Transportation, Building,"
        " Nature, Village, Animal, Plant, Album, Film, or Book.",
    ),
}


@dataclass(frozen=True)
class Pattern:
    """A parsed template: literals and slots in turn. ``source`` is its spelling."""

    source: str
    pieces: tuple[tuple[str, str], ...]  # (literal before it, slot or "" at the end)

    @classmethod
    def of(cls, source: str) -> Pattern:
        """Parse ``source``: {text}, {text_pair}, {answer} are slots, {{ and }} braces. Without {answer} the answer comes at the end."""
        pieces = list(_parsed(source))
        slots = [slot for _, slot in pieces if slot]
        if "answer" not in slots:
            literal, _ = pieces.pop()
            pieces += [(literal + ("" if literal.endswith((" ", "\n")) else " "), "answer"), ("", "")]
            slots.append("answer")
        doubled = [slot for slot in SLOTS if slots.count(slot) > 1]
        if doubled or "text" not in slots:
            what = f"has {{{doubled[0]}}} more than once" if doubled else "has no {text}"
            raise RecipeError(f"template {source!r} {what}; write each of {{text}}, {{text_pair}} (for pairs) and {{answer}} once")
        return cls(source, tuple(pieces))

    @property
    def pair(self) -> bool:
        """Whether it has a slot for a second text."""
        return any(slot == "text_pair" for _, slot in self.pieces)

    @property
    def answer_last(self) -> bool:
        """Whether every text stands before the answer."""
        slots = [slot for _, slot in self.pieces if slot]
        return slots.index("answer") == len(slots) - 1

    def filled(self, texts: Sequence[str], answer: str) -> str:
        """The whole prompt, answered."""
        return self._joined(0, len(self.pieces), texts, answer)

    def asked(self, texts: Sequence[str]) -> tuple[str, str]:
        """What stands before the answer and after it."""
        at = [slot for _, slot in self.pieces].index("answer")
        return self._joined(0, at, texts) + self.pieces[at][0], self._joined(at + 1, len(self.pieces), texts)

    def told(self, texts: Sequence[str], answer: str) -> tuple[str, str]:
        """For the channel: what stands before the first text, with the answer in it, and the rest from there on."""
        cut = next(i for i, (_, slot) in enumerate(self.pieces) if slot.startswith("text"))
        before = self._joined(0, cut, texts, answer) + self.pieces[cut][0]
        return before, self._joined(cut, len(self.pieces), texts, answer)[len(self.pieces[cut][0]) :]

    def _joined(self, begin: int, end: int, texts: Sequence[str], answer: str = "") -> str:
        given = {"text": texts[0], "text_pair": texts[-1], "answer": answer, "": ""}
        return "".join(literal + given[slot] for literal, slot in self.pieces[begin:end])

    @property
    def premise(self) -> str:
        """What stands between the last text and the answer: the domain premise of PMI-DC."""
        slots = [slot for _, slot in self.pieces]
        return self.pieces[slots.index("answer")][0]

    @property
    def opening(self) -> str:
        """What stands before the first slot: it is the same in every query."""
        return self.pieces[0][0]


def _parsed(source: str) -> Iterator[tuple[str, str]]:
    literal, end = "", 0
    for found in _SLOT.finditer(source):
        literal += source[end : found.start()]
        end = found.end()
        if found.group(0) in ("{{", "}}"):
            literal += found.group(0)[0]
            continue
        if found.group(1) not in SLOTS:
            raise RecipeError(
                f"template {source!r}: {found.group(0)} is no slot; known are {', '.join('{' + s + '}' for s in SLOTS)}, and {{{{ and }}}}"
                " stand for braces"
            )
        yield literal, found.group(1)
        literal = ""
    yield literal + source[end:], ""


def paired(given: Any) -> Any:
    """Label words from a recipe, hashable: a mapping label -> word or words, or a list of words, or of several each, in label order."""
    return () if given is None else normal(given)


def label_words(given: Any, labels: Sequence[Any], format_: Format | None) -> list[tuple[str, ...]]:
    """The words of every label, in the order of ``labels``: those given, else the format's, else the label's own name."""
    found: list[tuple[str, ...]]
    if is_mapping(given):
        found = [words for _, words in for_each(dict(given), labels)]
    elif given:
        if len(given) != len(labels):
            raise RecipeError(f"words: {len(given)} words for {len(labels)} labels ({', '.join(map(str, labels))}); give one for each")
        found = [(words,) if isinstance(words, str) else tuple(words) for words in given]
    else:
        spelled = {name: words for names, words in (format_.words if format_ else ()) for name in names}
        named = [spelled.get(str(label).lower(), ()) for label in labels]
        found = named if all(named) else [(str(label).replace("_", " "),) for label in labels]
    _refuse_shared(found, labels)
    return found


def _refuse_shared(found: Sequence[tuple[str, ...]], labels: Sequence[Any]) -> None:
    owner: dict[str, Any] = {}
    for label, words in zip(labels, found, strict=True):
        for word in words:
            if not word.strip():
                raise RecipeError(f"words: label {label!r} has an empty word; give it one with letters")
            if word in owner:
                raise RecipeError(f"words: {word!r} stands for both {owner[word]!r} and {label!r}; give each label words of its own")
            owner[word] = label


def unnamed(instruction: str, words: Sequence[Sequence[str]], labels: Sequence[Any]) -> Iterator[str]:
    """A note where an instruction names the answers of some labels and not those of others: the model would never give the rest."""
    named = [any(word.lower() in instruction.lower() for word in found) for found in words]
    left_out = [f"{found[0]!r} ({label})" for found, label, known in zip(words, labels, named, strict=True) if not known]
    if any(named) and left_out:
        yield f"instruction {instruction!r} names some answers and not {', '.join(left_out)}; name all of them in the words of the labels"
