"""What a template is made of, whatever it was written in: texts, fields, masks, trained vectors, special tokens, label words.

Each piece says whether a space stands ``space`` before it, and holds none itself at its ends: only so do tokenizers that mark the
start of a word see the same words as in running text, wherever a piece begins.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

from tempering.errors import RecipeError

SpecialName = Literal["cls", "sep", "sep+", "bos", "eos"]  # sep+: what follows is the next segment
SPECIALS: tuple[SpecialName, ...] = ("cls", "sep", "sep+", "bos", "eos")


@dataclass(frozen=True, slots=True)
class Text:
    """Words of the template itself."""

    text: str
    space: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A text of the example, by ``name``, after ``transforms`` in turn. ``limit``: its own most tokens; not ``shortenable``: never cut."""

    name: str
    transforms: tuple[str, ...] = ()
    space: bool = False
    shortenable: bool = True
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Mask:
    """``count`` tokens to be named by the model; None: as many as the verbalizer needs."""

    count: int | None = None
    space: bool = False


@dataclass(frozen=True, slots=True)
class Soft:
    """``count`` trained vectors, first drawn as the embeddings of ``init`` if that is given. Equal ``key``: the same vectors."""

    count: int = 1
    init: str = ""
    key: str = ""
    space: bool = False


@dataclass(frozen=True, slots=True)
class Special:
    """A special token, by what it is for."""

    name: SpecialName
    space: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """A label word: that of class ``index``, or with ``demo`` that of the ``index``-th demonstration."""

    index: int
    demo: bool = False
    space: bool = False


Piece: TypeAlias = Text | Field | Mask | Soft | Special | Label
Filled: TypeAlias = tuple[Piece, str]  # a piece and, of a text, a field or a label word, what it says


def _last_character(text: str) -> str:
    return text[:-1]


def _last_punctuation(text: str) -> str:
    return text.rstrip().rstrip(string.punctuation + "。？！，").rstrip()


def _full_stop(text: str) -> str:
    return f"{text}."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


TRANSFORMS: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "strip_last": _last_character,
    "strip_punct": _last_punctuation,
    "lower_first": _lower_first,
    "upper_first": _upper_first,
    "lower": str.lower,
    "upper": str.upper,
    "add_stop": _full_stop,
}


class AnyTemplate(Protocol):
    """What every template can do, whatever it was written in."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The label words it brings along, one a class; empty if none."""

    def fields(self) -> tuple[str, ...]:
        """The fields it reads, each once, in the order of their first use."""

    def skeleton(self) -> tuple[Piece, ...]:
        """Its pieces for some example: what is there whatever the texts say."""

    def fill(self, values: Mapping[str, str]) -> list[Filled]:
        """Its pieces for one example, whose texts are ``values`` by field."""


@dataclass(frozen=True)
class Template:
    """A parsed template: pieces in order. ``str`` writes it in the ``dialect`` it was read from; two are equal if their pieces are."""

    pieces: tuple[Piece, ...]
    dialect: str = field(default="plain", compare=False)

    def __str__(self) -> str:
        from tempering.framings.templates.reading import write

        return write(self)

    @property
    def choices(self) -> tuple[str, ...]:
        """None: the pieces hold no label words."""
        return ()

    def fields(self) -> tuple[str, ...]:
        """The fields it reads, each once."""
        return tuple(dict.fromkeys(p.name for p in self.pieces if isinstance(p, Field)))

    def skeleton(self) -> tuple[Piece, ...]:
        """The pieces: they are the same for every example."""
        return self.pieces

    def fill(self, values: Mapping[str, str]) -> list[Filled]:
        """The pieces with the texts of one example in the fields; line breaks and such inside a text stay as they are."""
        return [(piece, _said(piece, values)) for piece in self.pieces]


def _said(piece: Piece, values: Mapping[str, str]) -> str:
    if isinstance(piece, Text):
        return piece.text
    if not isinstance(piece, Field):
        return ""
    text = values[piece.name]
    for name in piece.transforms:
        text = TRANSFORMS[name](text)
    return text


def spaced(parts: Sequence[Piece | str]) -> tuple[Piece, ...]:
    """Pieces from raw parts, where a string is literal text: its outer spaces become the ``space`` of the piece that follows them."""
    pieces: list[Piece] = []
    pending = False
    for part in _joined(parts):
        if isinstance(part, str):
            body = part.strip(" ")
            pending = pending or part.startswith(" ")
            if body:
                pieces.append(Text(body, pending and bool(pieces)))
                pending = part.endswith(" ")
        else:
            pieces.append(replace(part, space=(part.space or pending) and bool(pieces)))
            pending = False
    return tuple(pieces)


def _joined(parts: Sequence[Piece | str]) -> Iterator[Piece | str]:
    """Neighboring strings as one."""
    run = ""
    for part in parts:
        if isinstance(part, str):
            run += part
            continue
        if run:
            yield run
        run = ""
        yield part
    if run:
        yield run


def special(name: str, where: str) -> Special:
    """The special token called ``name``, with or without angle brackets."""
    plain: Any = name.strip("<>[]").lower()
    if plain not in SPECIALS:
        raise RecipeError(f"{where}: unknown special token {name!r}; known: {', '.join(SPECIALS)}")
    return Special(plain)


def check_transform(name: str, where: str) -> str:
    """``name`` if it is a known transform."""
    if name not in TRANSFORMS:
        raise RecipeError(f"{where}: unknown transform {name!r}; known: {', '.join(TRANSFORMS)}")
    return name


def masks_in(pieces: Sequence[Piece]) -> int:
    """How many mask pieces there are; several masks of one piece count once."""
    return sum(isinstance(p, Mask) for p in pieces)
