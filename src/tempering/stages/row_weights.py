"""What single rows count for in the loss of a stage: all the same, or by how rare their class is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tempering.contracts import Example, predicts
from tempering.errors import RecipeError
from tempering.registry import name_of
from tempering.tasks.task import Task
from tempering.train.feed import balanced_weights


def row_weights(stage: Any, task: Task, examples: Sequence[Example]) -> np.ndarray | None:
    """What each row counts for; None where all count the same."""
    check_weights(stage, task)
    return None if stage.class_weights == "none" else balanced_weights([task.label_index(e.label) for e in examples])


def weighable(stage: Any, task: Task) -> bool:
    """Whether a row has one class, and is read by itself."""
    return stage.framing.supervised and task.kind == "classification" and predicts(stage.framing)


def check_weights(stage: Any, task: Task) -> None:
    """Refuse to weigh rows by their class where a row has none, or is not read by itself."""
    if stage.class_weights == "none" or weighable(stage, task):
        return
    if not stage.framing.supervised or task.kind != "classification":
        what = f"a row of {task.kind.replace('_', ' ')} has none"
        what = what if stage.framing.supervised else f"framing {name_of(stage.framing)[1]} reads none"
        raise RecipeError(f"class_weights {stage.class_weights!r} weighs a row by its one class, and {what}; leave it out")
    raise RecipeError(
        f"class_weights {stage.class_weights!r} weighs single rows, and framing {name_of(stage.framing)[1]} compares rows with each other;"
        " leave it out here"
    )
