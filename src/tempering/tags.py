"""Tags of words: entity schemes, which stretches of words a row of tags means, which tags may follow each other, and words of raw text.

A tag is plain ("NOUN"), or a prefix and a type ("B-PER"), or "O" for words outside of any entity. Schemes: IOB2 (every entity begins
with B), IOB1 (B only where an entity follows one of its own type), BIOES and BILOU (the same with other letters: End = Last, Single =
Unit), BMES and BMEWO (again the same: Middle = Inside, Whole = Single), IO (no beginnings). IOB1 and BMES are read only: what is learned
is IOB2 and BIOES. Stretches are read as conlleval and seqeval read them: leniently, so that broken tags mean something too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from tempering.values import Span

Scheme = Literal["plain", "IOB2", "IOB1", "BIOES", "BILOU", "BMES", "IO"]
OUTSIDE = "O"
_TAG = re.compile(r"[BIESLUMW]-.+", re.DOTALL)
_LETTERS = {"L": "E", "U": "S"}  # BILOU's letters as those of BIOES
_AS_BIOES = {"M-": "I-", "W-": "S-"}  # the letters of BMES and BMEWO that BIOES lacks
_JOINERS = ("\u200c", "\u200d")  # they hold letters and pictures together


class Entity(NamedTuple):
    """Words ``first`` up to ``last`` (not included) are a ``type``."""

    type: str
    first: int
    last: int


def parts(tag: str) -> tuple[str, str]:
    """("B", "PER") of "B-PER"; ("O", "") of "O"; letters as BIOES has them."""
    return (OUTSIDE, "") if tag == OUTSIDE else (_LETTERS.get(tag[0], tag[0]), tag[2:])


def detect(rows: Iterable[Sequence[Any]]) -> Scheme:
    """The scheme that ``rows`` of tags follow; "plain" if they are no entity tags, as numbers are not."""
    letters: set[str] = set()
    fresh_b = started_by_i = False
    for tags in rows:
        before = OUTSIDE
        for tag in tags:
            if not isinstance(tag, str) or (tag != OUTSIDE and not _TAG.fullmatch(tag)):
                return "plain"
            fresh = before == OUTSIDE or before[2:] != tag[2:]
            fresh_b |= tag[0] == "B" and fresh
            started_by_i |= tag[0] == "I" and fresh
            letters.add(tag[0])
            before = tag
    letters.discard(OUTSIDE)
    if letters & {"M", "W"}:
        return "BMES" if {"B", "E"} <= letters <= {*"BMESW"} else "plain"
    if letters & {"L", "U"}:
        return "BILOU"
    if letters & {"E", "S"}:
        return "BIOES"
    if not letters:
        return "plain"
    if letters == {"I"}:
        return "IO"
    return "IOB1" if started_by_i and not fresh_b else "IOB2"


def scheme_of(labels: Iterable[object]) -> Scheme:
    """The scheme of a task by its labels, which are those that are learned: letters of BMES would be plain tags there."""
    found = detect((tag,) for tag in labels)
    return "plain" if found == "BMES" else learned(found)


def learned(scheme: Scheme) -> Scheme:
    """The scheme that tags of ``scheme`` are learned and predicted in."""
    return "IOB2" if scheme == "IOB1" else "BIOES" if scheme == "BMES" else scheme


def as_bioes(tags: Sequence[str]) -> tuple[str, ...]:
    """``tags`` with the letters of BMES as those of BIOES."""
    return tuple(_AS_BIOES.get(tag[:2], tag[:2]) + tag[2:] for tag in tags)


def types_of(labels: Iterable[Any]) -> tuple[str, ...]:
    """The entity types among entity tags, sorted."""
    return tuple(sorted({tag[2:] for tag in labels if tag != OUTSIDE}))


def tag_set(types: Iterable[str], scheme: Scheme) -> tuple[str, ...]:
    """All tags of ``scheme`` for ``types``: O first, then type by type, whether or not a row has them."""
    letters = {"IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU", "IO": "I", "plain": ""}[learned(scheme)]
    return (OUTSIDE, *(f"{letter}-{type_}" for type_ in types for letter in letters))


def entities(tags: Sequence[str]) -> list[Entity]:
    """The stretches that ``tags`` mean, as conlleval reads them.

    A stretch begins with B or S, with any tag after O, E or S, and where the type changes; it ends before the next begins, or at O.
    """
    found: list[Entity] = []
    first, letter, type_ = -1, OUTSIDE, ""
    for i, tag in enumerate((*tags, OUTSIDE)):
        now, kind = parts(tag)
        begins = now != OUTSIDE and (now in "BS" or letter in (OUTSIDE, "E", "S") or kind != type_)
        if first >= 0 and (begins or now == OUTSIDE):
            found.append(Entity(type_, first, i))
            first = -1
        first = i if begins else first
        letter, type_ = now, kind
    return found


def written(found: Iterable[Entity], length: int, scheme: Scheme) -> tuple[str, ...]:
    """The tags of ``length`` words that mean exactly ``found`` (which do not overlap) in ``scheme``."""
    tags = [OUTSIDE] * length
    single, end = {"BIOES": ("S", "E"), "BILOU": ("U", "L"), "IO": ("I", "I")}.get(scheme, ("B", "I"))
    begin = "I" if scheme == "IO" else "B"
    for type_, first, last in found:
        for i in range(first, last):
            letter = begin if i == first else end if i == last - 1 else "I"
            tags[i] = f"{single if last - first == 1 else letter}-{type_}"
    return tuple(tags)


def repaired(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """``tags`` with what breaks ``scheme`` put right, so that they mean the entities that conlleval would read in them."""
    return tuple(tags) if scheme == "plain" else written(entities(tags), len(tags), scheme)


def may_follow(before: str | None, tag: str | None, scheme: Scheme) -> bool:
    """Whether ``tag`` may come right after ``before`` in ``scheme``; None stands for the text's beginning and its end."""
    if scheme in ("plain", "IO", "IOB1"):
        return True
    (last, type_), (now, kind) = (parts(x) if x is not None else (OUTSIDE, "") for x in (before, tag))
    if now in ("I", "E"):
        return last in ("B", "I") and type_ == kind
    return scheme == "IOB2" or last not in ("B", "I")  # an entity that has begun must come to its end


