"""The recipe `auto`: chosen by the task's kind and size, with the reason in one line."""

from __future__ import annotations

from tempering.recipe import Recipe
from tempering.tasks.task import Task

SMALL = 200  # rows; below it a frozen trunk with a new head loses least to chance on what was measured (see README)
LARGE = 50_000


def choose(task: Task) -> tuple[Recipe, str]:
    """(recipe, the line that says what was chosen and why)."""
    rows = len(task.train)
    if task.kind == "question_answering":
        name, why = "question-answering", f"{rows:,} training rows of question answering: full fine-tuning of a head for starts and ends"
    elif task.kind == "tagging":
        name = "tagging-lora" if rows > LARGE else "tagging"
        how = "LoRA, since full fine-tuning costs more memory" if rows > LARGE else "full fine-tuning"
        why = f"{rows:,} training rows of tagging: {how}, with a head over words, which a frozen model would not serve"
    elif rows < SMALL:
        name, why = "head", f"{rows} training rows are few: only a new head on the frozen model, which varies least from seed to seed"
    elif rows > LARGE:
        name, why = "lora", f"{rows:,} training rows: LoRA, since full fine-tuning gains little there and costs more memory"
    else:
        name, why = "full", f"{rows:,} training rows of {task.kind}: full fine-tuning; compare it with others by  temper compare"
    return Recipe.load(name), f"recipe auto: {name} ({why})"
