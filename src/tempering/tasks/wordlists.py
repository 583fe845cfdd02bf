"""Columns of words: a list a row, or in a format of strings alone a list as JSON or Python writes it, or words between spaces."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from tempering.errors import DataError
from tempering.tags import joined
from tempering.tasks.table import Table, is_missing, is_unicode, show

Offsets = tuple[tuple[int, int], ...]
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+)"""
_LITERAL = re.compile(rf"\[\s*(?:{_ITEM}(?:\s*,\s*{_ITEM})*)?\s*\]", re.DOTALL)  # commas are a must: Python reads 'a' 'b' as one word
_QUOTED = re.compile(r"\[\s*['\"].*['\"]\s*\]", re.DOTALL)


def is_words(values: Sequence[Any]) -> bool:
    """Whether a column holds lists of words or tags: all that is there is a list, and what is in the first of them are no lists."""
    present = [value for value in values if not is_missing(value)]
    filled = next((value for value in present if isinstance(value, (list, tuple)) and len(value)), None)
    return (
        filled is not None and all(isinstance(value, (list, tuple)) for value in present) and all(isinstance(x, (str, int)) for x in filled)
    )


def listed(table: Table, column: str, index: int) -> list[Any] | None:
    """A list as it is; of a string the list written in it, or its words between spaces. None for anything else.

    A string that begins as a list and is none is a `DataError`.
    """
    value = table.columns[column][index]
    if not isinstance(value, str):
        return list(value) if isinstance(value, (list, tuple)) else None
    if not value.strip().startswith("["):
        return value.split()
    found = _parsed(value.strip())
    if found is None:
        raise _no_list(table, column, index)
    return found


def _parsed(text: str) -> list[Any] | None:
    """The list in a text: as JSON has it, or as Python writes lists of strings and integers (a frame saved as CSV)."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        try:
            parsed = ast.literal_eval(text) if _LITERAL.fullmatch(text) else None
        except (ValueError, SyntaxError, MemoryError):
            parsed = None
    return parsed if isinstance(parsed, list) else None


def words_of(table: Table, column: str) -> list[tuple[str, Offsets | None]]:
    """(text, words) of every row: of tokens the text they make; of a text None for its words, which are split where they are read."""
    tokens = is_words(table.columns[column])
    found: list[tuple[str, Offsets | None]] = []
    for index, value in enumerate(table.columns[column]):
        if isinstance(value, str) and value.strip().startswith("["):
            value = _words_or_text(table, column, index, value)
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


def _words_or_text(table: Table, column: str, index: int, value: str) -> list[Any] | str:
    """What a cell means that begins with a bracket: texts may do so too, unless quotation marks stand next to both brackets."""
    quoted = _QUOTED.fullmatch(value.strip()) is not None
    found = _parsed(value.strip()) if quoted or not table.typed else None
    if quoted and found is None:
        raise _no_list(table, column, index)
    return value if found is None else found


def _no_list(table: Table, column: str, index: int) -> DataError:
    found = show(table.columns[column][index])
    problem = f'expected a list with commas between its strings, such as ["Ada", "Bo"], found {found}; write it as JSON'
    return table.error(problem, index=index, column=column)


def _check(table: Table, column: str, index: int, value: Any, what: str) -> None:
    if not isinstance(value, str) or (what != "text" and not value.strip(" \t\r\n")):
        problem = f"expected a string as {what}, found {show(value)}; correct it or delete the row"
        raise table.error(problem, index=index, column=column)
    if not is_unicode(value):
        raise table.error(f"expected Unicode text, found a broken character in {show(value)}; correct it", index=index, column=column)
