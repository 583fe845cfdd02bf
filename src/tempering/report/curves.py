"""What the plots draw: for each recipe the scores, intervals and costs over sizes, in the units that are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.report.contents import scale_of

if TYPE_CHECKING:
    from tempering.study.decide import Cell, Conclusion
    from tempering.study.records import Record, StudyInfo


@dataclass(frozen=True, slots=True)
class Point:
    """One recipe at one size, in shown units. ``low`` and ``high`` may be NaN; ``dots`` are (score, collapsed) of each seed."""

    size: int
    mean: float
    low: float
    high: float
    seconds: float
    dots: tuple[tuple[float, bool], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A recipe's points, smallest size first; sizes without a finished run are absent."""

    recipe: str
    index: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """All curves with what their axes need. ``rows`` and ``sizes`` describe each size; ``baseline`` is in shown units.

    ``from_zero``: what is drawn cannot be below 0, and its axis starts there.
    """

    curves: tuple[Curve, ...]
    sizes: tuple[str, ...]
    rows: tuple[int, ...]
    baseline: float
    axis: str
    from_zero: bool = False

    @property
    def empty(self) -> bool:
        """No run finished."""
        return not any(curve.points for curve in self.curves)


def drawing_of(conclusion: Conclusion, records: Sequence[Record]) -> Drawing:
    """The drawing of a conclusion."""
    info, scale = conclusion.info, scale_of(conclusion)
    better = "" if info.higher_is_better else ", lower is better"
    unit = " (%)" if scale.percent else ""
    recipes = list(dict.fromkeys([*info.recipes, *(c.recipe for s in conclusion.sizes for c in s.cells)]))
    curves = tuple(Curve(name, i, _points(name, conclusion, records, scale.factor)) for i, name in enumerate(recipes))
    sizes = tuple(result.size for result in conclusion.sizes)
    rows = tuple(result.rows for result in conclusion.sizes)
    return Drawing(curves, sizes, rows, info.majority * scale.factor, f"{info.metric}{unit}{better}")


def _points(recipe: str, conclusion: Conclusion, records: Sequence[Record], factor: float) -> tuple[Point, ...]:
    points = []
    for index, result in enumerate(conclusion.sizes):
        for cell in result.cells:
            if cell.recipe == recipe and math.isfinite(cell.interval.mean):
                points.append(_point(index, cell, _dots(cell, records, conclusion.info, factor), factor))
    return tuple(points)


def _point(index: int, cell: Cell, dots: tuple[tuple[float, bool], ...], factor: float) -> Point:
    spread = cell.interval
    return Point(index, spread.mean * factor, spread.low * factor, spread.high * factor, cell.seconds, dots)


def _dots(cell: Cell, records: Sequence[Record], info: StudyInfo, factor: float) -> tuple[tuple[float, bool], ...]:
    from tempering.study.decide import score_of

    mine = [record for record in records if (record.recipe, record.size) == (cell.recipe, cell.size)]
    found = [(score_of(info, record) * factor, record.collapsed) for record in mine]
    return tuple((score, collapsed) for score, collapsed in found if math.isfinite(score))
