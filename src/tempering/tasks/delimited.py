"""CSV and TSV: comma, semicolon or tab (the header tells), quotes and embedded newlines; values stay strings as they stand."""

from __future__ import annotations

import csv
import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Literal

from tempering.errors import DataError
from tempering.tasks.table import Table, data_error, show, some

Lines = Callable[[], Iterable[str]]  # opens a file anew; lines keep their ends
Record = tuple[int, list[str]]
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def parse_delimited(text: str, source: str, *, tab: bool = False) -> Table:
    """The table in ``text``. ``tab`` says that the file calls itself TSV.

    A ragged row, a broken quote, a doubled column name or a file without rows is a `DataError`.
    """
    header, records = read_delimited(lambda: io.StringIO(text, newline=""), source, tab=tab)
    rows, cells = zip(*records, strict=True)
    columns = [list(column) for column in zip(*cells, strict=True)]
    return Table(dict(zip(header, columns, strict=True)), list(rows), source, typed=False)


def read_delimited(lines: Lines, source: str, *, tab: bool = False) -> tuple[list[str], Iterator[Record]]:
    """The names of the columns, and (row, cells) one after the other, at least once; refusals are those of `parse_delimited`.

    No more than a row is in memory at a time. A file of tabs with quotation marks is gone through first, since they may be none.
    """
    delimiter = _delimiter(lines(), "\t" if tab else ",")
    # Many tab-separated files never quote, so that a stray quotation mark is only a character.
    quoted = delimiter != "\t" or not (any('"' in line for line in lines()) and _stray_quotes(lines, source))
    return _open(lines(), source, delimiter, quoted=quoted)


def _stray_quotes(lines: Lines, source: str) -> bool:
    """Whether a file of tabs cannot be read with quotes, or quoted cells run over tabs or line ends although every line of the file is a
    whole row without them.
    """
    tabs = {line.count("\t") for line in lines() if line.strip()}
    if len(tabs) == 1 and tabs != {0}:  # line by line: a quote that nothing closes would take all that follows into memory
        return any('"' in line and not _stands_alone(line) for line in lines())
    try:
        _, records = _open(lines(), source, "\t", quoted=True)
        deque(records, maxlen=0)
    except DataError:
        return True
    return False


def _stands_alone(line: str) -> bool:
    """Whether the quotes of a line of tabs end in it and hold no tab."""
    with _no_field_limit():
        try:
            return all("\t" not in cell for cell in next(csv.reader([line], delimiter="\t", strict=True)))
        except csv.Error:
            return False


def _delimiter(lines: Iterable[str], usual: str) -> str:
    """What cuts the header into most columns; a draw goes to the usual one."""
    header = next((line for line in lines if line.strip()), "")

    def columns(mark: str) -> int:
        return len(next(csv.reader([header], delimiter=mark), []))

    with _no_field_limit():
        return max(_NAMES, key=lambda mark: (columns(mark), mark == usual, mark == ","))


def _open(lines: Iterable[str], source: str, delimiter: str, *, quoted: bool) -> tuple[list[str], Iterator[Record]]:
    records = _records(lines, source, delimiter, quoted)
    first = next(records, None)
    if first is None:
        raise data_error(source, "the file is empty; expected a header row and data rows")
    header = _header(first[1], source)
    return header, _under(header, records, source, delimiter)


def _under(header: list[str], records: Iterator[Record], source: str, delimiter: str) -> Iterator[Record]:
    """Rows as wide as their header."""
    empty = True
    for row, values in records:
        empty = False
        yield row, _fit(values, len(header), source, row, delimiter)
    if empty:
        raise data_error(source, f"expected data rows after the header, found only the header ({some([show(h) for h in header])})")


def _records(lines: Iterable[str], source: str, delimiter: str, quoted: bool) -> Iterator[Record]:
    """(row, cells) of every row that is not blank; rows count as in a spreadsheet, the header is row 1."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    for row in count(1):
        try:
            with _no_field_limit():
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
