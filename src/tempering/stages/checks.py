"""What a training stage is refused for before any weight is loaded (DESIGN, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tempering.errors import RecipeError
from tempering.registry import name_of
from tempering.train.hooks import SINGLE, at_most_one


def check_train(stage: Any, where: str, last: bool) -> list[str]:
    """Refuse what cannot work or means nothing in ``stage``, called ``where``; notes worth printing."""
    live = [s for s in stage.acting if not s.neutral]
    for field in SINGLE:
        at_most_one(field, [name_of(s)[1] for s in live if field in s.touches])
    doubled = {name_of(s)[1] for s in stage.stabilizers if [type(t) for t in stage.stabilizers].count(type(s)) > 1}
    if doubled:
        raise RecipeError(f"{where}: stabilizer {sorted(doubled)[0]} stands there twice; keep one")
    _check_needs(live, stage, where)
    for s in live:
        matrices = getattr(stage.tuning, "trains_matrices", stage.tuning.trains_pretrained)
        if getattr(s, "needs_pretrained", False) and not (
            matrices if getattr(s, "needs_matrices", False) else stage.tuning.trains_pretrained
        ):
            raise RecipeError(
                f"{where}: {name_of(s)[1]} {getattr(s, 'does', 'draws trained weights back to their pretrained values')}, but tuning"
                f" {name_of(stage.tuning)[1]} trains none of those; use tuning full or top_layers, or drop it"
            )
    moved = [name_of(s)[1] for s in live if {"weights", "noise"} & set(s.touches) or bool(getattr(s, "perturbations", 0))]
    if stage.gradient_checkpointing and moved:
        raise RecipeError(
            f"{where}: gradient_checkpointing recomputes a pass without what {moved[0]} changed in it, and gradients would be wrong;"
            " set it to false"
        )
    if stage.text != "labeled" and stage.framing.supervised:
        raise RecipeError(
            f"{where}: framing {name_of(stage.framing)[1]} needs labels, but text is {stage.text!r}; set text: labeled or take masked_lm"
        )
    if not last and not stage.tuning.merges:
        raise RecipeError(
            f"{where}: tuning {name_of(stage.tuning)[1]} cannot be folded into the weights for the next stage; use full or lora there"
        )
    if last and not stage.framing.supervised:
        return [f"{where}: the last stage reads no labels, so the model will predict masked words, not labels"]
    return [] if stage.tuning.trains_backbone or stage.framing.supervised else [f"{where}: nothing but the language-model head is trained"]


def _check_needs(live: Sequence[Any], stage: Any, where: str) -> None:
    """Refuse methods that read labels, a trained backbone or a teacher where there is none that means anything."""
    framing, tuning = name_of(stage.framing)[1], name_of(stage.tuning)[1]
    for s in live:
        if getattr(s, "needs_labels", False) and not stage.framing.supervised:
            raise RecipeError(f"{where}: {name_of(s)[1]} reads labels, and framing {framing} has none; use framing head, or drop it")
        if getattr(s, "needs_backbone", False) and not stage.tuning.trains_backbone:
            raise RecipeError(
                f"{where}: {name_of(s)[1]} moves what the model makes of texts, which depends on weights inside it, but tuning {tuning}"
                " trains none of those; use tuning full or lora, or drop it"
            )
    shown = [s for s in live if {"weights", "final"} <= set(s.touches)]
    taught = [s for s in live if getattr(s, "teachers", 0) and s not in shown]
    if shown and taught:
        raise RecipeError(
            f"{where}: {name_of(shown[0])[1]} trains through other weights than those a teacher of {name_of(taught[0])[1]} is made of, and"
            " the two would not be comparable; keep one of them"
        )
