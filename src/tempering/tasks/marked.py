"""Entities given as spans of characters: ``{"start": 0, "end": 5, "label": "PER"}`` or ``[0, 5, "PER"]``, to words and tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tempering.tags import Entity, split_words, written
from tempering.tasks.table import Table, is_missing, show, some
from tempering.tasks.wordlists import Offsets

_START, _END, _LABEL = ("start", "start_offset", "begin"), ("end", "end_offset"), ("label", "type", "tag", "entity", "entity_group")
Mark = tuple[int, int, str]


def is_spans(values: Sequence[Any]) -> bool:
    """Whether a column holds lists of spans. Empty lists say nothing; some row must have one."""
    present = [value for value in values if not is_missing(value)]
    if not all(isinstance(value, (list, tuple)) for value in present):
        return False
    first = next((value[0] for value in present if len(value)), None)
    return first is not None and _mark(first) is not None


def is_empty(values: Sequence[Any]) -> bool:
    """Whether a column holds empty lists alone: no row of the file has a span."""
    return all(is_missing(value) or (isinstance(value, (list, tuple)) and not len(value)) for value in values)


def tags_of_spans(table: Table, column: str, texts: Sequence[str]) -> tuple[list[tuple[tuple[str, ...], Offsets]], list[str]]:
    """(tags in IOB2, words) of every row, and what is worth telling. A span outside its text is a `DataError`.

    Words are those of `split_words`, cut at the ends of spans. Of spans that overlap, only the first and longest can be told by tags.
    """
    found: list[tuple[tuple[str, ...], Offsets]] = []
    dropped: list[int] = []
    for index, text in enumerate(texts):
        marks = sorted(_marks(table, column, index, text), key=lambda mark: (mark[0], -mark[1]))
        kept: list[Mark] = []
        for mark in marks:
            kept += [mark] if not kept or mark[0] >= kept[-1][1] else []
        if len(kept) < len(marks):
            dropped.append(table.rows[index])
        words = split_words(text, {border for mark in kept for border in mark[:2]})
        chosen = [Entity(m[2], *_inside(words, m)) for m in kept]
        found.append((written(chosen, len(words), "IOB2"), words))
    told = f"{len(dropped)} rows have spans that overlap (rows {some([str(row) for row in dropped], 5)}); of these the longer is kept"
    return found, [told] if dropped else []


def _marks(table: Table, column: str, index: int, text: str) -> list[Mark]:
    value = table.columns[column][index]
    if is_missing(value):
        return []
    if not isinstance(value, (list, tuple)):
        raise table.error(f"expected a list of spans, found {show(value)}; correct or delete the row", index=index, column=column)
    marks = []
    for entry in value:
        mark = _mark(entry)
        if mark is None:
            form = '{"start": 0, "end": 5, "label": "PER"}'
            raise table.error(f"expected spans such as {form}, found {show(entry)}; correct it", index=index, column=column)
        if not 0 <= mark[0] < mark[1] <= len(text):
            problem = f"expected a span inside the text of {len(text)} characters, found {mark[0]} to {mark[1]} ({mark[2]}); correct it"
            raise table.error(problem, index=index, column=column)
        if not text[mark[0] : mark[1]].strip():
            raise table.error(f"expected words in the span {mark[0]} to {mark[1]} ({mark[2]}), found none", index=index, column=column)
        marks.append(mark)
    return marks


def _mark(entry: Any) -> Mark | None:
    """(start, end, label), if that is what ``entry`` says."""
    if isinstance(entry, dict):
        entry = [next((entry[name] for name in names if name in entry), None) for names in (_START, _END, _LABEL)]
    if not isinstance(entry, (list, tuple)) or len(entry) != 3:
        return None
    start, end, label = entry
    numbers = all(isinstance(x, int) and not isinstance(x, bool) for x in (start, end))
    return (start, end, label) if numbers and isinstance(label, str) and label else None


def _inside(words: Offsets, mark: Mark) -> tuple[int, int]:
    inside = [i for i, (start, end) in enumerate(words) if start >= mark[0] and end <= mark[1]]
    return inside[0], inside[-1] + 1
