"""The report as JSON: every number unrounded, with the scores of single runs. Unknown numbers are null, never NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tempering.report.contents import contents, split_of
from tempering.report.tables import cell_values, pair_values

if TYPE_CHECKING:
    from tempering.study.decide import Conclusion, SizeResult
    from tempering.study.records import Record

# What a run keeps of every test row stays in the study's own file: it would make the report megabytes.
_LONG = ("items", "predictions")


def raw_json(conclusion: Conclusion, records: Sequence[Record]) -> str:
    """The report as a JSON object with the keys title, sentences, study, split, sizes, settings, failures, findings, method, runs."""
    words, info = contents(conclusion, records), conclusion.info
    whole = {
        "title": words.title,
        "sentences": list(words.sentences),
        "study": {k: v for k, v in info.as_dict().items() if k != "gold"},
        "split": split_of(info),
        "sizes": [_size(result, records, info.higher_is_better) for result in conclusion.sizes],
        "settings": [{"recipe": r.recipe, "size": r.size, "seed": r.seed, "setting": r.setting} for r in records if r.setting],
        "failures": [{"recipe": r.recipe, "size": r.size, "seed": r.seed, "reason": r.reason} for r in records if r.status != "done"],
        "findings": list(words.findings),
        "method": dict(words.method),
        "runs": [{k: v for k, v in r.as_dict().items() if k not in _LONG} for r in records],
    }
    return json.dumps(plain(whole), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _size(result: SizeResult, records: Sequence[Record], higher_is_better: bool) -> dict[str, Any]:
    cells = [cell_values(cell, result) | {"scores": list(cell.scores), "settings": list(cell.settings)} for cell in result.cells]
    return {
        "size": result.size,
        "rows": result.rows,
        "tied": list(result.tied),
        "groups": [list(group) for group in result.groups],
        "smallest_difference": result.smallest_difference,
        "cells": cells,
        "pairs": [pair_values(pair, higher_is_better) for pair in result.pairs],
        "seeds": {r.recipe: [s.seed for s in records if s.recipe == r.recipe and s.size == result.size and s.status == "done"] for r in result.cells},
    }


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
