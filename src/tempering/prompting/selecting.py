"""Which candidate template is best once the model is fine-tuned under it: on the development rows, never on the test rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tempering.errors import RecipeError
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.prompting.scoring import ranked
from tempering.recipe import Recipe
from tempering.tasks.task import Task
from tempering.train.progress import Listener, silent


@dataclass(frozen=True)
class Tuned:
    """A template and the development metrics of the model that was fine-tuned under it."""

    template: str
    metrics: dict[str, float]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def fine_tuned(
    templates: Sequence[str], cloze: Cloze, recipe: Recipe, task: Task, model: str, seed: int = 0, listener: Listener = silent
) -> list[Tuned]:
    """Fine-tune the model under each template, by the last stage of ``recipe``; best on dev first, ties by the dev loss.

    Every run has the same seeds and rows. The test split is taken off the task before.
    """
    if task.dev is None:
        raise RecipeError(f"{task.name} has no development rows, and templates are chosen on them; give --dev")
    rows, found = dataclasses.replace(task, test=None), []
    for i, template in enumerate(templates, start=1):
        listener({"event": "note", "text": f"template {i} of {len(templates)}: {template}"})
        mine = with_framing(recipe, dataclasses.replace(cloze, template=template))
        record = fit(mine, rows, model, seed=seed).record
        found.append(Tuned(template, record["metrics"]["dev"], record["seconds"]))
    return ranked(found, task)


def with_framing(recipe: Recipe, framing: Any, **changes: Any) -> Recipe:
    """``recipe`` with another framing in its last stage, and other ``changes`` of its own fields."""
    last = dataclasses.replace(recipe.stages[-1], framing=framing)
    return dataclasses.replace(recipe, stages=(*recipe.stages[:-1], last), **changes)
