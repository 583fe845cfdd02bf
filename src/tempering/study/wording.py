"""The answer of a study in plain sentences: which recipe for which size, what is tied, what is cheaper, what went wrong.

Nothing is called best that was not shown to be better than every other recipe: the words for a tie are "cannot be told apart", and
what was shown not to be the best is "behind the best" (`study.best`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.study.pairs import FEW_SEEDS, NO_SPREAD, Pair

if TYPE_CHECKING:
    from tempering.study.decide import Cell, Conclusion, SizeResult
    from tempering.study.records import StudyInfo

WORTH_SAYING = 1.5  # ratios of cost below this are not mentioned


@dataclass(frozen=True, slots=True)
class _Unit:
    """How scores are written: percentages for metrics in 0..1 (as the report's tables do), else three digits."""

    metric: str
    percent: bool

    def bare(self, value: float) -> str:
        shown = f"{100 * value:.1f}" if self.percent else (f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}")
        return shown if shown.strip("-0.") else shown.removeprefix("-")

    def values(self, values: Iterable[float]) -> str:
        """ "94.1 and 93.8 % accuracy"."""
        return f"{_and([self.bare(v) for v in values])}{' %' if self.percent else ''} {self.metric}"

    def range(self, values: Sequence[float]) -> str:
        """ "61.0 to 85.2 % accuracy"."""
        return f"{self.span(min(values), max(values))}{' %' if self.percent else ''} {self.metric}"

    def span(self, low: float, high: float) -> str:
        return f"{self.bare(low)} to {self.bare(high)}"

    def gap(self, value: float) -> str:
        """ "0.3 points"."""
        return self.bare(value) + (" points" if self.percent else "")


def words(conclusion: Conclusion) -> list[str]:
    """The sentences that lead the report, those on the largest size first; sizes with the same answer share one."""
    info = conclusion.info
    judged = sorted((s for s in conclusion.sizes if s.tied), key=lambda result: -result.rows)
    if not judged:
        return ["No run has finished yet, so there is nothing to compare."]
    unit = _unit(info, conclusion.sizes)
    merged: dict[tuple[object, ...], list[SizeResult]] = {}
    for result in judged:
        merged.setdefault(_same(result), []).append(result)
    sentences = [_verdict(info, unit, results) for results in merged.values()]
    extras = (_one_seed(judged), _baseline(info, unit, judged), _mishaps(conclusion.sizes), _power(unit, judged))
    return sentences + [sentence for sentence in extras if sentence]


def _unit(info: StudyInfo, sizes: Sequence[SizeResult]) -> _Unit:
    seen = [score for result in sizes for cell in result.cells for score in cell.scores]
    share = info.higher_is_better and bool(seen) and max(seen) >= 0 and all(-1 <= score <= 1 for score in seen)
    return _Unit(info.metric.replace("_", " "), share)


def _same(result: SizeResult) -> tuple[object, ...]:
    """Sizes whose keys are equal have the same answer."""
    tied, rest = frozenset(result.tied), frozenset(_behind(result))
    cheap = _cheapest(result) if len(tied) > 1 else None
    return tied, rest, cheap.recipe if cheap else ""


def _verdict(info: StudyInfo, unit: _Unit, results: Sequence[SizeResult]) -> str:
    result = results[0]
    where = f"With {_sizes(results)} rows "
    if len(result.tied) == 1:
        return where + (_best(info, unit, results) if _behind(result) else _alone(unit, results)) + "."
    names = _and([cell.recipe for cell in result.cells if cell.recipe in result.tied])
    rest = _behind(result)
    behind = f"; {_and(rest)} {'are' if len(rest) > 1 else 'is'} behind the best" if rest else ""
    cost = _cheaper(result)
    return f"{where}{names} cannot be told apart ({_tie(unit, results)}){behind}{'; ' + cost if cost else ''}."


def _alone(unit: _Unit, results: Sequence[SizeResult]) -> str:
    found = _cell(results[0], results[0].tied[0])
    span = _interval(unit, found.interval.low, found.interval.high, len(results))
    return f"{found.recipe} reaches {_reached(unit, results, found.recipe)}{span}"


def _best(info: StudyInfo, unit: _Unit, results: Sequence[SizeResult]) -> str:
    result, name = results[0], results[0].tied[0]
    sign = 1 if info.higher_is_better else -1
    others = [cell for cell in result.cells if cell.recipe != name and cell.scores]
    second = max(others, key=lambda cell: sign * cell.interval.mean)
    reached = _reached(unit, results, name)
    if len(results) > 1:
        return f"{name} is best ({reached})"
    low, high, difference = _compared(result, result.leads, name, second.recipe)
    low, high = (low, high) if sign > 0 else (-high, -low)
    ahead = f"{unit.gap(abs(difference))} {'more' if difference > 0 else 'less'} than {second.recipe}, the next"
    return f"{name} is best ({reached}; {ahead}{_interval(unit, low, high, 1)})"


def _tie(unit: _Unit, results: Sequence[SizeResult]) -> str:
    gaps = [max(abs(p.difference) for p in r.pairs if p.a in r.tied and p.b in r.tied) for r in results]
    if len(results) > 1:
        means = [c.interval.mean for r in results for c in r.cells if c.recipe in r.tied]
        return f"{unit.range(means)}; differences up to {unit.gap(max(gaps))}"
    result = results[0]
    values = unit.values(c.interval.mean for c in result.cells if c.recipe in result.tied)
    if len(result.tied) > 2:
        return f"{values}; differences up to {unit.gap(gaps[0])}"
    first, second = (cell.recipe for cell in result.cells if cell.recipe in result.tied)
    low, high, difference = _compared(result, result.pairs, first, second)
    return f"{values}; difference {unit.gap(difference)}{_interval(unit, low, high, 1)}"


def _reached(unit: _Unit, results: Sequence[SizeResult], name: str) -> str:
    means = [_cell(result, name).interval.mean for result in results]
    return unit.values(means) if len(means) == 1 else unit.range(means)


def _interval(unit: _Unit, low: float, high: float, sizes: int) -> str:
    return f", 95 % interval {unit.span(low, high)}" if sizes == 1 and math.isfinite(low) and math.isfinite(high) else ""


def _compared(result: SizeResult, pairs: Sequence[Pair], first: str, second: str) -> tuple[float, float, float]:
    """Bounds and difference of first - second, whichever way round the pair is stored."""
    for pair in pairs:
        if (pair.a, pair.b) == (first, second):
            return pair.low, pair.high, pair.difference
        if (pair.b, pair.a) == (first, second):
            return -pair.high, -pair.low, -pair.difference
    return math.nan, math.nan, _cell(result, first).interval.mean - _cell(result, second).interval.mean


def _cheapest(result: SizeResult) -> Cell:
    tied = [cell for cell in result.cells if cell.recipe in result.tied]
    return min(tied, key=lambda cell: (cell.artefact_bytes or math.inf, cell.trained_parameters, cell.seconds))


def _cheaper(result: SizeResult) -> str:
    """What the cheapest of the tied saves against the dearest of them; "" when it is nothing worth saying."""
    cheap = _cheapest(result)
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
    return f"{cheap.recipe} {_and(parts)} (against {dear.recipe})" if parts else ""


def _ratio(cost: Callable[[Cell], float], cheap: Cell, dear: Cell) -> float:
    return cost(dear) / cost(cheap) if cost(cheap) > 0 else 0.0


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.2g} %"


