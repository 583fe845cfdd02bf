"""What can be done with a tuning that ``temper adapt`` has left apart from its model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.commands.inputs import quoted
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.recipe import Recipe


def onward(recipe: Recipe, model: str, where: Path) -> list[str]:
    """The lines that say so, for the folder ``where`` that ``recipe`` has made of ``model``."""
    from tempering.registry import name_of

    tuning = recipe.stages[0].tuning
    name, fit = name_of(tuning)[1], f"temper fit DATA --model {quoted(model)}"
    if tuning.merges:
        return [f"next: temper merge {quoted(where)} --output-dir MODEL folds it in; temper fit DATA --model MODEL goes on from there"]
    if name == "pfeiffer":
        return [f"next: {fit} --recipe madx {_words(_language(tuning, where))}"]
    found = ["tempering.load reads it in Python"]
    if settings := _both_stages(recipe):
        found.append(f"for a task that goes on with such a {name}, one run does both: {fit} --recipe dapt {_words(settings)}")
    return found


def _language(tuning: Any, where: Path) -> dict[str, Any]:
    """The settings under which recipe madx reads the adapters of ``tuning``: what it does not take for granted."""
    from tempering.tunings.madx import MADX

    theirs = {"language_m": tuning.m, "invertible": tuning.invertible, "activation": tuning.activation}
    theirs |= {"language_reduction": tuning.reduction} if tuning.m is None else {}
    usual = MADX()
    return {"tuning.language": str(where)} | {f"tuning.{name}": x for name, x in theirs.items() if x != getattr(usual, name)}


def _both_stages(recipe: Recipe) -> dict[str, Any]:
    """Settings of recipe dapt by which a task starts from the tuning that the text leaves; none where it cannot be kept for one."""
    from tempering.codec import encode
    from tempering.framings.causal_lm import CausalLM
    from tempering.recipe import Recipe as Recipes

    stage = recipe.stages[0]
    tuning = stage.tuning
    if tuning.trains_pretrained and getattr(tuning, "layer_norm", False):
        tuning = replace(tuning, layer_norm=False)  # norms are the model's own and would not be kept
    plain = encode(tuning, "tuning")
    settings: dict[str, Any] = {"stages.0.text": stage.text}
    if isinstance(stage.framing, CausalLM):
        settings["stages.0.framing"] = "causal_lm"
    settings |= {"stages.0.tuning": plain, "stages.0.keep_tuning": "adapted", "tuning": plain, "reuse_tuning": "adapted"}
    try:
        Recipes.load("dapt").override(settings).check()
    except RecipeError:
        return {}
    return settings


def _words(settings: dict[str, Any]) -> str:
    """Settings as a shell reads them."""
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return " ".join(quoted(f"{key}={value}") for key, value in said.items())