def spans(words: Sequence[tuple[int, int]], tags: Sequence[str], chances: Sequence[float] | None = None) -> tuple[Span, ...]:
    """Entities in characters; ``chances`` are the words' probabilities of their tags, whose mean an entity carries."""
    found = []
    for type_, first, last in entities(tags):
        sure = 1.0 if chances is None else sum(chances[first:last]) / (last - first)
        found.append(Span(words[first][0], words[last - 1][1], type_, sure))
    return tuple(found)


def joined(tokens: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Tokens as one text, a space between two, and where in it each of them is."""
    ends, words = 0, []
    for token in tokens:
        words.append((ends, ends + len(token)))
        ends += len(token) + 1
    return " ".join(tokens), tuple(words)


def places_of(tokens: Sequence[str], text: str) -> tuple[tuple[int, int], ...] | None:
    """Where the tokens stand in ``text``, one after the other, with only white space and signs that are in no token around them.

    None where they do not, as where a tokenizer wrote some of them in another way.
    """
    known = set().union(*tokens)
    between = {c for c in text if c.isspace() or not (c.isalnum() or c in known)}
    words, at = [], 0
    for token in tokens:
        while at < len(text) and text[at] in between and not text.startswith(token, at):
            at += 1
        if not text.startswith(token, at):
            return None
        words.append((at, at + len(token)))
        at += len(token)
    return tuple(words) if set(text[at:]) <= between else None


def split_words(text: str, borders: Iterable[int] = ()) -> tuple[tuple[int, int], ...]:
    """The words of raw text, as (start, end): runs of letters, digits and underscores; every other character that is no white space
    alone. Marks and joiners stay with what they follow. A word is also cut at each of ``borders``.
    """
    words: list[tuple[int, int]] = []
    inside, cuts = False, set(borders)
    for i, c in enumerate(text):
        if words and words[-1][1] == i and i not in cuts and (c in _JOINERS or unicodedata.category(c)[0] == "M"):
            words[-1] = (words[-1][0], i + 1)
            continue
        letter = c.isalnum() or c == "_"
        if letter and inside and words[-1][1] == i and i not in cuts:
            words[-1] = (words[-1][0], i + 1)
        elif not c.isspace():
            words.append((i, i + 1))
        inside = letter
    return tuple(words)
