"""Precision, recall and F1 of entities, counted as seqeval does: an entity is right if its words and its type are.

Where the tags are no entity tags, every word is an entity of its own tag: micro F1 is then the share of words that are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tempering.tags import Entity, entities, scheme_of
from tempering.tasks.measures import divide

Counts = tuple[Counter[Any], Counter[Any], Counter[Any]]


def found_in(tags: Sequence[Any], plain: bool) -> list[Entity]:
    """What ``tags`` say: entities, or words one by one."""
    return [Entity(tag, i, i + 1) for i, tag in enumerate(tags)] if plain else entities(tags)


def counted(labels: Sequence[Any], gold: Sequence[Sequence[Any]], said: Sequence[Sequence[Any]]) -> Counts:
    """(right, said, true) by type, over all rows."""
    plain = scheme_of(labels) == "plain"
    right, spoken, true = Counter[Any](), Counter[Any](), Counter[Any]()
    for a, b in zip(gold, said, strict=True):
        mine, theirs = set(found_in(a, plain)), set(found_in(b, plain))
        true.update(e.type for e in mine)
        spoken.update(e.type for e in theirs)
        right.update(e.type for e in mine & theirs)
    return right, spoken, true


def micro(counts: Counts, part: int) -> float:
    """Precision (0), recall (1) or F1 (2) over all types; 0 where undefined."""
    right, said, true = (sum(c.values()) for c in counts)
    return float((divide(right, said), divide(right, true), divide(2 * right, said + true))[part])


def of_type(counts: Counts, name: Any, part: int) -> float:
    """The same of one type."""
    one = tuple(Counter({name: c[name]}) for c in counts)
    return micro(one, part)  # type: ignore[arg-type]


def macro(counts: Counts, part: int = 2) -> float:
    """The mean over the types that occur, in gold or predictions."""
    types = sorted(set(counts[1]) | set(counts[2]), key=str)
    return float(np.mean([of_type(counts, name, part) for name in types])) if types else 0.0


def words_right(gold: Sequence[Sequence[Any]], said: Sequence[Sequence[Any]]) -> float:
    """The share of words with their right tag; 0 where there is no word."""
    same = [a == b for mine, theirs in zip(gold, said, strict=True) for a, b in zip(mine, theirs, strict=True)]
    return float(np.mean(same)) if same else 0.0


def each_row(gold: Sequence[Sequence[Any]], said: Sequence[Sequence[Any]], labels: Sequence[Any] = ()) -> list[float]:
    """F1 of each row by itself; 1 where neither side has an entity. Plain tags: the share of words that are right."""
    known = labels or sorted({tag for tags in gold for tag in tags}, key=str)
    plain, scores = scheme_of(known) == "plain", []
    for a, b in zip(gold, said, strict=True):
        mine, theirs = set(found_in(a, plain)), set(found_in(b, plain))
        scores.append(2 * len(mine & theirs) / (len(mine) + len(theirs)) if mine or theirs else 1.0)
    return scores
