"""Columns of words: a list a row, or in a format of strings alone a JSON list or words between spaces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tempering.tags import joined
from tempering.tasks.table import Table, is_missing, is_unicode, show

Offsets = tuple[tuple[int, int], ...]


def is_words(values: Sequence[Any]) -> bool:
    """Whether a column holds lists of words or tags: all that is there is a list, and what is in the first of them are no lists."""
    present = [value for value in values if not is_missing(value)]
    filled = next((value for value in present if isinstance(value, (list, tuple)) and len(value)), None)
    return (
        filled is not None and all(isinstance(value, (list, tuple)) for value in present) and all(isinstance(x, (str, int)) for x in filled)
    )


def listed(value: Any) -> list[Any] | None:
    """A list as it is; of a string the JSON list in it, or its words between spaces. None for anything else."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value) if value.strip().startswith("[") else None
        except (ValueError, RecursionError):
            parsed = None
        return parsed if isinstance(parsed, list) else value.split()
    return list(value) if isinstance(value, (list, tuple)) else None


def words_of(table: Table, column: str) -> list[tuple[str, Offsets | None]]:
    """(text, words) of every row: of tokens the text they make; of a text None for its words, which are split where they are read."""
    tokens = is_words(table.columns[column])
    found: list[tuple[str, Offsets | None]] = []
    for index, value in enumerate(table.columns[column]):
        if not table.typed and isinstance(value, str) and value.startswith("["):
            value = listed(value)
        if isinstance(value, str) and not tokens:
            _check(table, column, index, value, "text")
            found.append((value, None))
            continue
        if not isinstance(value, (list, tuple)):
            problem = f"expected {'a list of words' if tokens else 'text'}, found {show(value)}; fill it in or delete the row"
            raise table.error(problem, index=index, column=column)
        for i, token in enumerate(value, start=1):
            _check(table, column, index, token, f"word {i}")
        found.append(joined(value))
    return found


def _check(table: Table, column: str, index: int, value: Any, what: str) -> None:
    if not isinstance(value, str) or (what != "text" and not value.strip()):
        problem = f"expected a string as {what}, found {show(value)}; correct it or delete the row"
        raise table.error(problem, index=index, column=column)
    if not is_unicode(value):
        raise table.error(f"expected Unicode text, found a broken character in {show(value)}; correct it", index=index, column=column)
