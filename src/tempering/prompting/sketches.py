"""What a filler completes: the texts of a training example and its label word with two gaps, and the template that the gaps make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from tempering.contracts import Example
from tempering.framings.templates import plain
from tempering.framings.templates.coding import MARKS, PieceCoder
from tempering.framings.templates.encoder import NAMES
from tempering.framings.templates.pieces import TRANSFORMS, Field, Mask, Piece, Template, Text, spaced

Where = Literal["after", "before", "between"]
FORMS: dict[int, tuple[Where, ...]] = {1: ("after", "before"), 2: ("between",)}
FIRST = ("strip_punct",)  # of a pair, the first text loses its final punctuation and the second its capital, as in LM-BFF
SECOND = ("lower_first",)


class Sketch(NamedTuple):
    """One example as ids: what stands before the first gap, the label word between the gaps, what stands after the second."""

    head: list[int]
    word: tuple[int, ...]
    tail: list[int]


@dataclass(frozen=True)
class Form:
    """Where the texts stand: "after": text, gap, label word, gap; "before": gap, label word, gap, text; "between": a pair around all."""

    where: Where

    def sketches(self, examples: Sequence[Example], words: Sequence[tuple[int, ...]], coder: PieceCoder, room: int) -> list[Sketch]:
        """The examples with their label words; texts are cut to ``room`` tokens: before the gaps off the front, else off the end."""
        heads, tails = self._texts(examples)
        front = coder.encode(heads, [None] * len(heads))
        back = coder.encode(tails, [True] * len(tails))
        each = room // 2 if self.where == "between" else room
        return [Sketch(h[-each:] if h else h, word, t[:each]) for h, word, t in zip(front, words, back, strict=True)]

    def _texts(self, examples: Sequence[Example]) -> tuple[list[str], list[str]]:
        texts = [[text.strip() for text in e.texts] for e in examples]
        if self.where == "after":
            return [t[0] for t in texts], ["" for _ in texts]
        if self.where == "before":  # a full stop in front, so that what follows begins a sentence
            return ["." for _ in texts], [t[0] for t in texts]
        return [TRANSFORMS[FIRST[0]](t[0]) for t in texts], [TRANSFORMS[SECOND[0]](t[1]) for t in texts]

    def template(self, left: Words, right: Words) -> str:
        """The template with ``left`` in the first gap and ``right`` in the second."""
        gap: list[Piece] = [*left.pieces(), Mask(space=True), *right.pieces()]
        if self.where == "after":
            parts: list[Piece] = [Field("text"), *gap]
        elif self.where == "before":
            parts = [*gap, Field("text", space=True)]
        else:
            parts = [Field("text", FIRST), *gap, Field("text_pair", SECOND, space=True)]
        return plain.write(Template(spaced(parts)))


def in_fields(template: str, fields: Sequence[str]) -> str:
    """``template`` in our plain form with the texts by the names that ``fields`` gives them, where it gives any."""
    names = dict(zip(NAMES, fields, strict=False))
    pieces = plain.parse(template).pieces
    return plain.write(Template(tuple(replace(p, name=names.get(p.name, p.name)) if isinstance(p, Field) else p for p in pieces)))


class Words(NamedTuple):
    """What was written into a gap, and whether a space stands before it. An empty gap says nothing."""

    text: str
    space: bool

    def pieces(self) -> list[Piece]:
        """A piece of a template, or none."""
        return [Text(self.text, self.space)] if self.text else []


def words_of(ids: Sequence[int], coder: PieceCoder) -> Words | None:
    """The text that ``ids`` stand for; None where encoding it again gives other ids, so that it would not be what was scored."""
    if not ids:
        return Words("", False)
    tokenizer: Any = coder.tokenizer
    first = str(tokenizer.convert_ids_to_tokens(int(ids[0])))
    marked = first.startswith(MARKS) if coder.habit != "none" else first[:2] != "##" and first[:1].isalnum()
    text = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)).strip()
    if not text or text != " ".join(text.split()):
        return None
    return Words(text, marked) if coder.encode([text], [marked])[0] == list(ids) else None
