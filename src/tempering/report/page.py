"""The report as one HTML file that needs nothing else: no network, no scripts, no fonts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from tempering.report.contents import baseline_of, contents
from tempering.report.course import course_plot
from tempering.report.curves import Drawing, drawing_of
from tempering.report.plots import cost_plot, score_plot
from tempering.report.spread_plots import parts_plot, spread_plots

if TYPE_CHECKING:
    from tempering.study.decide import Conclusion
    from tempering.study.records import Record

# The marker shapes of the plots, in a box of 16 x 16, for the legend.
_SHAPES = (
    "M8 3a5 5 0 1 0 .01 0z",
    "M3.5 3.5h9v9h-9z",
    "M8 2.5l5.5 10h-11z",
    "M8 2l5 6-5 6-5-6z",
    "M8 13.5l5.5-10h-11z",
    "M6 2.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",
    "M8 1.5l1.9 4.4 4.8.4-3.7 3.1 1.2 4.7-4.2-2.5-4.2 2.5 1.2-4.7-3.7-3.1 4.8-.4z",
    "M8 2l6 4.4-2.3 7h-7.4l-2.3-7z",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a legend: the color number and marker shape of a recipe, or of a source of variance."""

    recipe: str
    color: int
    shape: str


def page(conclusion: Conclusion, records: Sequence[Record]) -> str:
    """The report as a self-contained page; every text that users wrote is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from tempering.study.decompose import REST, SOURCES

    folder = files("tempering.report")
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = env.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    drawing = drawing_of(conclusion, records)
    return template.render(
        words=contents(conclusion, records),
        # Our own files and drawings; texts inside the drawings were escaped when they were made.
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        plots=[Markup(plot) for plot in _plots(drawing)],
        spreads=[Markup(plot) for plot in spread_plots(conclusion)],
        parts=Markup(parts_plot(conclusion)),
        sources=[Entry(name, i, _SHAPES[i]) for i, name in enumerate((*SOURCES, REST))],
        course=Markup(course_plot(records, {curve.recipe: curve.index for curve in drawing.curves})),
        single=len(drawing.sizes) == 1,
        legend=legend(drawing),
        baseline=baseline_of(conclusion.info),
    )


def _plots(drawing: Drawing) -> list[str]:
    return [] if drawing.empty else [plot for plot in (score_plot(drawing), cost_plot(drawing)) if plot]


def legend(drawing: Drawing) -> list[Entry]:
    """What color and marker each recipe has."""
    return [Entry(c.recipe, c.index % len(_SHAPES), _SHAPES[c.index % len(_SHAPES)]) for c in drawing.curves]
