"""From the records of a study to its answer: a cell for each recipe and size, all pairs compared, and plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tempering.study.crossing import Levels, square
from tempering.study.decompose import Decomposition, decompose
from tempering.study.records import Record, StudyInfo
from tempering.study.statistics import (
    Disagreement,
    Interval,
    Pair,
    compare_all,
    disagreement,
    find_best,
    groups,
    interval,
    smallest_difference,
)
from tempering.study.variance import Array
from tempering.study.wording import words

__all__ = ["Cell", "Conclusion", "SizeResult", "conclude", "words"]

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Cell:
    """One recipe at one size. ``scores`` are the main metric of its finished runs, in order of their seeds.

    ``collapsed`` and ``failed`` count runs; collapsed runs stay in the scores. Seconds, bytes and parameters are means over
    finished runs (0 without any). ``churn`` says how much two seeds' predictions differ (`study.disagreement`); runs of which an old study
    kept no predictions are left out of it.
    ``dev_mean`` is nan when no run finished. ``settings`` holds each chosen setting once.
    """

    recipe: str
    size: str
    rows: int
    interval: Interval
    scores: list[float]
    collapsed: int
    failed: int
    seconds: float
    search_seconds: float
    peak_memory: int
    trained_parameters: int
    total_parameters: int
    artefact_bytes: int
    churn: Disagreement
    dev_mean: float
    settings: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SizeResult:
    """One training size: its cells in the study's order, all pairs, those that may be the best (best mean first) and the groups.

    ``leads`` compares the best mean with every other recipe, corrected for that question alone (`study.best`). ``above_baseline`` are
    the recipes shown to beat the baseline that reads no text, with intervals corrected for asking it of every recipe.
    """

    size: str
    rows: int
    cells: list[Cell]
    pairs: list[Pair]
    tied: list[str]
    leads: list[Pair]
    groups: list[list[str]]
    smallest_difference: float
    above_baseline: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a study says: every size that has records, in the study's order, and the sentences that lead the report.

    ``parts`` holds the decomposed variance of every recipe and size, where the study crosses its seed streams.
    """

    info: StudyInfo
    sizes: list[SizeResult]
    sentences: list[str]
    parts: list[Decomposition] = field(default_factory=list)


def conclude(info: StudyInfo, records: Sequence[Record], crossed: Sequence[Record] = ()) -> Conclusion:
    """Compare the recipes at every size that has records. An unfinished study gives the conclusion of what there is.

    ``crossed`` are the runs made for the decomposition alone: their streams are not all new, so no mean or comparison rests on them.
    """
    present = {record.size for record in records}
    order = [size for size in info.sizes if size in present] + sorted(present - set(info.sizes))
    sizes = [_size(info, size, [record for record in records if record.size == size]) for size in order]
    conclusion = Conclusion(info, sizes, [], _parts(info, sizes, records, crossed) if info.crossed else [])
    return replace(conclusion, sentences=words(conclusion))


def _parts(info: StudyInfo, sizes: Sequence[SizeResult], records: Sequence[Record], crossed: Sequence[Record]) -> list[Decomposition]:
    """The runs of the square: on its diagonal the ordinary ones, whose seed is the level of every stream."""
    planned = square(info.crossed)
    found: dict[tuple[str, str], dict[Levels, float]] = {}
    for record in (*records, *crossed):
        sampling, init, order = record.levels or [record.seed] * 3
        found.setdefault((record.recipe, record.size), {})[sampling, init, order] = score_of(info, record)
    places = [(cell.recipe, result.size) for result in sizes for cell in result.cells]
    return [decompose(*place, len(planned), {x: s for x, s in found[place].items() if x in set(planned)}) for place in places]


