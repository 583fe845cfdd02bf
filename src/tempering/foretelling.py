"""What can be told of a stage before it runs: notes on its methods, and what it makes and reads beyond its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tempering.contracts import Example, Seeds
from tempering.stages.live_dropout import dropout_notes
from tempering.stages.setup import rows_of

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.learner import Learner
    from tempering.tasks.task import Task


def foretold(stage: Any, learner: Learner, backbone: Backbone, task: Task | None) -> list[str]:
    """Notes that a run would print, as far as they are known without weights: of the methods, the framing, and models trained before."""
    before = stage.foretold(backbone, task) if hasattr(stage, "foretold") else ()
    return list(dict.fromkeys((*dropout_notes(stage, learner), *learner.framing.notes, *before)))


def rows_read(stage: Any, task: Task) -> Sequence[Example]:
    """The rows that ``stage`` trains on: those of a stage with a ``pool`` of unlabelled texts are all of them."""
    rows: Sequence[Example] = stage.pool(task) if hasattr(stage, "pool") else rows_of(stage, task, Seeds.of(0))[0]
    return rows


def costs_of(stage: Any, learner: Learner, rows: Sequence[Example] | None) -> str:
    """What the stage, or its framing, makes and reads beyond one prompt a row, in words; empty where there is nothing to tell."""
    telling = stage if hasattr(stage, "costs") else learner.framing
    return str(telling.costs(rows or ())) if hasattr(telling, "costs") else ""
