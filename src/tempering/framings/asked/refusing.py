"""What `InContext` refuses once the task and the model are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.asked.in_context_module import InContextModule


def refuse(module: InContextModule, backbone: Backbone) -> None:
    """Refuse a search and a scoring that the task or the model cannot serve."""
    text, search, masked = module.kind == "text", module.given.search, module.reader.masked
    model = f"{backbone.source} ({backbone.layout.family})"
    if text and search == "labels":
        raise RecipeError("in_context: a task of free text has no labels to search; set search to candidates, or to vocabulary")
    if masked and text and search == "vocabulary":
        raise RecipeError(
            f"in_context: {model} fills masks and writes no free text; use a causal language model, or search: candidates",
        )
    if masked and module.back:
        raise RecipeError(
            f"in_context: scoring channel reads the text after the label, which {model} cannot as it fills masks; use a causal language"
            " model"
        )
