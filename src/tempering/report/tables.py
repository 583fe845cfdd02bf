"""The tables of the report. `cell_values` and `pair_values` make the numbers; every form of the report shows these and no others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempering.report import formats
from tempering.report.formats import UNKNOWN, Scale

if TYPE_CHECKING:
    from tempering.study.decide import Cell, SizeResult
    from tempering.study.statistics import Pair

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text: ``rows`` [rows, columns]. The first column names the row; ``leading`` marks rows that may be the best."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    leading: tuple[bool, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how its text is made from the values of a row."""

    heading: str
    show: Callable[[Scale, Values], str]
    numeric: bool = True


def cell_values(cell: Cell, result: SizeResult) -> Values:
    """Everything the report says about one recipe at one size, as plain numbers. ``group`` is its letters, "" without any."""
    spread = cell.interval
    return {
        "recipe": cell.recipe,
        "mean": spread.mean,
        "low": spread.low,
        "high": spread.high,
        "sd": spread.sd,
        "sd_low": spread.sd_low,
        "sd_high": spread.sd_high,
        "group": letters(cell.recipe, result.groups),
        "tied_for_best": cell.recipe in result.tied,
        "dev_mean": cell.dev_mean,
        "seeds": spread.n,
        "collapsed": cell.collapsed,
        "failed": cell.failed,
        "least": min(cell.scores, default=math.nan),
        "greatest": max(cell.scores, default=math.nan),
        "churn": cell.churn.value,
        "churn_low": cell.churn.low,
        "churn_high": cell.churn.high,
        "churn_in_sd": cell.churn.in_sd,
        "trained_parameters": cell.trained_parameters,
        "total_parameters": cell.total_parameters,
        "seconds": cell.seconds,
        "search_seconds": cell.search_seconds,
        "peak_memory": cell.peak_memory,
        "artefact_bytes": cell.artefact_bytes,
    }


def pair_values(pair: Pair, higher_is_better: bool) -> Values:
    """A comparison of two recipes as plain numbers. ``better`` names the better one, or is None when they cannot be told apart."""
    first = (pair.difference > 0) == higher_is_better
    return {
        "a": pair.a,
        "b": pair.b,
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p": pair.p,
        "p_adjusted": pair.p_adjusted,
        "seeds": pair.seeds,
        "better": (pair.a if first else pair.b) if pair.different else None,
    }


def letters(recipe: str, groups: Sequence[Sequence[str]]) -> str:
    """The letters of the groups a recipe belongs to: recipes that share a letter cannot be told apart."""
    return "".join(letter(i) for i, group in enumerate(groups) if recipe in group)


def letter(index: int) -> str:
    """The letter of a group: a, b, c ..."""
    return chr(ord("a") + index) if index < 26 else f"({index + 1})"


def _when_run(show: Callable[[Values], str]) -> Callable[[Scale, Values], str]:
    """Costs of a recipe of which no run finished are unknown, not zero."""
    return lambda scale, row: show(row) if row["seeds"] else UNKNOWN


SCORE_COLUMNS = (
    Column("recipe", lambda scale, row: str(row["recipe"]), numeric=False),
    Column("mean", lambda scale, row: scale.value(row["mean"])),
    Column("95 % interval", lambda scale, row: scale.interval(row["low"], row["high"])),
    Column("group", lambda scale, row: row["group"] or "-", numeric=False),
    Column("sd over seeds", lambda scale, row: scale.bare(row["sd"])),
    Column("seeds", lambda scale, row: str(row["seeds"])),
    Column("collapsed", lambda scale, row: str(row["collapsed"])),
    Column("failed", lambda scale, row: str(row["failed"])),
    Column("dev mean", lambda scale, row: scale.value(row["dev_mean"])),
)
COST_COLUMNS = (
    Column("recipe", lambda scale, row: str(row["recipe"]), numeric=False),
    Column("trained", _when_run(lambda row: formats.count_of(row["trained_parameters"]))),
    Column("share", _when_run(lambda row: formats.share(row["trained_parameters"], row["total_parameters"]))),
    Column("time a run", _when_run(lambda row: formats.seconds(row["seconds"]))),
    Column("search time", _when_run(lambda row: formats.seconds(row["search_seconds"]))),
    Column("peak memory", _when_run(lambda row: formats.size_of(row["peak_memory"]))),
    Column("on disk", _when_run(lambda row: formats.size_of(row["artefact_bytes"]))),
)


