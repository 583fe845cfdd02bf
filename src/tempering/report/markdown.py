"""The report as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tempering.report.contents import contents
from tempering.report.tables import Table

if TYPE_CHECKING:
    from tempering.report.contents import Section
    from tempering.study.decide import Conclusion
    from tempering.study.records import Record

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|#~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "})


def markdown(conclusion: Conclusion, records: Sequence[Record]) -> str:
    """The report as one Markdown document; whatever users wrote is escaped."""
    words = contents(conclusion, records)
    parts = [f"# {escape(words.title)}", *(escape(s) for s in words.sentences), _terms(words.facts)]
    for section in words.sections:
        parts += _section(section)
    for table in (words.parts, words.course, words.settings, words.failures):
        parts += [f"## {table.caption}", table_text(table), *(escape(n) for n in table.notes)] if table else []
    if words.findings:
        parts += ["## What the data doctor said", "\n".join(f"- {escape(f)}" for f in words.findings)]
    return "\n\n".join([*parts, "## How it was measured", _terms(words.method)]) + "\n"


def _section(section: Section) -> list[str]:
    shown = [part for t in section.tables for part in (f"**{escape(t.caption)}**", table_text(t), *(escape(n) for n in t.notes))]
    return [f"## {escape(section.heading)}", *(escape(r) for r in section.remarks), *shown]


def table_text(table: Table) -> str:
    """A pipe table without its caption; names of rows tied for the best are bold."""
    leading = table.leading or (False,) * len(table.rows)
    lines = [_line(table.columns), _line(["---:" if right else "---" for right in table.numeric], raw=True)]
    for row, best in zip(table.rows, leading, strict=True):
        cells = [escape(cell) for cell in row]
        lines.append(_line([f"**{cells[0]}**" if best else cells[0], *cells[1:]], raw=True))
    return "\n".join(lines)


def _line(cells: Sequence[str], raw: bool = False) -> str:
    return "| " + " | ".join(cell if raw else escape(cell) for cell in cells) + " |"


def _terms(terms: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {escape(term)}: {escape(text)}" for term, text in terms)


def escape(text: str) -> str:
    """``text`` with everything that means something in Markdown or HTML escaped, on one line."""
    return text.translate(_SPECIAL)
