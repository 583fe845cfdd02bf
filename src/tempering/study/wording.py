"""The answer of a study in plain sentences: which recipe for which size, what is tied, what is cheaper, what went wrong.

Nothing is called best that was not shown to be better than every other recipe: the words for a tie are "cannot be told apart", and
what was shown not to be the best is "behind the best" (`study.best`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tempering.study.cheaper import cheaper, cheapest
from tempering.study.figures import Unit, listed
from tempering.study.pairs import FEW_SEEDS, NO_SPREAD, Pair

if TYPE_CHECKING:
    from tempering.study.decide import Cell, Conclusion, SizeResult
    from tempering.study.records import StudyInfo

NAMED = 6  # more recipes than these are counted, and not named, where they tie


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


def _unit(info: StudyInfo, sizes: Sequence[SizeResult]) -> Unit:
    seen = [score for result in sizes for cell in result.cells for score in cell.scores]
    share = info.higher_is_better and bool(seen) and max(seen) >= 0 and all(-1 <= score <= 1 for score in seen)
    return Unit(info.metric.replace("_", " "), share)


def _same(result: SizeResult) -> tuple[object, ...]:
    """Sizes whose keys are equal have the same answer."""
    tied, rest = frozenset(result.tied), frozenset(_behind(result))
    cheap = cheapest(result) if len(tied) > 1 else None
    return tied, rest, cheap.recipe if cheap else ""


def _verdict(info: StudyInfo, unit: Unit, results: Sequence[SizeResult]) -> str:
    result = results[0]
    where = f"With {_sizes(results)} rows "
    if len(result.tied) == 1:
        return where + (_best(info, unit, results) if _behind(result) else _alone(unit, results)) + "."
    if len(result.tied) > NAMED:
        tie = _many(unit, results)
    else:
        tie = f"{listed([cell.recipe for cell in result.cells if cell.recipe in result.tied])} cannot be told apart ({_tie(unit, results)})"
    behind = f"; {_rest(result)} behind the best" if _behind(result) else ""
    cost = cheaper(result)
    return f"{where}{tie}{behind}{'; ' + cost if cost else ''}."


def _rest(result: SizeResult) -> str:
    rest = _behind(result)
    return f"the other {len(rest)} are" if len(rest) > NAMED else f"{listed(rest)} {'are' if len(rest) > 1 else 'is'}"


def _many(unit: Unit, results: Sequence[SizeResult]) -> str:
    """More than anybody reads in a sentence: their number, the range of their means, and whose is the best."""
    tied = [[c.interval.mean for c in r.cells if c.recipe in r.tied] for r in results]
    leaders = list(dict.fromkeys(r.tied[0] for r in results))
    count = f"{len(results[0].tied)} of {len(results[0].cells)} recipes"
    return f"{count} may be the best ({unit.range([m for means in tied for m in means])}; best mean: {listed(leaders)})"


def _alone(unit: Unit, results: Sequence[SizeResult]) -> str:
    found = _cell(results[0], results[0].tied[0])
    span = _interval(unit, found.interval.low, found.interval.high, len(results))
    return f"{found.recipe} reaches {_reached(unit, results, found.recipe)}{span}"


def _best(info: StudyInfo, unit: Unit, results: Sequence[SizeResult]) -> str:
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


def _tie(unit: Unit, results: Sequence[SizeResult]) -> str:
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


def _reached(unit: Unit, results: Sequence[SizeResult], name: str) -> str:
    means = [_cell(result, name).interval.mean for result in results]
    return unit.values(means) if len(means) == 1 else unit.range(means)


def _interval(unit: Unit, low: float, high: float, sizes: int) -> str:
    return f", 95 % interval {unit.span(low, high)}" if sizes == 1 and math.isfinite(low) and math.isfinite(high) else ""


def _compared(result: SizeResult, pairs: Sequence[Pair], first: str, second: str) -> tuple[float, float, float]:
    """Bounds and difference of first - second, whichever way round the pair is stored."""
    for pair in pairs:
        if (pair.a, pair.b) == (first, second):
            return pair.low, pair.high, pair.difference
        if (pair.b, pair.a) == (first, second):
            return -pair.high, -pair.low, -pair.difference
    return math.nan, math.nan, _cell(result, first).interval.mean - _cell(result, second).interval.mean


def _one_seed(results: Sequence[SizeResult]) -> str:
    pairs = [pair for result in results for pair in result.pairs]
    if pairs and all(pair.seeds <= 1 for pair in pairs):
        return "Only one seed is finished, so all this speaks of these single runs and not of the recipes: run at least three seeds."
    if pairs and any(pair.method in (FEW_SEEDS, NO_SPREAD) for pair in pairs):
        return "Some recipes could not be compared (too few finished seeds in common); they count as tied."
    return ""


def _baseline(info: StudyInfo, unit: Unit, results: Sequence[SizeResult]) -> str:
    """Sizes at which no recipe, the best mean or another, is shown to beat the baseline that reads no text."""
    if not math.isfinite(info.majority):
        return ""
    lost = [result for result in results if not result.above_baseline]
    baseline = "mean-value" if info.kind == "regression" else "majority"
    return f"With {_sizes(lost)} rows no recipe is shown to beat the {baseline} baseline ({unit.values([info.majority])})." if lost else ""


def _mishaps(results: Sequence[SizeResult]) -> str:
    fell = [_count(cell, cell.collapsed, len(cell.scores), r) for r in results for cell in r.cells if cell.collapsed]
    lost = [_count(cell, cell.failed, cell.failed + len(cell.scores), r) for r in results for cell in r.cells if cell.failed]
    parts = [f"{listed(fell)} collapsed (no better than the baseline)"] if fell else []
    parts += [f"{listed(lost)} failed"] if lost else []
    return "; ".join(parts) + "." if parts else ""


def _count(cell: Cell, count: int, whole: int, result: SizeResult) -> str:
    return f"{count} of {whole} runs of {cell.recipe} with {_sizes([result])} rows"


def _power(unit: Unit, results: Sequence[SizeResult]) -> str:
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
    return listed([f"all {r.rows:,}" if r.size == "all" else f"{r.rows:,}" for r in ordered])
