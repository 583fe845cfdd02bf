"""What framings told of themselves while they trained, such as the number of prototypes: a table for every form, a plot for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.report import svg
from tempering.report.plots import MARKERS, figure
from tempering.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tempering.study.records import Record


@dataclass(frozen=True, slots=True)
class Course:
    """One recipe at one size: the ``fact`` its framing names first, at each of ``steps``: mean, least and greatest over seeds."""

    recipe: str
    size: str
    fact: str
    steps: tuple[int, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def courses_of(records: Sequence[Record]) -> list[Course]:
    """All courses, in the order of the records; recipes whose framing tells nothing have none."""
    found: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for record in records:
        for told in record.facts:
            fact = next(name for name in told if name != "step")
            found.setdefault((record.recipe, record.size, fact), {}).setdefault(int(told["step"]), []).append(told[fact])
    return [_course(*key, seen) for key, seen in found.items()]


def _course(recipe: str, size: str, fact: str, seen: Mapping[int, list[float]]) -> Course:
    steps = tuple(sorted(seen))
    each = [seen[step] for step in steps]
    means = tuple(sum(values) / len(values) for values in each)
    return Course(recipe, size, fact, steps, means, tuple(map(min, each)), tuple(map(max, each)))


def course_table(records: Sequence[Record]) -> Table | None:
    """Where each course starts and ends, with the range over seeds; None where there is none."""
    rows = tuple((c.recipe, c.size, c.fact, *(_shown(c, i) for i in (0, -1)), f"{c.steps[-1]:,}") for c in courses_of(records))
    columns = ("recipe", "size", "what", "at the start", "at the last refresh", "in step")
    return Table("While training", columns, rows, (False, True, False, True, True, True)) if rows else None


def _shown(course: Course, i: int) -> str:
    low, high = course.lows[i], course.highs[i]
    return f"{course.means[i]:.3g}" + (f" ({low:.3g} to {high:.3g})" if low != high else "")


def course_plot(records: Sequence[Record], recipes: Mapping[str, int]) -> str:
    """Courses over steps as an SVG element, a line for each recipe and size; empty text where there is none. ``recipes``: name -> color."""
    courses = courses_of(records)
    if not courses:
        return ""
    words = " ".join(f"{c.recipe}, size {c.size}: {c.fact} from {c.means[0]:.3g} to {c.means[-1]:.3g}." for c in courses)
    title = f"{courses[0].fact.capitalize()} while training"
    return svg.embed(figure(lambda axes: _draw(axes, courses, recipes), 3.4), "course", title, words)


def _draw(axes: Axes, courses: Sequence[Course], recipes: Mapping[str, int]) -> None:
    for course in courses:
        index = recipes.get(course.recipe, 0)
        tone = svg.color(index)
        axes.fill_between(course.steps, course.lows, course.highs, color=tone, alpha=0.1, linewidth=0, step="post")
        axes.step(course.steps, course.means, where="post", color=tone, marker=MARKERS[index % 8], linewidth=1.6, markersize=5)
        place = (course.steps[-1], course.means[-1])
        axes.annotate(course.size, place, textcoords="offset points", xytext=(6, 0), va="center", fontsize=9, parse_math=False)
    axes.set_xlabel("step")
    axes.set_ylabel(courses[0].fact, parse_math=False)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.12)