def _span(scale: Scale, row: Values) -> str:
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return UNKNOWN
    return f"{scale.bare(row['low'])} to {scale.bare(row['high'])}"


PAIRED = 8  # recipes of which every pair is shown: 28 rows
PAIR_COLUMNS = (
    Column("a vs b", lambda scale, row: f"{row['a']} vs {row['b']}", numeric=False),
    Column("a minus b", lambda scale, row: scale.difference(row["difference"])),
    Column("95 % simultaneous", _span),
    Column("adjusted p", lambda scale, row: formats.probability(row["p_adjusted"])),
    Column("seeds", lambda scale, row: str(row["seeds"])),
    Column("verdict", lambda scale, row: f"{row['better']} is better" if row["better"] else "cannot be told apart", numeric=False),
)


def score_table(result: SizeResult, scale: Scale, split: str) -> Table:
    """How well each recipe did at one size, best first."""
    notes = ("Marked: the best is among these, 95 % sure. Recipes that share a letter are not told apart when all pairs are compared.",)
    caption = f"Scores: {scale.metric} on the {split} split, {rows_label(result.size, result.rows)}"
    return table_of(caption, SCORE_COLUMNS, ordered(result, scale), scale, notes)


def cost_table(result: SizeResult, scale: Scale, cache_seconds: float = 0.0) -> Table:
    """What each recipe cost at one size, in the order of `score_table`; ``cache_seconds`` of the whole study are said below it."""
    spent = f"The outputs of frozen models were computed once for all runs of the study, in {formats.seconds(cache_seconds)}"
    notes = (f"{spent}; no run's time holds a part of that.",) if cache_seconds else ()
    caption = f"Costs, mean of the finished runs, {rows_label(result.size, result.rows)}"
    return table_of(caption, COST_COLUMNS, ordered(result, scale), scale, notes)


def pair_table(result: SizeResult, scale: Scale) -> Table:
    """Every compared pair at one size, or, of many recipes, the best mean against every other; differences are a minus b."""
    rows = rows_label(result.size, result.rows)
    if len(result.cells) <= PAIRED:
        values = [pair_values(pair, scale.higher_is_better) for pair in result.pairs]
        return table_of(f"Pairwise comparisons, {rows}", PAIR_COLUMNS, values, scale)
    values = [pair_values(pair, scale.higher_is_better) for pair in result.leads]
    notes = (f"Corrected for the search for the best. All {len(result.pairs):,} pairs, corrected together, are in  --format json.",)
    return table_of(f"The best mean against the others, {rows}", PAIR_COLUMNS, values, scale, notes)


def table_of(caption: str, columns: Sequence[Column], values: Sequence[Values], scale: Scale, notes: tuple[str, ...] = ()) -> Table:
    """A table of ``values``, a row each; those that may be the best are marked."""
    rows = tuple(tuple(column.show(scale, row) for column in columns) for row in values)
    leading = tuple(bool(row.get("tied_for_best")) for row in values)
    return Table(caption, tuple(c.heading for c in columns), rows, tuple(c.numeric for c in columns), leading, notes)


def ordered(result: SizeResult, scale: Scale) -> list[Values]:
    """Best mean first; recipes of which no run finished last."""
    sign = -1.0 if scale.higher_is_better else 1.0
    values = [cell_values(cell, result) for cell in result.cells]
    return sorted(values, key=lambda row: sign * row["mean"] if math.isfinite(row["mean"]) else math.inf)


def rows_label(size: str, rows: int) -> str:
    """A size in words: "128 training rows", "all 6,920 training rows"."""
    if rows <= 0:
        return f"size {size}"
    every = "all " if size == "all" else ""
    asked = f" ({size} asked for)" if size.isdigit() and int(size) != rows else ""
    return f"{every}{rows:,} training rows{asked}"
