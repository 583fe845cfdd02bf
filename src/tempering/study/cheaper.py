"""What the cheapest of the tied recipes saves, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tempering.study.figures import listed

if TYPE_CHECKING:
    from tempering.study.decide import Cell, SizeResult

WORTH_SAYING = 1.5  # ratios of cost below this are not mentioned


def cheapest(result: SizeResult) -> Cell:
    """The tied recipe with the smallest file, then the fewest trained weights, then the least time."""
    tied = [cell for cell in result.cells if cell.recipe in result.tied]
    return min(tied, key=lambda cell: (cell.artefact_bytes or math.inf, cell.trained_parameters, cell.seconds))


def cheaper(result: SizeResult) -> str:
    """What the cheapest of the tied saves against the dearest of them; "" when it is nothing worth saying."""
    cheap = cheapest(result)
    tied = [cell for cell in result.cells if cell.recipe in result.tied]
    dear = max(tied, key=lambda cell: (cell.artefact_bytes, cell.trained_parameters, cell.seconds))
    if cheap.recipe == dear.recipe:
        return ""
    parts = []
    if cheap.total_parameters and dear.trained_parameters >= WORTH_SAYING * cheap.trained_parameters:
        parts.append(f"trains {_share(cheap.trained_parameters / cheap.total_parameters)} of the weights")
    saved = _ratio(lambda cell: cell.artefact_bytes, cheap, dear)
    faster, slower = _ratio(lambda cell: cell.seconds, cheap, dear), _ratio(lambda cell: cell.seconds, dear, cheap)
    parts += [f"its file is {_times(saved)} x smaller"] if saved >= WORTH_SAYING else []
    parts += [f"a run is {_times(faster)} x faster"] if faster >= WORTH_SAYING else []
    parts += [f"a run takes {_times(slower)} x as long"] if slower >= WORTH_SAYING and parts else []
    return f"{cheap.recipe} {listed(parts)} (against {dear.recipe})" if parts else ""


def _ratio(cost: Callable[[Cell], float], cheap: Cell, dear: Cell) -> float:
    return cost(dear) / cost(cheap) if cost(cheap) > 0 else 0.0


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.2g} %"
