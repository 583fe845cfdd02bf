"""The report as tables for a terminal: as wide as it is, colored only where there is one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from tempering.report.contents import contents
from tempering.report.tables import Table

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
        for table in (section.scores, section.costs, section.pairs):
            _print_table(console, table)
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

    shown = RichTable(title=Text(table.caption), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, numeric in zip(table.columns, table.numeric, strict=True):
        shown.add_column(Text(heading), justify="right" if numeric else "left", overflow="fold")
    leading = table.leading or (False,) * len(table.rows)
    for row, best in zip(table.rows, leading, strict=True):
        shown.add_row(*(Text(cell) for cell in row), style="bold" if best else "")
    console.print(shown)
    _print(console, table.notes, "dim")
