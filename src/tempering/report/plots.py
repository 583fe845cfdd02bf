"""Two plots: score against training rows, and score against what a run costs. matplotlib draws them; nothing global is changed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Any

from tempering.report import svg
from tempering.report.formats import seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tempering.report.curves import Curve, Drawing, Point

MARKERS = ("o", "s", "^", "D", "v", "P", "*", "p")
_WIDTH = 5.4  # inches: about as wide as a phone, so that text keeps its size there
_STYLE: dict[Any, Any] = {  # matplotlib types the keys as literals
    "svg.fonttype": "none",
    "svg.hashsalt": "tempering",
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": svg.INK,
    "axes.edgecolor": svg.INK,
    "axes.labelcolor": svg.INK,
    "xtick.color": svg.INK,
    "ytick.color": svg.INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": svg.GRID,
    "grid.linewidth": 0.8,
}
_LADDER = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 120, 360, 1200, 3600, 10800, 36000, 108000)  # seconds, a factor of 3 or so apart


def score_plot(drawing: Drawing, name: str = "score", what: str = "Score") -> str:
    """Score (or ``what`` else) against training rows as an SVG element; with a single size, one line of dots a recipe instead."""
    several = len(drawing.sizes) > 1
    tall = 3.9 if several else 1.1 + 0.55 * len(drawing.curves)
    draw = _draw_sizes if several else _draw_single
    return svg.embed(
        figure(lambda axes: draw(axes, drawing), tall), name, f"{what} against training rows: {drawing.axis}", _describe(drawing)
    )


def cost_plot(drawing: Drawing) -> str:
    """Score against seconds a run as an SVG element. Empty text where no time was measured."""
    if not any(point.seconds > 0 for curve in drawing.curves for point in curve.points):
        return ""
    return svg.embed(
        figure(lambda axes: _draw_costs(axes, drawing), 3.9),
        "cost",
        f"Score against time a run: {drawing.axis}",
        _describe(drawing, costs=True),
    )


def figure(draw: Callable[[Axes], None], tall: float) -> str:
    """A whole SVG file of what ``draw`` puts on one pair of axes, ``tall`` inches high, in the report's style."""
    import matplotlib
    from matplotlib.figure import Figure

    out = StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Names in scripts that matplotlib's font lacks: the browser has the glyphs, only the measuring is off.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        whole = Figure(figsize=(_WIDTH, tall), layout="constrained")
        draw(whole.subplots())
        whole.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue()


def _draw_sizes(axes: Axes, drawing: Drawing) -> None:
    places = positions(drawing.rows)
    nearest = min(b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False))
    step = min((max(places) - min(places)) * 0.03, nearest * 0.8 / len(drawing.curves))
    middle = (len(drawing.curves) - 1) / 2
    for curve in drawing.curves:
        xs = [places[p.size] + (curve.index - middle) * step for p in curve.points]
        _band(axes, curve, xs, 0.13 if len(drawing.curves) <= 5 else 0.06)
        for x, point in zip(xs, curve.points, strict=True):
            _dots(axes, curve, [x + step * 0.35] * len(point.dots), [score for score, _ in point.dots], point)
    _baseline(axes.axhline, drawing)
    axes.set_xticks(places, _size_ticks(drawing, places))
    axes.set_xlabel("training rows (logarithmic)" if min(drawing.rows) > 0 else "size")
    axes.set_ylabel(drawing.axis, parse_math=False)
    axes.set_ylim(*_range(drawing))


def _draw_single(axes: Axes, drawing: Drawing) -> None:
    """Names stand above their lines, so that long ones take no room from the plot."""
    for curve in drawing.curves:
        y = float(curve.index)
        name = curve.recipe if len(curve.recipe) <= 46 else curve.recipe[:45] + "…"
        absent = "" if curve.points else " (no run finished)"
        label = axes.text(0.01, y - 0.27, name + absent, transform=axes.get_yaxis_transform(), fontsize=10, va="center", parse_math=False)
        label.set_bbox({"facecolor": svg.PAPER, "edgecolor": "none", "pad": 1.5})  # nothing strikes a name through
        for point in curve.points:
            if math.isfinite(point.low):
                axes.plot([point.low, point.high], [y + 0.12] * 2, color=svg.color(curve.index), linewidth=5, alpha=0.3)
            axes.plot([point.mean], [y + 0.12], MARKERS[curve.index % 8], color=svg.color(curve.index), markersize=8)
            _dots(axes, curve, [score for score, _ in point.dots], [y + 0.12] * len(point.dots), point)
    _baseline(axes.axvline, drawing)
    axes.set_yticks([])
    axes.set_ylim(len(drawing.curves) - 0.45, -0.55)
    axes.set_xlim(*_range(drawing))
    axes.grid(axis="x")
    axes.set_xlabel(drawing.axis, parse_math=False)


