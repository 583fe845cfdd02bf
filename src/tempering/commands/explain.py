"""``temper explain``: what a recipe will do, before it does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tempering.commands.console import say, show_json, tell
from tempering.commands.inputs import Source, read_recipe
from tempering.errors import ModelError, RecipeError


def run(recipe: str, words: list[str], source: Source, model: str, as_json: bool, quantize: str | None = None) -> None:
    """Print the plan. ``words`` hold an optional data file first, then overrides. A refusal is printed as JSON too, where asked for."""
    if words and ("=" not in words[0] or Path(words[0]).exists()):
        source, words = replace(source, data=words[0]), words[1:]
    stray = [word for word in words if "=" not in word]
    if stray:
        raise RecipeError(f"explain: found {stray[0]!r} after the data; expected settings as key=value")
    from tempering.plan import explain

    task = source.task() if source.data else None
    try:
        chosen, why = read_recipe(recipe, words, task)
        plan = explain(chosen, model, task, quantize)
    except (RecipeError, ModelError) as refusal:
        if as_json:
            show_json({"recipe": recipe, "model": model, "refused": str(refusal)})
        raise
    if why:
        tell(why)
    if as_json:
        show_json(plan.as_dict())
    else:
        say(*plan.lines())
