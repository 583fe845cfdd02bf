"""How steady a recipe is: the table of its spread over seeds, and the table of where that spread comes from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tempering.report import formats
from tempering.report.formats import UNKNOWN, Scale
from tempering.report.tables import Column, Table, Values, ordered, rows_label, table_of

if TYPE_CHECKING:
    from tempering.study.decide import Conclusion, SizeResult
    from tempering.study.decompose import Component, Decomposition


def _within(shown: str, low: str, high: str) -> str:
    return f"{shown} ({low} to {high})" if UNKNOWN not in (shown, low, high) else shown


def _sd(scale: Scale, row: Values) -> str:
    return _within(*(scale.bare(row[name]) for name in ("sd", "sd_low", "sd_high")))


def _range(scale: Scale, row: Values) -> str:
    return scale.interval(row["least"], row["greatest"])


def _churn(scale: Scale, row: Values) -> str:
    if row["churn_in_sd"]:
        return _within(*(formats.number(row[name], 2) for name in ("churn", "churn_low", "churn_high"))) + _unit(row)
    low, high = (formats.percent(row[name]).removesuffix(" %") for name in ("churn_low", "churn_high"))
    return _within(formats.percent(row["churn"]), low, high)


def _unit(row: Values) -> str:
    return " sd" if math.isfinite(row["churn"]) else ""


SPREAD_COLUMNS = (
    Column("recipe", lambda scale, row: str(row["recipe"]), numeric=False),
    Column("sd over seeds (95 %)", _sd),
    Column("worst to best", _range),
    Column("collapsed", lambda scale, row: f"{row['collapsed']} of {row['seeds']}"),
    Column("churn (95 %)", _churn),
)


def spread_table(result: SizeResult, scale: Scale) -> Table | None:
    """How much the runs of each recipe differ at one size, in the order of the scores; None where every recipe has one run."""
    rows = ordered(result, scale)
    if all(row["seeds"] < 2 for row in rows):
        return None
    return table_of(f"Spread over seeds, {rows_label(result.size, result.rows)}", SPREAD_COLUMNS, rows, scale)


def spread_text(conclusion: Conclusion, split: str) -> str:
    """How the spread was measured, in words; empty where no recipe has two runs."""
    cells = [cell for result in conclusion.sizes for cell in result.cells]
    if all(cell.interval.n < 2 for cell in cells):
        return ""
    what = (
        f"the mean difference between the predictions of two seeds for a {split} row, in standard deviations of the true values"
        if any(cell.churn.in_sd for cell in cells)
        else f"the share of {split} rows on which two seeds predict differently"
    )
    return (
        "The interval of a standard deviation is the chi-square one, for scores that scatter normally; with few seeds it is wide, and where"
        " all scores are equal there is none: that says little of other seeds. "
        f"Churn: {what}, mean over all pairs of seeds; its interval joins the jackknife over seeds with the spread over rows."
    )


def part_values(part: Decomposition) -> dict[str, Any]:
    """A decomposition as plain numbers."""
    return {
        "recipe": part.recipe,
        "size": part.size,
        "levels": part.levels,
        "runs": part.runs,
        "planned": part.planned,
        "sd": part.sd,
        "reason": part.reason,
        "components": [_component(c) for c in part.components],
    }


def _component(part: Component) -> dict[str, Any]:
    names = ("source", "variance", "sd", "low", "high", "share", "share_low", "share_high", "df", "p")
    return {name: getattr(part, name) for name in names}


def parts_table(conclusion: Conclusion, scale: Scale) -> Table | None:
    """The standard deviation that each seed stream brings about, for every recipe and size; None where no stream was crossed."""
    from tempering.study.decompose import REST, SOURCES

    if not conclusion.parts:
        return None
    heads = ("recipe", "size", "runs", "sd of a run", *(f"{name} (95 %)" for name in (*SOURCES, REST)), "shares of the variance")
    rows = tuple(_part_row(part, scale) for part in conclusion.parts)
    return Table("Where the spread comes from", heads, rows, (False, *(True,) * (len(heads) - 2), False), (), _notes(conclusion))


def _part_row(part: Decomposition, scale: Scale) -> tuple[str, ...]:
    runs = f"{part.runs} of {part.planned}"
    if not part.components:
        return (part.recipe, part.size, runs, *(UNKNOWN,) * 5, part.reason)
    sds = [_within(*(scale.bare(x) for x in (c.sd, c.low, c.high))) + ("*" if c.p < 0.05 else "") for c in part.components]
    known = all(math.isfinite(c.share) for c in part.components)
    shares = " / ".join(f"{100 * c.share:.0f}" for c in part.components) + " %" if known else "no spread"
    return (part.recipe, part.size, runs, scale.bare(part.sd), *sds, shares)


def _notes(conclusion: Conclusion) -> tuple[str, ...]:
    levels, rest = conclusion.parts[0].levels, "interactions: what the three do together"
    notes = [
        f"{levels} seeds of each stream, crossed in a Latin square of {levels**2} runs; {rest}. A star: shown to be there (F test, 5 %).",
        "Standard deviations on this test set; their squares add up. Intervals after Ting et al. 1990, of the interactions by chi-square.",
    ]
    if any(part.size == "all" for part in conclusion.parts):
        notes.append("With all rows every data sample holds the same rows: there it only changes their order.")
    return tuple(notes)