def _size(info: StudyInfo, size: str, records: Sequence[Record]) -> SizeResult:
    rows = max(record.rows for record in records)
    present = {record.recipe for record in records}
    recipes = [name for name in info.recipes if name in present] + sorted(present - set(info.recipes))
    seeds = sorted({record.seed for record in records})
    by_recipe = {name: {r.seed: r for r in records if r.recipe == name} for name in recipes}
    scores = {name: [score_of(info, found.get(seed)) for seed in seeds] for name, found in by_recipe.items()}
    tables = {name: _table([found.get(seed) for seed in seeds], scores[name]) for name, found in by_recipe.items()}
    items = {name: table for name, table in tables.items() if table is not None}
    pairs = compare_all(scores, items)
    best = find_best(scores, items, info.higher_is_better)
    return SizeResult(
        size=size,
        rows=rows,
        cells=[_cell(info, size, rows, name, list(by_recipe[name].values()), scores[name], tables[name]) for name in recipes],
        pairs=pairs,
        tied=best.contenders,
        leads=best.leads,
        groups=groups(scores, pairs, info.higher_is_better),
        smallest_difference=smallest_difference(scores, items),
        above_baseline=_above(info, scores, tables),
    )


def _above(info: StudyInfo, scores: Mapping[str, Sequence[float]], tables: Mapping[str, Array | None]) -> list[str]:
    """Recipes shown to beat the baseline; the chance that any is named by mistake is at most 5 % (Bonferroni)."""
    done = [name for name, found in scores.items() if np.isfinite(found).any()]
    found = {name: interval(scores[name], tables[name], 1 - LEVEL / len(done)) for name in done}
    return [n for n, i in found.items() if (i.low > info.majority if info.higher_is_better else i.high < info.majority)]


def score_of(info: StudyInfo, record: Record | None) -> float:
    """The main metric on test (on dev in a study without test rows); nan for a run that is missing, failed or not finite."""
    if record is None or record.status != "done":
        return math.nan
    found = record.test.get(info.metric, math.nan) if info.test_rows else record.dev.get(info.metric, math.nan)
    return found if math.isfinite(found) else math.nan


def _table(records: Sequence[Record | None], scores: Sequence[float]) -> Array | None:
    """Item scores [seeds, items], rows of nan for runs without a score; None when a finished run has none or another number."""
    done = [record for record, score in zip(records, scores, strict=True) if record is not None and math.isfinite(score)]
    lengths = {len(record.items) for record in done}
    if len(lengths) != 1 or 0 in lengths:
        return None
    empty = [math.nan] * lengths.pop()
    rows = [r.items if r is not None and math.isfinite(score) else empty for r, score in zip(records, scores, strict=True)]
    return np.asarray(rows, dtype=float)


def _cell(
    info: StudyInfo, size: str, rows: int, recipe: str, records: Sequence[Record], scores: Sequence[float], table: Array | None
) -> Cell:
    done = sorted((r for r in records if math.isfinite(score_of(info, r))), key=lambda record: record.seed)
    return Cell(
        recipe=recipe,
        size=size,
        rows=rows,
        interval=interval(scores, table),
        scores=[score_of(info, record) for record in done],
        collapsed=sum(record.collapsed for record in done),
        failed=len(records) - len(done),
        seconds=_mean(record.seconds for record in done),
        search_seconds=_mean(record.search_seconds for record in done),
        peak_memory=round(_mean(record.peak_memory for record in done)),
        trained_parameters=round(_mean(record.trained_parameters for record in done)),
        total_parameters=round(_mean(record.total_parameters for record in done)),
        artefact_bytes=round(_mean(record.artefact_bytes for record in done)),
        churn=disagreement([record.predictions for record in done], info.gold if info.kind == "regression" else None),
        dev_mean=_mean((record.dev.get(info.metric, math.nan) for record in done), math.nan),
        settings=_distinct(record.setting for record in done),
    )


def _mean(values: Iterable[float], empty: float = 0.0) -> float:
    found = list(values)
    return sum(found) / len(found) if found else empty


def _distinct(settings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for setting in settings:
        if setting and setting not in found:
            found.append(setting)
    return found
