"""CSV and TSV: comma, semicolon or tab (the header tells), quotes and embedded newlines; values stay strings as they stand."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from tempering.errors import DataError
from tempering.tasks.table import Table, data_error, show, some

_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def parse_delimited(text: str, source: str, *, tab: bool = False) -> Table:
    """The table in ``text``. ``tab`` says that the file calls itself TSV.

    A ragged row, a broken quote, a doubled column name or a file without rows is a `DataError`.
    """
    delimiter = _delimiter(text, "\t" if tab else ",")
    try:
        table = _table(text, source, delimiter, quoted=True)
    except DataError:
        if delimiter != "\t" or '"' not in text:
            raise
    else:
        if delimiter != "\t" or not _swallows_rows(table, text):
            return table
    # Many tab-separated files never quote, so that a stray quotation mark is only a character.
    return _table(text, source, delimiter, quoted=False)


def _swallows_rows(table: Table, text: str) -> bool:
    """Whether quoted cells run over tabs or line ends, although every line of the file is a whole row without them."""
    if not any(mark in cell for name, column in table.columns.items() for cell in (name, *column) for mark in "\t\r\n"):
        return False
    tabs = {line.count("\t") for line in io.StringIO(text, newline="") if line.strip()}
    return len(tabs) == 1 and tabs != {0}


def _delimiter(text: str, usual: str) -> str:
    """What cuts the header into most columns; a draw goes to the usual one."""
    header = next((line for line in io.StringIO(text, newline="") if line.strip()), "")

    def columns(mark: str) -> int:
        return len(next(csv.reader([header], delimiter=mark), []))

    with _no_field_limit():
        return max(_NAMES, key=lambda mark: (columns(mark), mark == usual, mark == ","))


def _table(text: str, source: str, delimiter: str, *, quoted: bool) -> Table:
    records = _records(text, source, delimiter, quoted)
    first = next(records, None)
    if first is None:
        raise data_error(source, "the file is empty; expected a header row and data rows")
    header = _header(first[1], source)
    rows: list[int] = []
    cells: list[list[str]] = []
    for row, values in records:
        rows.append(row)
        cells.append(_fit(values, len(header), source, row, delimiter))
    if not rows:
        raise data_error(source, f"expected data rows after the header, found only the header ({some([show(h) for h in header])})")
    columns = [list(column) for column in zip(*cells, strict=True)]
    return Table(dict(zip(header, columns, strict=True)), rows, source, typed=False)


def _records(text: str, source: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """(row, cells) of every row that is not blank; rows count as in a spreadsheet, the header is row 1."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    row = 0
    with _no_field_limit():
        while True:
            row += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise data_error(source, f"{_quote_problem(str(error))} (line {reader.line_num})", row=row) from None
            if cells and cells != [""]:
                yield row, cells


def _quote_problem(reason: str) -> str:
    if "end of data" in reason:
        return 'expected a closing quotation mark, found the end of the file; close the quote or write it doubled ("")'
    if "expected after" in reason:
        return 'expected the field to end after its closing quotation mark, found more text; write a quote inside a field doubled ("")'
    return f"expected a row of delimited text, found a broken one ({reason}); correct the row"


def _header(cells: list[str], source: str) -> list[str]:
    while len(cells) > 1 and cells[-1] == "":  # spreadsheets leave empty columns behind
        cells = cells[:-1]
    twice = sorted({name for name in cells if cells.count(name) > 1}) if len(set(cells)) < len(cells) else []
    if twice:
        found = some([show(name) for name in twice])
        raise data_error(source, f"expected different column names, found {found} more than once; rename one", row=1)
    return cells


def _fit(values: list[str], width: int, source: str, row: int, delimiter: str) -> list[str]:
    if len(values) > width and not any(values[width:]):
        return values[:width]
    if len(values) == width:
        return values
    advice = f"put fields that hold a {_NAMES[delimiter]} in quotation marks" if len(values) > width else "complete or delete the row"
    raise data_error(source, f"expected {width} fields as in the header, found {len(values)}; {advice}", row=row)


@contextmanager
def _no_field_limit() -> Iterator[None]:
    """The csv module refuses fields over 131,072 characters; a long document is not an error."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)