def _one_seed(results: Sequence[SizeResult]) -> str:
    pairs = [pair for result in results for pair in result.pairs]
    if pairs and all(pair.seeds <= 1 for pair in pairs):
        return "Only one seed is finished, so all this speaks of these single runs and not of the recipes: run at least three seeds."
    if pairs and any(pair.method in (FEW_SEEDS, NO_SPREAD) for pair in pairs):
        return "Some recipes could not be compared (too few finished seeds in common); they count as tied."
    return ""


def _baseline(info: StudyInfo, unit: _Unit, results: Sequence[SizeResult]) -> str:
    """Sizes at which not even the best mean is shown to beat the baseline that reads no text."""
    if not math.isfinite(info.majority):
        return ""
    lost = [result for result in results if not _beats(info, _cell(result, result.tied[0]))]
    baseline = "mean-value" if info.kind == "regression" else "majority"
    return f"With {_sizes(lost)} rows no recipe is shown to beat the {baseline} baseline ({unit.values([info.majority])})." if lost else ""


def _beats(info: StudyInfo, cell: Cell) -> bool:
    return cell.interval.low > info.majority if info.higher_is_better else cell.interval.high < info.majority


def _mishaps(results: Sequence[SizeResult]) -> str:
    fell = [_count(cell, cell.collapsed, len(cell.scores), r) for r in results for cell in r.cells if cell.collapsed]
    lost = [_count(cell, cell.failed, cell.failed + len(cell.scores), r) for r in results for cell in r.cells if cell.failed]
    parts = [f"{_and(fell)} collapsed (no better than the baseline)"] if fell else []
    parts += [f"{_and(lost)} failed"] if lost else []
    return "; ".join(parts) + "." if parts else ""


def _count(cell: Cell, count: int, whole: int, result: SizeResult) -> str:
    return f"{count} of {whole} runs of {cell.recipe} with {_sizes([result])} rows"


def _power(unit: _Unit, results: Sequence[SizeResult]) -> str:
    """How fine the comparison was, where something is tied: the largest such size."""
    for result in results:
        if len(result.tied) > 1 and result.smallest_difference > 0:
            gap = unit.gap(result.smallest_difference)
            where = f"With {_sizes([result])} rows these seeds and test rows"
            if unit.percent and result.smallest_difference >= 1:
                return f"{where} are too few to show a difference of any size; run more seeds."
            return f"{where} show a true difference of {gap} four times in five; smaller ones may hide."
    return ""


def _behind(result: SizeResult) -> list[str]:
    return [cell.recipe for cell in result.cells if cell.scores and cell.recipe not in result.tied]


def _cell(result: SizeResult, recipe: str) -> Cell:
    return next(cell for cell in result.cells if cell.recipe == recipe)


def _sizes(results: Sequence[SizeResult]) -> str:
    ordered = sorted(results, key=lambda result: result.rows)
    return _and([f"all {r.rows:,}" if r.size == "all" else f"{r.rows:,}" for r in ordered])


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
