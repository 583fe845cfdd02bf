"""The user's data: readers, the task, the data doctor, sampling and metrics. Names load when first used; nothing here needs torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempering.tasks.doctor import Finding, examine
    from tempering.tasks.metrics import check_metrics, choose_thresholds, compute, default_metric, higher_is_better, per_item
    from tempering.tasks.profile import summary
    from tempering.tasks.readers import read_labeled, read_rows, read_table, read_texts
    from tempering.tasks.sampling import few_shot, nested_subsets
    from tempering.tasks.task import Split, Task

_HOME = {
    "doctor": ("Finding", "examine"),
    "metrics": ("check_metrics", "choose_thresholds", "compute", "default_metric", "higher_is_better", "per_item"),
    "profile": ("summary",),
    "readers": ("read_labeled", "read_rows", "read_table", "read_texts"),
    "sampling": ("few_shot", "nested_subsets"),
    "task": ("Split", "Task"),
}

__all__ = [
    "Finding",
    "Split",
    "Task",
    "check_metrics",
    "choose_thresholds",
    "compute",
    "default_metric",
    "examine",
    "few_shot",
    "higher_is_better",
    "nested_subsets",
    "per_item",
    "read_labeled",
    "read_rows",
    "read_table",
    "read_texts",
    "summary",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
