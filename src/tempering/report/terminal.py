"""The report as tables for a terminal: as wide as it is, colored only where there is one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal

from tempering.report.contents import contents
from tempering.report.tables import Table

_FOLD = 21  # a text column is not made narrower than this: "cannot be told apart"
_GAP = 3  # what rich puts around a column

if TYPE_CHECKING:
    from rich.console import Console

    from tempering.study.decide import Conclusion
    from tempering.study.records import Record


def terminal(conclusion: Conclusion, records: Sequence[Record]) -> str:
    """The report as text. The width is the terminal's or, into a file or pipe, ``COLUMNS`` or 120."""
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return terminal_text(conclusion, records, shutil.get_terminal_size((120, 24)).columns, color)


def terminal_text(conclusion: Conclusion, records: Sequence[Record], width: int, color: bool) -> str:
    """The report as text of ``width`` columns; with ``color``, ANSI colors."""
    from rich.console import Console

    out = StringIO()
    console = Console(file=out, width=max(width, 40), force_terminal=color, no_color=not color, highlight=False, markup=False, emoji=False)
    words = contents(conclusion, records)
    _print(console, [words.title], "bold")
    _print(console, words.sentences, "")
    _print(console, [f"{term}: {text}" for term, text in words.facts], "dim")
    for section in words.sections:
        console.print()
        _print(console, [section.heading], "bold")
        _print(console, section.remarks, "")
        for table in section.tables:
            _print_table(console, table)
    _print_table(console, words.parts)
    _print_table(console, words.course)
    _print_table(console, words.settings)
    _print_table(console, words.failures)
    _print(console, [f"Data doctor: {finding}" for finding in words.findings], "")
    _print(console, [f"{term}: {text}" for term, text in words.method], "dim")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _print(console: Console, lines: Sequence[str], style: str) -> None:
    for line in lines:
        console.print(line, style=style)


def _print_table(console: Console, table: Table | None) -> None:
    if table is None:
        return
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    wide, leading = column_widths(table), table.leading or (False,) * len(table.rows)
    for part, columns in enumerate(panels(wide, console.width)):
        title = Text(table.caption) if part == 0 else None
        shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        given = fitted([min(wide[i], console.width // 3) for i in columns], [_longest(table, i) for i in columns], console.width)
        for i, width in zip(columns, given, strict=True):
            justify: Literal["right", "left"] = "right" if table.numeric[i] else "left"
            shown.add_column(Text(table.columns[i]), justify=justify, overflow="fold", width=width)
        for row, best in zip(table.rows, leading, strict=True):
            shown.add_row(*(Text(row[i]) for i in columns), style="bold" if best else "")
        console.print(shown)
    _print(console, table.notes, "dim")


def column_widths(table: Table) -> list[int]:
    """What each column needs at least: numbers stay whole, texts may be folded, headings may break between words."""
    words = [max(len(word) for word in heading.split()) for heading in table.columns]
    cells = [max((len(row[i]) for row in table.rows), default=0) for i in range(len(table.columns))]
    return [max(word, cell if table.numeric[i] else min(cell, _FOLD)) for i, (word, cell) in enumerate(zip(words, cells, strict=True))]


def _longest(table: Table, i: int) -> int:
    """What column ``i`` takes where nothing in it is broken."""
    from rich.cells import cell_len

    return max(map(cell_len, (table.columns[i], *(row[i] for row in table.rows))))


def fitted(least: Sequence[int], whole: Sequence[int], width: int) -> list[int]:
    """Widths of columns within ``width``: that with most to spare is narrowed first, none below ``least`` (rich would cut the last off)."""
    found = [max(pair) for pair in zip(least, whole, strict=True)]
    for _ in range(sum(found) + _GAP * len(found) - width):
        spare = [now - need for now, need in zip(found, least, strict=True)]
        if max(spare) == 0:
            break
        found[spare.index(max(spare))] -= 1
    return found


def panels(wide: Sequence[int], width: int) -> list[list[int]]:
    """Which columns stand side by side in ``width``: a table too wide for it goes on below, under its first column again."""
    parts: list[list[int]] = [[0]]
    for i in range(1, len(wide)):
        if len(parts[-1]) > 1 and sum(wide[j] + _GAP for j in [*parts[-1], i]) > width:
            parts.append([0])
        parts[-1].append(i)
    return parts