def _draw_costs(axes: Axes, drawing: Drawing) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    for curve in drawing.curves:
        paid = [p for p in curve.points if p.seconds > 0]
        tone, marker = svg.color(curve.index), MARKERS[curve.index % 8]
        axes.plot([p.seconds for p in paid], [p.mean for p in paid], color=tone, linewidth=1, alpha=0.6)
        for p in paid:
            if math.isfinite(p.low):
                axes.plot([p.seconds] * 2, [p.low, p.high], color=tone, linewidth=1.6, alpha=0.5)
            axes.plot([p.seconds], [p.mean], marker, color=tone, markersize=5.5 + 2 * p.size)
    _baseline(axes.axhline, drawing)
    ticks, low, high = _time_ticks([p.seconds for c in drawing.curves for p in c.points if p.seconds > 0])
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [seconds(t).replace(".0 ", " ") for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("time a run (logarithmic)")
    axes.set_ylabel(drawing.axis, parse_math=False)
    axes.set_ylim(*_range(drawing))


def _band(axes: Axes, curve: Curve, xs: list[float], alpha: float) -> None:
    tone, points = svg.color(curve.index), curve.points
    known = [(x, p) for x, p in zip(xs, points, strict=True) if math.isfinite(p.low) and math.isfinite(p.high)]
    lows, highs = [p.low for _, p in known], [p.high for _, p in known]
    axes.fill_between([x for x, _ in known], lows, highs, color=tone, alpha=alpha, linewidth=0)
    for x, p in known:
        axes.plot([x, x], [p.low, p.high], color=tone, linewidth=1.6, alpha=0.7)
    style = "-" if curve.index < svg.COLORS else "--"
    axes.plot(xs, [p.mean for p in points], style, marker=MARKERS[curve.index % 8], color=tone, linewidth=1.8, markersize=7)


def _dots(axes: Axes, curve: Curve, xs: list[float], ys: list[float], point: Point) -> None:
    """A dot for each seed's run, a cross where it collapsed."""
    for x, y, (_, collapsed) in zip(xs, ys, point.dots, strict=True):
        if collapsed:
            axes.plot([x], [y], "x", color=svg.color(curve.index), markersize=7, markeredgewidth=1.8)
        else:
            axes.plot([x], [y], ".", color=svg.color(curve.index), markersize=5, alpha=0.75)


def _baseline(line: Callable[..., object], drawing: Drawing) -> None:
    if math.isfinite(drawing.baseline):
        line(drawing.baseline, color=svg.INK, linestyle=":", linewidth=1.5, alpha=0.8)


def positions(rows: tuple[int, ...]) -> list[float]:
    """Where sizes stand on the axis: the logarithm of their rows, or evenly where rows are unknown or equal."""
    if min(rows) <= 0 or len(set(rows)) < len(rows):
        return [float(i) for i in range(len(rows))]
    return [math.log10(r) for r in rows]


def _size_ticks(drawing: Drawing, places: list[float]) -> list[str]:
    """Labels of the sizes; one that would touch its left neighbour goes a line lower."""
    near = 0.16 * (max(places) - min(places))
    labels, last = [], -math.inf
    for size, rows, place in zip(drawing.sizes, drawing.rows, places, strict=True):
        label = f"{rows:,}" if rows > 0 else size
        lower = place - last < near
        labels.append(f"\n{label}" if lower else label)
        last = last if lower else place
    return labels


def _time_ticks(times: list[float]) -> tuple[list[float], float, float]:
    """At most six round durations and the limits of the axis."""
    low, high = min(times) / 1.3, max(times) * 1.3
    if high / low < 12:
        low, high = low / 1.9, high * 1.9
    inside = [t for t in _LADDER if low <= t <= high] or [math.sqrt(low * high)]
    return inside[:: math.ceil(len(inside) / 6)], low, high


def _range(drawing: Drawing) -> tuple[float, float]:
    """Limits of the score axis: all runs and the baseline; intervals may add half of that span on each side, not more.

    From zero, they may reach three times as far as the greatest value.
    """
    points = [p for curve in drawing.curves for p in curve.points]
    seen = [score for p in points for score, _ in p.dots] + [p.mean for p in points]
    seen += [drawing.baseline] if math.isfinite(drawing.baseline) else []
    low, high = min(seen), max(seen)
    if drawing.from_zero:
        reach = max([high, *(p.high for p in points if math.isfinite(p.high))])
        return 0.0, min(reach, 3 * high) * 1.05 or 1.0
    span = (high - low) or abs(high) * 0.1 or 1.0
    lowest = min([low, *(p.low for p in points if math.isfinite(p.low))])
    highest = max([high, *(p.high for p in points if math.isfinite(p.high))])
    return max(lowest, low - span / 2) - span * 0.05, min(highest, high + span / 2) + span * 0.05


def _describe(drawing: Drawing, costs: bool = False) -> str:
    """The plot in words, for those who do not see it."""
    parts = []
    for curve in drawing.curves:
        shown = [f"{p.mean:.3g} with {drawing.rows[p.size]:,} rows" + (f" in {seconds(p.seconds)}" if costs else "") for p in curve.points]
        parts.append(f"{curve.recipe}: {', '.join(shown) or 'no run finished'}.")
    return " ".join(parts)
