"""The four forms of one report say the same numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tempering.errors import RecipeError
from tempering.report import render, write
from tempering.report.contents import contents, scale_of
from tempering.report.markdown import escape
from tempering.report.spread import SPREAD_COLUMNS
from tempering.report.tables import COST_COLUMNS, PAIR_COLUMNS, SCORE_COLUMNS, Column, Table
from tempering.report.terminal import fitted, panels, terminal_text
from tempering.study.decide import conclude


class Tables(HTMLParser):
    """All tables of a page as rows of cell texts, the header first."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.inside = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data


def expected(study: Any) -> list[Table]:
    words = contents(conclude(*study), study[1])
    per_size = [t for s in words.sections for t in (s.scores, s.spread, s.costs, s.pairs) if t]
    return [t for t in (*per_size, words.settings, words.failures) if t]


def as_rows(table: Table) -> list[list[str]]:
    return [list(table.columns), *(list(row) for row in table.rows)]


def test_html_shows_every_cell(study: Any) -> None:
    page = Tables()
    page.feed(render(*study, "html"))
    assert page.tables == [as_rows(table) for table in expected(study)]


def test_markdown_shows_every_cell(study: Any) -> None:
    text = render(*study, "md")
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("| ")]
    shown = [
        [[cell.strip().strip("*") for cell in line.strip("|").split(" | ")] for line in block if "---" not in line] for block in blocks
    ]
    assert shown == [[[escape(cell) for cell in row] for row in as_rows(table)] for table in expected(study)]


def test_the_terminal_shows_every_cell(study: Any) -> None:
    text = terminal_text(conclude(*study), study[1], width=400, color=False)
    lines = [line.split() for line in text.splitlines()]
    for table in expected(study):
        for row in table.rows:
            assert " ".join(row).split() in lines


def test_json_holds_the_numbers_behind_every_cell(study: Any) -> None:
    whole = json.loads(render(*study, "json"))
    scale, words = scale_of(conclude(*study)), contents(conclude(*study), study[1])
    for size, section in zip(whole["sizes"], words.sections, strict=True):
        cells = {cell["recipe"]: cell for cell in size["cells"]}
        assert section.spread is not None
        for table, columns in ((section.scores, SCORE_COLUMNS), (section.spread, SPREAD_COLUMNS), (section.costs, COST_COLUMNS)):
            assert [shown(columns, scale, cells[row[0]]) for row in table.rows] == list(table.rows)
        assert section.pairs is not None
        assert [shown(PAIR_COLUMNS, scale, pair) for pair in size["pairs"]] == list(section.pairs.rows)


def shown(columns: tuple[Column, ...], scale: Any, values: dict[str, Any]) -> tuple[str, ...]:
    known = {key: math.nan if value is None else value for key, value in values.items() if key != "better"}
    return tuple(column.show(scale, known | {"better": values.get("better")}) for column in columns)


@pytest.mark.parametrize("form", ["html", "md", "table"])
def test_the_answer_comes_before_any_table(study: Any, form: Any) -> None:
    text, first = render(*study, form), "sd over seeds"
    sentences = [escape(s) if form == "md" else s for s in conclude(*study).sentences]
    flat = " ".join(text.split())
    assert sentences
    assert all(0 < flat.index(sentence) < flat.index(first) for sentence in sentences)


def test_json_keeps_single_runs_failures_and_settings(study: Any) -> None:
    whole = json.loads(render(*study, "json"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    lora = next(c for c in whole["sizes"][2]["cells"] if c["recipe"] == "lora")
    assert [run["seed"] for run in lora["runs"]] == [0, 1, 2, 3, 4]
    assert lora["runs"][3]["score"] is None
    assert [run["score"] for run in lora["runs"] if run["score"] is not None] == lora["scores"]
    assert whole["failures"] == [{"recipe": "lora", "size": "512", "seed": 3, "reason": "the loss was <nan> at step 14"}]
    assert {"recipe": "full", "size": "32", "seed": 4, "setting": {"learning_rate": 1e-4}} in whole["settings"]
    assert "gold" not in whole["study"]
    assert "items" not in whole["runs"][0]


def test_one_seed_has_null_spread_in_json(make: Callable[..., Any]) -> None:
    cell = json.loads(render(*make(seeds=1), "json"))["sizes"][0]["cells"][0]
    assert cell["sd"] is None
    assert cell["churn"] is None
    assert cell["seeds"] == 1


def test_write_makes_three_files_and_leaves_nothing_half_written(study: Any, tmp_path: Path) -> None:
    paths = write(*study, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["report.html", "report.md", "report.json"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["report.html", "report.json", "report.md"]
    assert paths[1].read_text(encoding="utf-8") == render(*study, "md")


def test_an_unknown_form_is_refused_by_name(study: Any) -> None:
    with pytest.raises(RecipeError, match=r"'pdf'.*html, table, json, md"):
        render(*study, "pdf")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_terminal_form_keeps_to_its_width(study: Any, width: int) -> None:
    text = terminal_text(conclude(*study), study[1], width, color=False)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text


def test_numbers_stay_whole_in_a_narrow_terminal(study: Any) -> None:
    text = terminal_text(conclude(*study), study[1], 80, color=False)
    section = contents(conclude(*study), study[1]).sections[0]
    assert all(cell in text for row in section.scores.rows for cell in row)
    assert text.count("head-only") > sum(row.count("head-only") for row in section.scores.rows)


def test_a_wide_table_goes_on_below_under_its_first_column() -> None:
    assert panels([10, 5, 5, 5], 80) == [[0, 1, 2, 3]]
    assert panels([10, 5, 5, 5], 30) == [[0, 1, 2], [0, 3]]
    assert panels([10, 50, 5], 30) == [[0, 1], [0, 2]]
    assert fitted([4, 6, 3], [4, 18, 12], 40) == [4, 15, 12]  # nothing is cut off
    assert fitted([4, 6, 3], [4, 18, 12], 23) == [4, 6, 4] and fitted([4, 6, 3], [4, 18, 12], 10) == [4, 6, 3]
    assert fitted([4, 6], [4, 8], 80) == [4, 8]


def test_color_only_where_asked_for(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[1m" in terminal_text(conclude(*study), study[1], 100, color=True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(*study, "table")


def test_names_with_markup_stay_as_they_are(make: Callable[..., Any]) -> None:
    name = "[bold]a|b* <i>"
    info, records = make(recipes=("full", name), sizes=("32",), seeds=2)
    assert name in terminal_text(conclude(info, records), records, 300, color=False)
    markdown = render(info, records, "md")
    assert "\\[bold\\]a\\|b\\* &lt;i&gt;" in markdown
    assert "<i>" not in markdown
