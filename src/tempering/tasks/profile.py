"""Counts of a task for a summary table: rows, classes and lengths of each split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np

from tempering.tags import scheme_of
from tempering.tasks.entityscores import found_in
from tempering.tasks.labels import label_key
from tempering.tasks.strata import class_names
from tempering.tasks.task import Split, Task


def summary(task: Task) -> dict[str, Any]:
    """JSON-ready counts: ``splits[name]`` holds rows, rows a class (or the values' range), and words a row (mean, p95)."""
    splits = {split.name: _describe(task, split) for split in task.splits}
    labels = [str(label) for label in task.labels]
    return {"name": task.name, "kind": task.kind, "columns": task.columns, "classes": len(labels), "labels": labels, "splits": splits}


def class_counts(task: Task, split: Split) -> dict[Hashable, int]:
    """Rows of each label of the task in ``split``, by `label_key`; a multi-label row counts for each of its labels.

    Of tagging, how often each entity type (or tag) occurs, rows aside.
    """
    if task.kind == "tagging":
        plain = scheme_of(task.labels) == "plain"
        given = [found.type for tags in split.labels for found in found_in(tags, plain)]
    else:
        given = split.labels if task.kind == "classification" else [label for group in split.labels for label in dict.fromkeys(group)]
    counts = Counter(label_key(label) for label in given)
    return {label_key(label): counts[label_key(label)] for label in class_names(task.kind, task.labels)}


def _describe(task: Task, split: Split) -> dict[str, Any]:
    words = np.asarray([len(example.words) or sum(len(text.split()) for text in example.texts) for example in split] or [0])
    found: dict[str, Any] = {"rows": len(split), "source": split.source}
    found["words"] = {"mean": float(words.mean()), "p95": float(np.percentile(words, 95)), "max": int(words.max())}
    if task.labels:
        counts = class_counts(task, split)
        found["classes"] = {str(label): counts[label_key(label)] for label in class_names(task.kind, task.labels)}
    elif task.kind == "question_answering":
        found["answerable"] = sum(bool(answers) for answers in split.labels)
    elif task.kind == "regression":
        values = np.asarray(split.labels, dtype=float)
        found["values"] = {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max()), "std": float(values.std())}
    return found
