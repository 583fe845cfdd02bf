from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tempering.report import render
from tempering.report.curves import drawing_of
from tempering.report.plots import positions, score_plot
from tempering.study.decide import conclude

LONG = "tapt+lora-with-r-drop-and-layerwise-decay-of-0.95"
EIGHT = ("full", "lora", "bitfit", "head-only", LONG, "houlsby", "mixout", "self-distillation")


@pytest.fixture(scope="module")
def page(study: Any) -> str:
    return render(*study, "html")


def drawings(page: str) -> list[str]:
    return [svg for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL) if 'role="img"' in svg]


def test_the_page_needs_nothing_else(page: str) -> None:
    outside = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"https?:|<script|<link|<img|@import|src=|url\((?!#)", outside)


def test_the_page_is_fit_for_a_phone_and_for_the_dark(page: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme: dark" in page
    assert page.count('<div class="box"') == page.count("<table")


def test_tables_have_captions_and_scopes(page: str) -> None:
    tables = re.findall(r"<table.*?</table>", page, flags=re.DOTALL)
    assert len(tables) == 14
    for table in tables:
        assert "<caption>" in table
        assert table.count('<th scope="row">') == table.count("<tr") - 1
        assert "<th>" not in table


def test_plots_are_well_formed_and_described(page: str) -> None:
    plots = [ET.fromstring(svg) for svg in drawings(page)]
    titles = ["accuracy (%)", "accuracy (%)", "standard deviation of accuracy (points)", "churn (% of rows)"]
    for plot, words in zip(plots, titles, strict=True):
        title, description = list(plot)[:2]
        assert (title.text or "").endswith(words)
        assert "head-only: " in (description.text or "")
        assert plot.get("aria-labelledby") == title.get("id")


def test_plots_use_only_colors_of_the_page(page: str) -> None:
    for svg in drawings(page):
        assert not re.search(r"#[0-9a-f]{6}\b(?!\")", svg)
        assert "currentColor" in svg
        assert {"var(--r0)", "var(--r3)"} <= set(re.findall(r"var\(--\w+\)", svg))


def test_ids_are_unique_and_references_lead_somewhere(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referenced = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {a or b for a, b in referenced} <= set(ids)


def test_text_in_plots_is_text(page: str) -> None:
    assert "training rows (logarithmic)</text>" in page
    assert "DejaVu" not in page


def test_the_same_study_gives_the_same_bytes_and_changes_no_setting(study: Any, page: str) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert render(*study, "html") == page
    assert dict(matplotlib.rcParams) == before


def test_collapsed_runs_are_crosses(make: Callable[..., Any]) -> None:
    info, records = make(recipes=("full", "lora"), sizes=("32", "128"))
    fine = [replace(r, collapsed=False) for r in records]
    crossed, plain = (score_plot(drawing_of(conclude(info, runs), runs)) for runs in (records, fine))
    assert crossed.count("<path") > plain.count("<path")  # the cross has a shape of its own in the definitions
    assert sum(c for curve in drawing_of(conclude(info, records), records).curves for p in curve.points for _, c in p.dots) == 2


def test_the_plot_holds_every_run_and_the_baseline(study: Any) -> None:
    drawing = drawing_of(conclude(*study), study[1])
    scores = sorted(r.test["accuracy"] * 100 for r in study[1] if r.status == "done")
    assert sorted(score for curve in drawing.curves for p in curve.points for score, _ in p.dots) == pytest.approx(scores)
    assert drawing.baseline == pytest.approx(50.1)


def test_sizes_stand_at_their_logarithm() -> None:
    assert positions((10, 100, 1000)) == pytest.approx([1, 2, 3])
    assert positions((0, 100)) == [0, 1]
    assert positions((100, 100)) == [0, 1]


def test_what_users_wrote_is_escaped(make: Callable[..., Any]) -> None:
    bad = "<script>alert('x')</script>&\"$x_1$"
    info, records = make(recipes=("full", bad), sizes=("32",), seeds=2, title=bad, data=bad, model=bad, findings=[bad])
    records = [*records[:-1], replace(records[-1], status="failed", reason=bad, test={}, setting={bad: bad})]
    page = render(info, records, "html")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10
    assert len([ET.fromstring(svg) for svg in drawings(page)]) == 4


@pytest.mark.parametrize(
    "shape",
    [
        {"recipes": EIGHT, "sizes": ("32", "128", "512", "all"), "seeds": 2},
        {"recipes": EIGHT, "sizes": ("128",), "seeds": 2},
        {"recipes": ("full",), "sizes": ("32", "128"), "seeds": 3},
        {"recipes": ("full", "模型"), "sizes": ("32",), "seeds": 1},
        {"test_rows": 0, "sizes": ("32", "128")},
    ],
)
def test_studies_of_other_shapes_have_their_plots(make: Callable[..., Any], shape: dict[str, Any]) -> None:
    info, records = make(**shape)
    page = render(info, records, "html")
    known = 2 + (info.seeds > 1) + (info.seeds > 1 and info.test_rows > 0)  # churn needs predictions of two seeds
    assert [ET.fromstring(svg).tag.rpartition("}")[2] for svg in drawings(page)] == ["svg"] * known
    assert all(f"</svg>{recipe}</li>" in page for recipe in info.recipes)
    assert ">nan" not in page


def test_a_study_without_a_finished_run_says_so(make: Callable[..., Any]) -> None:
    info, records = make(sizes=("32",), seeds=1)
    page = render(info, [replace(r, status="failed", reason="out of memory", test={}) for r in records], "html")
    assert "No run finished, so there is nothing to plot." in page
    assert page.count("out of memory") == 4


def test_without_measured_times_there_is_no_cost_plot(make: Callable[..., Any]) -> None:
    info, records = make(sizes=("32", "128"), seeds=2)
    page = render(info, [replace(r, seconds=0.0) for r in records], "html")
    assert len(drawings(page)) == 3
    assert "Score against time a run" not in page
