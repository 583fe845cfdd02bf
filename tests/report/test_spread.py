"""How steady recipes are, in every form of the report."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tempering.report import render
from tempering.report.contents import contents
from tempering.report.markdown import escape
from tempering.report.spread_plots import parts_plot, spread_plots
from tempering.study.crossing import code, off_diagonal
from tempering.study.decide import conclude
from tempering.study.records import Record, StudyInfo

Crossed = tuple[StudyInfo, list[Record], list[Record]]


@pytest.fixture(scope="module")
def crossed(make: Callable[..., Any]) -> Crossed:
    """Two recipes at one size whose variance comes from the sample alone, or from the initialization alone."""
    info, records = make(recipes=("full", "lora"), sizes=("32",), trouble=False, crossed=5)
    effect = dict(zip(range(5), np.linspace(-0.1, 0.1, 5), strict=True))
    runs = [replace(r, test={"accuracy": 0.7 + effect[r.seed]}, items=[]) for r in records]
    base = {r.recipe: r for r in runs if r.seed == 0}
    extra = []
    for name, stream in (("full", 0), ("lora", 1)):
        for x in off_diagonal(5):
            extra.append(replace(base[name], seed=code(x), levels=list(x), test={"accuracy": 0.7 + effect[x[stream]]}))
    return info, runs, extra


def test_the_spread_of_every_recipe_stands_under_its_score(study: Any) -> None:
    words = contents(conclude(*study), study[1])
    table = words.sections[0].spread
    assert table is not None
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    cell = next(c for c in conclude(*study).sizes[0].cells if c.recipe == "full")
    spread = cell.interval
    assert rows["full"]["collapsed"] == "2 of 5"
    assert rows["full"]["worst to best"] == f"{100 * min(cell.scores):.1f} to {100 * max(cell.scores):.1f} %"
    assert rows["full"]["sd over seeds (95 %)"] == f"{100 * spread.sd:.1f} ({100 * spread.sd_low:.1f} to {100 * spread.sd_high:.1f})"
    shown = (cell.churn.value, cell.churn.low, cell.churn.high)
    assert rows["full"]["churn (95 %)"] == "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * x for x in shown))
    assert "share of test rows on which two seeds predict differently" in dict(words.method)["Spread"]


def test_values_differ_by_their_own_unit(make: Callable[..., Any]) -> None:
    info, records = make(sizes=("32",), kind="regression", metric="mse", higher_is_better=False, gold=[0.0, 1.0] * 150)
    rng = np.random.default_rng(0)
    scored = [replace(r, test={"mse": 0.3}, items=[], predictions=rng.random(300).tolist()) for r in records]
    words = contents(conclude(info, scored), scored)
    assert words.sections[0].spread is not None
    assert all(re.fullmatch(r"0\.\d\d \(0\.\d\d to 0\.\d\d\) sd", row[-1]) for row in words.sections[0].spread.rows)
    assert "standard deviations of the true values" in dict(words.method)["Spread"]
    assert "churn (target sd)" in spread_plots(conclude(info, scored))[1]


def test_equal_scores_claim_no_certainty(crossed: Crossed) -> None:
    """Every form stands a spread of 0 without an interval, and none calls it "0.0 (0.0 to 0.0)"."""
    info, records, extra = ([replace(r, test={"accuracy": 0.5}) for r in part] if isinstance(part, list) else part for part in crossed)
    conclusion = conclude(info, records, extra)
    words = contents(conclusion, records)
    assert words.sections[0].spread is not None
    assert [row[1] for row in words.sections[0].spread.rows] == ["0.0", "0.0"]
    assert words.parts is not None
    assert [row[3:] for row in words.parts.rows] == [("0.0",) * 5 + ("no spread",)] * 2
    found = json.loads(render(info, records, "json", extra))
    assert [c["low"] for part in found["parts"] for c in part["components"]] == [None] * 8
    for form in ("html", "md", "table"):
        shown = render(info, records, form, extra)
        assert "0.0 (0.0 to 0.0)" not in shown
        assert "nan" not in re.sub(r'url\(data:[^)]*\)|base64,[^"]*', "", shown).lower().replace("finance", "")
    description = list(ET.fromstring(parts_plot(conclusion)))[1]
    assert (description.text or "").startswith("full, size 32: data sample 0, initialization 0, order 0, interactions 0.")
    assert "all scores are equal there is none" in dict(words.method)["Spread"]


def test_one_seed_has_no_spread_to_show(make: Callable[..., Any]) -> None:
    info, records = make(seeds=1)
    words = contents(conclude(info, records), records)
    assert [section.spread for section in words.sections] == [None] * 3
    assert "Spread" not in dict(words.method)
    assert spread_plots(conclude(info, records)) == []


def test_a_study_that_kept_no_predictions_still_reports(make: Callable[..., Any]) -> None:
    info, records = make(sizes=("32",))
    old = [replace(r, predictions=[]) for r in records]
    table = contents(conclude(info, old), old).sections[0].spread
    assert table is not None
    assert [row[-1] for row in table.rows] == ["n/a"] * 4
    assert len(spread_plots(conclude(info, old))) == 1


def test_the_source_of_the_spread_is_named(crossed: Crossed) -> None:
    table = contents(conclude(*crossed), crossed[1]).parts
    assert table is not None
    full, lora = table.rows
    sd = 100 * np.std(np.linspace(-0.1, 0.1, 5), ddof=1)
    assert full[:4] == ("full", "32", "25 of 25", f"{sd:.1f}")
    assert full[4].startswith(f"{sd:.1f} (")
    assert full[4].endswith("*")
    assert full[-1] == "100 / 0 / 0 / 0 %"
    assert lora[-1] == "0 / 100 / 0 / 0 %"
    assert "5 seeds of each stream" in table.notes[0]


def test_every_form_shows_the_decomposition(crossed: Crossed) -> None:
    info, records, extra = crossed
    table = contents(conclude(*crossed), records).parts
    assert table is not None
    page, markdown, text = (render(info, records, form, extra) for form in ("html", "md", "table"))
    for cell in table.rows[0]:
        assert f">{cell}</t" in page
        assert f"| {escape(cell)} |" in markdown
        assert cell in text
    parts = json.loads(render(info, records, "json", extra))["parts"]
    assert [c["source"] for c in parts[0]["components"]] == ["data sample", "initialization", "order", "interactions"]
    assert parts[1]["components"][1]["share"] == pytest.approx(1.0)
    assert parts[0]["components"][3]["p"] is None


def test_the_plot_of_the_sources_is_well_formed_and_described(crossed: Crossed) -> None:
    title, description = list(ET.fromstring(parts_plot(conclude(*crossed))))[:2]
    assert title.text == "Where the spread comes from: standard deviation of accuracy (points)"
    assert (description.text or "").startswith("full, size 32: data sample 7.91 (")
    assert "</svg>interactions</li>" in render(*crossed[:2], "html", crossed[2])


def test_an_unfinished_square_says_so(crossed: Crossed) -> None:
    info, records, extra = crossed
    conclusion = conclude(info, records, extra[:2])
    table = contents(conclusion, records).parts
    assert table is not None
    assert table.rows[0][2] == "7 of 25"
    assert table.rows[0][-1].startswith("too few finished runs")
    assert parts_plot(conclusion) == ""
    assert "too few finished runs" in render(info, records, "html", extra[:2])


def test_crossed_runs_change_no_score(crossed: Crossed) -> None:
    info, records, extra = crossed
    assert conclude(info, records, extra).sizes == conclude(info, records).sizes


def test_with_all_rows_the_sample_is_said_to_be_none(make: Callable[..., Any]) -> None:
    info, records = make(recipes=("full",), sizes=("all",), trouble=False, crossed=5)
    table = contents(conclude(info, records), records).parts
    assert table is not None
    assert "only changes their order" in table.notes[-1]
