"""A table as it was read, and the one way to complain about it.

Every reader ends in a `Table`; everything after the readers (columns, labels, splits) works on tables only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tempering.errors import DataError

_PLAIN = (str, bool, int, float, type(None))


@dataclass(frozen=True)
class Table:
    """Columns of equal length, with the 1-based row of each entry in the user's file.

    ``rows`` counts as the user's own tools do: a spreadsheet's rows for CSV (the header is row 1), lines for JSONL, records
    for everything else. ``typed`` is False where the format knows only strings (CSV, TSV).
    """

    columns: dict[str, list[Any]]
    rows: list[int]
    source: str
    typed: bool = True
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """Column names in the order of the file."""
        return list(self.columns)

    def records(self) -> list[dict[str, Any]]:
        """One dict a row, every column kept, in order."""
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]

    def error(self, problem: str, *, index: int | None = None, column: str | None = None) -> DataError:
        """A `DataError` that names this file and, if given, the row of entry ``index`` and the column."""
        return data_error(self.source, problem, row=None if index is None else self.rows[index], column=column)


def data_error(source: str, problem: str, *, row: int | None = None, column: str | None = None) -> DataError:
    """``source, row 7, column 'label': problem`` as one printable line."""
    place = source
    if row is not None:
        place += f", row {row}"
    if column is not None:
        place += f", column {show(column)}"
    line = " ".join(f"{place}: {problem}".split())
    # A file name or a label may hold half a surrogate pair, which no terminal can print.
    printable = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
    return DataError(printable.encode("utf-8", "backslashreplace").decode("utf-8"))


def show(value: object, limit: int = 60) -> str:
    """``repr`` of a value of the user's, cut so that a message stays one readable line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a bottomless list
        return f"a value too large to print ({type(value).__name__})"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def some(values: list[str], limit: int = 12) -> str:
    """The first few of a list, comma separated, and how many are left out."""
    rest = len(values) - limit
    return ", ".join(values[:limit]) + (f" and {rest} more" if rest > 0 else "")


def is_missing(value: object) -> bool:
    """None, or a float that is not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_unicode(text: str) -> bool:
    """False when the text holds half a surrogate pair, which no tokenizer and no file can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def plain(value: Any) -> Any:
    """The built-in Python value of a numpy or pandas one; anything else comes back as it is."""
    if type(value) in _PLAIN:
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return plain(value.tolist()) if getattr(value, "ndim", 0) == 0 else [plain(v) for v in value.tolist()]
    if isinstance(value, str):  # a subclass, such as numpy's
        return str(value)
    return float(value) if isinstance(value, Decimal) else value
