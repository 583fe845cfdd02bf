"""A filled template as token ids: parts, what is cut of them, and where masks and trained vectors come to stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tempering.framings.templates.truncation import Shorten, shortened
from tempering.framings.wrapping import Wrapping

Role = Literal["fixed", "field", "mask", "soft", "label"]


@dataclass(slots=True)
class Part:
    """A piece as ids. ``vectors``: the rows of the table of trained vectors that take their place; ``raises``: the next segment begins
    after it.
    """

    ids: list[int]
    role: Role = "fixed"
    shortenable: bool = False
    raises: bool = False
    vectors: tuple[int, ...] = ()


class Places(NamedTuple):
    """Where things stand in a prompt: masks, trained vectors and which ones those are; and whether anything was cut."""

    masks: tuple[int, ...]
    soft: tuple[int, ...] = ()
    vectors: tuple[int, ...] = ()
    cut: bool = False


NOWHERE = Places(())


@dataclass(slots=True)
class Laid:
    """A prompt: ids, segment ids (None: all are 0) and places."""

    ids: list[int] = field(default_factory=list)
    types: list[int] | None = None
    places: Places = NOWHERE


def size(parts: Sequence[Part]) -> int:
    """Tokens of all parts."""
    return sum(len(p.ids) for p in parts)


def cut_to(parts: Sequence[Part], room: int, how: Shorten) -> bool:
    """Shorten the fields of ``parts``, in place, until all fit into ``room``. Whether anything was cut.

    The caller has seen that what is not shortenable fits.
    """
    if size(parts) <= room:
        return False
    fields = [p for p in parts if p.shortenable]
    left = max(0, room - size(parts) + size(fields))
    for part, (start, end) in zip(fields, shortened([len(p.ids) for p in fields], left, how), strict=True):
        part.ids = part.ids[start:end]
    return True


def lay(groups: Sequence[Sequence[Part]], wrapping: Wrapping, segments: int, causal: bool = False, cut: bool = False) -> Laid:
    """Groups of parts one after the other, each closed by the tokenizer's suffix; after each the next segment begins.

    ``segments``: how many segment ids the model knows (1: it reads none). ``causal``: the model names the token that comes next, so
    the prompt ends before its mask, whose place is the last token.
    """
    ids, types = list(wrapping.before), [0] * len(wrapping.before)
    masks: list[int] = []
    soft: list[int] = []
    vectors: list[int] = []
    segment = 0
    for i, group in enumerate(groups):
        for part in group:
            if part.role == "mask":
                masks += range(len(ids), len(ids) + len(part.ids))
            if part.role == "soft":
                soft += range(len(ids), len(ids) + len(part.ids))
                vectors += part.vectors
            if causal and part.role == "mask":
                return Laid(ids, None, Places((max(0, len(ids) - 1),), tuple(soft), tuple(vectors), cut))
            ids += part.ids
            types += [min(segment, segments - 1)] * len(part.ids)
            segment += part.raises
        ids += wrapping.after
        types += [min(segment, segments - 1)] * len(wrapping.after)
        segment = max(segment, i + 1)
    places = Places(tuple(masks), tuple(soft), tuple(vectors), cut)
    return Laid(ids, types if any(types) else None, places)
