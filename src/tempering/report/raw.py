"""The report as JSON: every number unrounded, with the scores of single runs. Unknown numbers are null, never NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tempering.report.contents import contents, failed, split_of
from tempering.report.spread import part_values
from tempering.report.tables import cell_values, pair_values

if TYPE_CHECKING:
    from tempering.study.decide import Cell, Conclusion, SizeResult
    from tempering.study.records import Record, StudyInfo

# What a run keeps of every test row stays in the study's own file: it would make the report megabytes.
_LONG = ("items", "predictions")


def raw_json(conclusion: Conclusion, records: Sequence[Record]) -> str:
    """The report as a JSON object of title, sentences, study, split, sizes, parts, settings, failures, findings, method, runs."""
    words, info = contents(conclusion, records), conclusion.info
    whole = {
        "title": words.title,
        "sentences": list(words.sentences),
        "study": {k: v for k, v in info.as_dict().items() if k != "gold"},
        "split": split_of(info),
        "sizes": [_size(result, info, records) for result in conclusion.sizes],
        "parts": [part_values(part) for part in conclusion.parts],
        "settings": [{"recipe": r.recipe, "size": r.size, "seed": r.seed, "setting": r.setting} for r in records if r.setting],
        "failures": [{"recipe": r.recipe, "size": r.size, "seed": r.seed, "reason": reason} for r, reason in failed(info, records)],
        "findings": list(words.findings),
        "method": dict(words.method),
        "runs": [{k: v for k, v in r.as_dict().items() if k not in _LONG} for r in records],
    }
    return json.dumps(plain(whole), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _size(result: SizeResult, info: StudyInfo, records: Sequence[Record]) -> dict[str, Any]:
    cells = [cell_values(c, result) | {"scores": c.scores, "settings": c.settings, "runs": _runs(c, info, records)} for c in result.cells]
    return {
        "size": result.size,
        "rows": result.rows,
        "tied": list(result.tied),
        "leads": [pair_values(pair, info.higher_is_better) for pair in result.leads],
        "groups": [list(group) for group in result.groups],
        "smallest_difference": result.smallest_difference,
        "cells": cells,
        "pairs": [pair_values(pair, info.higher_is_better) for pair in result.pairs],
    }


def _runs(cell: Cell, info: StudyInfo, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Seed, score (null: failed) and whether it collapsed, for every run of a cell."""
    from tempering.study.decide import score_of

    mine = sorted((r for r in records if (r.recipe, r.size) == (cell.recipe, cell.size)), key=lambda record: record.seed)
    return [{"seed": r.seed, "score": score_of(info, r), "collapsed": r.collapsed} for r in mine]


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numbers that are not finite become None, numpy numbers Python's, odd things their text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
