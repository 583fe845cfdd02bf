"""Parts of a text that stand between marks, such as the two entities of a relation, as fields of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tempering.contracts import Example
from tempering.errors import DataError

Marks = tuple[tuple[str, tuple[str, str]], ...]  # the name of a field, and what stands before and after it in a text
NAME = re.compile(r"[A-Za-z_]\w*")


class Everywhere(Example):
    """One text in every field of a template, those between marks too, which it has none of: an input without content."""


class Marked(NamedTuple):
    """``texts`` without their marks, and what stood between those, by field."""

    texts: tuple[str, ...]
    values: dict[str, str]


def normal_marks(given: Any) -> Marks:
    """``marks`` of a recipe as a value that hashes, checked."""
    pairs = list(given.items()) if isinstance(given, Mapping) else list(given) if isinstance(given, list | tuple) else [given]
    for pair in pairs:
        known = isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], list | tuple) and len(pair[1]) == 2
        if not known or not all(isinstance(mark, str) and mark.strip() for mark in pair[1]):
            raise ValueError("marks must map a field to what stands before and after it, as in  {subject: ['<e1>', '</e1>']}")
        if not NAME.fullmatch(str(pair[0])):
            raise ValueError(f"marks: {pair[0]!r} is no name for a field; write letters, as in  {{subject: ['<e1>', '</e1>']}}")
    return tuple((str(name), (before.strip(), after.strip())) for name, (before, after) in pairs)


def read_marks(texts: Sequence[str], marks: Marks, row: int) -> Marked:
    """Each field is what stands between the first opening mark in any of the texts and the closing mark that follows it. All of these
    marks are taken out of the texts, with the white space on their inner side. A mark that is not there is a `DataError`.
    """
    cuts: list[list[tuple[int, int]]] = [[] for _ in texts]
    places: dict[str, tuple[int, int, int]] = {}
    for name, (before, after) in marks:
        places[name] = _between(texts, name, before, after, row)
        number, start, end = places[name]
        inside = texts[number][start:end]
        first, last = start + len(inside) - len(inside.lstrip()), start + len(inside.rstrip())
        cuts[number] += [(start - len(before), first), (last, end + len(after))]
    values = {name: _without(texts[number], cuts[number], start, end) for name, (number, start, end) in places.items()}
    return Marked(tuple(_without(text, gone, 0, len(text)) for text, gone in zip(texts, cuts, strict=True)), values)


def _between(texts: Sequence[str], name: str, before: str, after: str, row: int) -> tuple[int, int, int]:
    """(which text, first character, past the last one) between two marks."""
    for number, text in enumerate(texts):
        at = text.find(before)
        start = at + len(before)
        end = text.find(after, start) if at >= 0 else -1
        if end >= 0 and text[start:end].strip():
            return number, start, end
    found = texts[0] if len(texts[0]) <= 60 else f"{texts[0][:57]}..."
    raise DataError(
        f"row {row}: expected {name} between {before!r} and {after!r} in its text, found {found!r}; mark it there, or say how it is marked:"
        f" framing.marks={{{name}: ['<<', '>>']}}"
    )


def _without(text: str, cuts: Sequence[tuple[int, int]], start: int, end: int) -> str:
    """The characters ``start`` .. ``end`` that lie in no cut."""
    said, at = "", start
    for low, high in sorted(cuts):
        said, at = said + text[at : max(at, min(low, end))], max(at, high)
    return said + text[at : max(at, end)]
