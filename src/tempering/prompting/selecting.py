"""Which candidate prompt is best once the model is fine-tuned under it: on the development rows, never on the test rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tempering.errors import RecipeError
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.framings.gaps.label_words import is_mapping
from tempering.prompting.scoring import ranked
from tempering.recipe import Recipe
from tempering.tasks.metrics import default_metric
from tempering.tasks.task import Task
from tempering.train.progress import Listener, silent


@dataclass(frozen=True)
class Tuned:
    """A cloze and the development metrics of the model that was fine-tuned under it."""

    cloze: Cloze
    metrics: dict[str, float]
    seconds: float

    @property
    def template(self) -> str:
        """Its template; empty where it has none of its own."""
        return str(self.cloze.first or "")

    @property
    def words(self) -> dict[str, list[str]]:
        """Its label words by class; none where they are not given by name."""
        return {str(label): list(said) for label, said in self.cloze.words} if is_mapping(self.cloze.words) else {}

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"template": self.template, "words": self.words, "metrics": self.metrics, "seconds": self.seconds}


def fine_tuned(
    clozes: Sequence[Cloze],
    recipe: Recipe,
    task: Task,
    model: str,
    seed: int = 0,
    listener: Listener = silent,
    what: Literal["template", "words"] = "template",
) -> list[Tuned]:
    """Fine-tune the model under each of ``clozes``, by the last stage of ``recipe``; best on dev first, ties by the dev loss.

    What is best is said by its metric_for_best_model, if that is a metric, else by the task's main one. Every run has the same seeds and
    rows. The test split is taken off the task before. ``what`` they differ in is told of each.
    """
    check_dev(task)
    rows, found = dataclasses.replace(task, test=None), list[Tuned]()
    metrics = (deciding(recipe, task),)
    for i, cloze in enumerate(clozes, start=1):
        one = Tuned(cloze, {}, 0.0)
        listener({"event": "note", "text": f"{what} {i} of {len(clozes)}: {one.template if what == 'template' else told(one.words)}"})
        record = fit(with_cloze(recipe, cloze), rows, model, seed=seed, metrics=metrics).record
        found.append(dataclasses.replace(one, metrics=record["metrics"]["dev"], seconds=record["seconds"]))
    return ranked(found, task, *metrics)


def check_dev(task: Task) -> None:
    """Refuse a task without development rows: prompts are chosen on them."""
    if task.dev is None:
        raise RecipeError(f"{task.name} has no development rows, and prompts are chosen on them; give --dev")


def deciding(recipe: Recipe, task: Task) -> str:
    """The metric of development rows that says which is best."""
    own = getattr(recipe.stages[-1], "metric_for_best_model", None)
    return str(own) if own and own != "loss" else default_metric(task.kind, task.labels)


def told(words: Mapping[str, Sequence[str]]) -> str:
    """Label words in a line."""
    return ", ".join(f"{label}={'|'.join(said)}" for label, said in words.items())


def begun(recipe: Recipe, given: Cloze) -> Cloze:
    """The cloze of ``recipe`` (`cloze_of`) with what ``given`` sets otherwise than by default."""
    bare = Cloze()
    own = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    return dataclasses.replace(cloze_of(recipe), **{name: value for name, value in own.items() if value != getattr(bare, name)})


def cloze_of(recipe: Recipe) -> Cloze:
    """The cloze in the last stage of ``recipe``, by itself or inside another framing; a recipe without one is refused."""
    framing = getattr(recipe.stages[-1], "framing", None)
    while framing is not None and not isinstance(framing, Cloze):
        framing = getattr(framing, "framing", None)
    if framing is None:
        raise RecipeError(
            f"recipe {recipe.name!r}: its last stage holds no cloze, which the prompt that is found would go into; take one that does, such"
            " as cloze, cloze-demonstrations, lm-bff or cloze-zero-shot"
        )
    return framing


def with_cloze(recipe: Recipe, cloze: Cloze, **changes: Any) -> Recipe:
    """``recipe`` with ``cloze`` in the place of its own, and other ``changes`` of its own fields.

    What its search space cannot set any more, or what would set another template or other words, is taken out of that.
    """
    last = dataclasses.replace(recipe.stages[-1], framing=_inside(recipe.stages[-1].framing, cloze))
    made = dataclasses.replace(recipe, stages=(*recipe.stages[:-1], last), **changes)
    kept = [(key, values) for key, values in made.search if all(_leaves(made, cloze, key, value) for value in values)]
    return dataclasses.replace(made, search=tuple(kept))


def _inside(framing: Any, cloze: Cloze) -> Any:
    """``framing`` with ``cloze`` where it holds one."""
    return cloze if isinstance(framing, Cloze) else dataclasses.replace(framing, framing=_inside(framing.framing, cloze))


def _leaves(recipe: Recipe, cloze: Cloze, key: str, value: Any) -> bool:
    """Whether ``recipe`` takes this setting, and has the template and words of ``cloze`` with it."""
    try:
        found = cloze_of(recipe.override({key: value}))
    except RecipeError:
        return False
    return (found.template, found.words) == (cloze.template, cloze.words)
