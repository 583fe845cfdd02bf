"""What framings told while training: the table in every form, the plot on the page, and nothing where nothing was told."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tempering.report import render
from tempering.report.course import course_plot, course_table, courses_of


@pytest.fixture
def told(make: Callable[..., Any]) -> Any:
    """Two recipes at two sizes; the framing of lora tells of 2 prototypes at first, then of 4 and one more for each seed."""
    info, records = make(recipes=("full", "lora"), sizes=("32", "128"), seeds=3, trouble=False)

    def facts(seed: int) -> list[dict[str, float]]:
        return [{"step": 0, "prototypes": 2.0, "sigma": 9.0}, {"step": 50, "prototypes": 4.0 + seed, "sigma": 8.0}]

    return info, [replace(r, facts=facts(r.seed)) if r.recipe == "lora" else r for r in records]


def test_a_course_is_the_mean_and_range_over_seeds_of_the_first_fact(told: Any) -> None:
    first, second = courses_of(told[1])
    assert (first.recipe, first.size, second.size, first.fact) == ("lora", "32", "128", "prototypes")
    assert first.steps == (0, 50) and first.means == (2.0, 5.0) and first.lows == (2.0, 4.0) and first.highs == (2.0, 6.0)


def test_the_table_stands_in_every_form(told: Any) -> None:
    table = course_table(told[1])
    assert table is not None
    assert table.rows == (
        ("lora", "32", "prototypes", "2", "5 (4 to 6)", "50"),
        ("lora", "128", "prototypes", "2", "5 (4 to 6)", "50"),
    )
    for form in ("html", "md", "table"):
        text = render(*told, form)  # type: ignore[arg-type]
        assert "While training" in text and "5 (4 to 6)" in text
    assert '"prototypes": 6.0' in render(*told, "json")


def test_the_plot_is_well_formed_and_described(told: Any) -> None:
    page = render(*told, "html")
    plots = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL) if 'role="img"' in svg]
    title, description = list(plots[-1])[:2]
    assert len(plots) == 5 and title.text == "Prototypes while training"
    assert description.text == "lora, size 32: prototypes from 2 to 5. lora, size 128: prototypes from 2 to 5."
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "var(--r1)" in course_plot(told[1], {"full": 0, "lora": 1})


def test_nothing_is_shown_where_nothing_was_told(make: Callable[..., Any]) -> None:
    study = make(seeds=2, trouble=False)
    assert course_table(study[1]) is None and course_plot(study[1], {}) == "" and "While training" not in render(*study, "html")
