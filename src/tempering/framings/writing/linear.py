"""Entities and answers as text, and back: what a tagging or question answering task writes, and how what was written is read.

Formula: entities in their order as ``type: words; type: words``, ``none`` where there are none; parts are parsed strictly, each is sought
in the source from where the one before it ended, and what is not found there is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tempering.contracts import Example, Label, Span
from tempering.errors import RecipeError
from tempering.tags import Entity, Scheme, entities, joined, scheme_of, spans, types_of, written

NONE = "none"
BETWEEN, AFTER = "; ", ": "


class Parsed(NamedTuple):
    """The ``tags`` that a written answer means, where its entities are, how many of its parts are ``broken`` (no ``type: words`` of a known
    type), and how many are ``lost`` (not in the source, or not at the borders of words).
    """

    tags: tuple[str, ...]
    spans: tuple[Span, ...]
    broken: int
    lost: int


def linear(example: Example, tags: Sequence[str]) -> str:
    """The entities of a tagged text in one line."""
    text = example.texts[0]
    found = (f"{s.label}{AFTER}{' '.join(text[s.start : s.end].split())}" for s in spans(example.words, tags))
    return BETWEEN.join(found) or NONE


def check_tags(labels: Sequence[Label]) -> None:
    """Refuse tags that are no entities, and types of entities that could never be read again: a mark between two parts stands in them."""
    if scheme_of(labels) == "plain":
        shown = joined([str(label) for label in labels[:3]])[0]
        raise RecipeError(
            f"text_to_text cannot serve tags that are no entities ({shown}): it writes entities with their words, as in  PER: Ada"
            " Lovelace; use framing token_head for a tag a word"
        )
    if strange := [t for t in types_of(labels) if AFTER.strip() in t or BETWEEN.strip() in t]:
        raise RecipeError(
            f"text_to_text cannot write entities of type {strange[0]!r}: a colon ends the type and a semicolon the entity, so that they"
            " could never be predicted; give the type another name in the data, or use framing token_head"
        )


def parse(said: str, example: Example, types: Sequence[str], scheme: Scheme) -> Parsed:
    """The tags of the words of ``example`` that ``said`` means."""
    text, words = example.texts[0], example.words
    starts, ends = ({w[side]: i for i, w in enumerate(words)} for side in (0, 1))
    known = {t.casefold(): t for t in types}
    found: list[Entity] = []
    after = broken = lost = 0
    for part in [] if said.strip().casefold() in (NONE, "") else said.split(BETWEEN.strip()):
        kind, colon, words_said = part.partition(AFTER.strip())
        name = known.get(kind.strip().casefold())
        if not colon or name is None or not words_said.strip():
            broken += 1
            continue
        place = locate(text, words_said.split(), after)
        if place is None or place[0] not in starts or place[1] not in ends:
            lost += 1
            continue
        found.append(Entity(name, starts[place[0]], ends[place[1]] + 1))
        after = place[1]
    tags = written(found, len(words), scheme)
    return Parsed(tags, spans(words, tags) if [*entities(tags)] else (), broken, lost)


def locate(text: str, pieces: Sequence[str], after: int = 0) -> tuple[int, int] | None:
    """Where in ``text``, from ``after`` on, ``pieces`` stand with nothing but white space between them; case does not count."""
    folded, wanted = text.casefold(), [p.casefold() for p in pieces]
    if len(folded) != len(text):  # a letter that folds into several: compare as it is
        folded, wanted = text, list(pieces)
    begin = folded.find(wanted[0], after)
    while begin >= 0:
        end = _reach(folded, wanted, begin)
        if end is not None:
            return begin, end
        begin = folded.find(wanted[0], begin + 1)
    return None


def _reach(text: str, pieces: Sequence[str], begin: int) -> int | None:
    at = begin
    for i, piece in enumerate(pieces):
        while i and at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith(piece, at):
            return None
        at += len(piece)
    return at
