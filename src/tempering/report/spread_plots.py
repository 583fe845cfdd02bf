"""The plots of instability: standard deviation and churn of each recipe over sizes, and what each seed stream brings about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tempering.report import svg
from tempering.report.contents import scale_of
from tempering.report.curves import Curve, Drawing, Point, drawing_of
from tempering.report.plots import MARKERS, figure, score_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tempering.study.decide import Cell, Conclusion
    from tempering.study.decompose import Component, Decomposition

_ROW = 0.62  # inches for the four sources of one recipe at one size


def spread_plots(conclusion: Conclusion) -> list[str]:
    """Standard deviation, then churn, each with its interval, as SVG elements; without those of which nothing is known."""
    scale = scale_of(conclusion)
    unit = " (points)" if scale.percent else ""
    in_sd = any(cell.churn.in_sd for result in conclusion.sizes for cell in result.cells)
    deviation = _drawing(conclusion, f"standard deviation of {scale.metric}{unit}", lambda c: _deviation(c, scale.factor))
    churn = _drawing(conclusion, "churn (target sd)" if in_sd else "churn (% of rows)", lambda c: _churn(c, 1.0 if in_sd else 100.0))
    named = ((deviation, "spread", "Spread over seeds"), (churn, "churn", "Disagreement between seeds"))
    return [score_plot(drawing, name, what) for drawing, name, what in named if not drawing.empty]


def _deviation(cell: Cell, factor: float) -> tuple[float, float, float]:
    spread = cell.interval
    return spread.sd * factor, spread.sd_low * factor, spread.sd_high * factor


def _churn(cell: Cell, factor: float) -> tuple[float, float, float]:
    return cell.churn.value * factor, cell.churn.low * factor, cell.churn.high * factor


def _drawing(conclusion: Conclusion, axis: str, of: Callable[[Cell], tuple[float, float, float]]) -> Drawing:
    """The curves of ``of`` (value, low, high) over sizes, in the colors of the score plot."""
    whole = drawing_of(conclusion, ())
    curves = tuple(Curve(curve.recipe, curve.index, _points(conclusion, curve.recipe, of)) for curve in whole.curves)
    return Drawing(curves, whole.sizes, whole.rows, math.nan, axis, from_zero=True)


def _points(conclusion: Conclusion, recipe: str, of: Callable[[Cell], tuple[float, float, float]]) -> tuple[Point, ...]:
    found = [(i, of(cell)) for i, result in enumerate(conclusion.sizes) for cell in result.cells if cell.recipe == recipe]
    return tuple(Point(i, value, low, high, 0.0, ()) for i, (value, low, high) in found if math.isfinite(value))


def parts_plot(conclusion: Conclusion) -> str:
    """The standard deviation that each seed stream brings about, a line for each with its interval; empty text where none is known."""
    known = [part for part in conclusion.parts if part.components]
    if not known:
        return ""
    scale = scale_of(conclusion)
    axis = f"standard deviation of {scale.metric}" + (" (points)" if scale.percent else "")
    drawn = figure(lambda axes: _draw_parts(axes, known, scale.factor, axis), 0.8 + _ROW * len(known))
    words = " ".join(_in_words(part, scale.factor) for part in known)
    return svg.embed(drawn, "parts", f"Where the spread comes from: {axis}", words)


def _in_words(part: Decomposition, factor: float) -> str:
    named = ", ".join(f"{c.source} {c.sd * factor:.3g}{_bounds(c, factor)}" for c in part.components)
    return f"{part.recipe}, size {part.size}: {named}."


def _bounds(component: Component, factor: float) -> str:
    """The interval in words; nothing where none is known, as of scores that are all equal."""
    low, high = component.low * factor, component.high * factor
    return f" ({low:.3g} to {high:.3g})" if math.isfinite(low) and math.isfinite(high) else ""


def _draw_parts(axes: Axes, parts: Sequence[Decomposition], factor: float, axis: str) -> None:
    limit = _limit(parts, factor)
    for row, part in enumerate(parts):
        name = f"{part.recipe}, {part.size} rows"
        label = axes.text(0.01, row - 0.4, name if len(name) <= 50 else name[:49] + "…", fontsize=10, va="center", parse_math=False)
        label.set_transform(axes.get_yaxis_transform())
        label.set_bbox({"facecolor": svg.PAPER, "edgecolor": "none", "pad": 1.5})
        for i, component in enumerate(part.components):
            _draw_component(axes, component, i, row - 0.18 + 0.17 * i, factor, limit)
    axes.set_yticks([])
    axes.set_ylim(len(parts) - 0.38, -0.62)
    axes.set_xlim(0, limit)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(axis, parse_math=False)


def _draw_component(axes: Axes, component: Component, index: int, y: float, factor: float, limit: float) -> None:
    """A marker with its interval; one that goes on beyond the plot ends in an arrow."""
    tone, low, high = svg.color(index), component.low * factor, component.high * factor
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([min(low, limit), min(high, limit)], [y, y], color=tone, linewidth=2.4, alpha=0.45, solid_capstyle="butt")
    if high > limit:
        axes.plot([limit * 0.99], [y], ">", color=tone, markersize=5, alpha=0.6, clip_on=False)
    axes.plot([component.sd * factor], [y], MARKERS[index], color=tone, markersize=6, clip_on=False)


def _limit(parts: Sequence[Decomposition], factor: float) -> float:
    """The end of the axis: all values, and intervals up to twice the greatest; few levels leave upper ends far out."""
    values = [c.sd * factor for part in parts for c in part.components]
    highs = [c.high * factor for part in parts for c in part.components if math.isfinite(c.high)]
    return min(max([*highs, 0.0]), 2.0 * max(values)) * 1.05 or 1.0
