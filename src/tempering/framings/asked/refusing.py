"""What `InContext` refuses once the task and the model are known, and what it then says of settings that do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tempering.errors import RecipeError
from tempering.framings.asked.ordering import SEARCHED

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.asked.in_context_module import InContextModule


def refuse(module: InContextModule, backbone: Backbone) -> None:
    """Refuse a search, an order and a scoring that the task or the model cannot serve."""
    text, search, masked = module.kind == "text", module.given.search, module.reader.masked
    free = text and search == "vocabulary"
    model = f"{backbone.source} ({backbone.layout.family})"
    if text and search == "labels":
        raise RecipeError("in_context: a task of free text has no labels to search; set search to candidates, or to vocabulary")
    if free and module.given.order in SEARCHED:
        raise RecipeError(
            f"in_context: order {module.given.order} measures how undecided the model is between answers that are given, and a task of"
            " free text with search: vocabulary gives none; set order to random, or search to candidates"
        )
    if free and module.given.per_class:
        raise RecipeError(
            "in_context: per_class shows rows of each class, and a task of free text with search: vocabulary has none; set it to false"
        )
    if masked and free:
        raise RecipeError(
            f"in_context: {model} fills masks and writes no free text; use a causal language model, or search: candidates",
        )
    if masked and module.back:
        raise RecipeError(
            f"in_context: scoring channel reads the text after the label, which {model} cannot as it fills masks; use a causal language"
            " model"
        )
    _refuse_names(module)


def _refuse_names(module: InContextModule) -> None:
    """Refuse a candidate that is a label's name and not a word of its: who reads the answer could not tell them apart."""
    words = {word for found in module.words for word in found}
    for name in module.given.candidates:
        if name in module.labels and name not in words:
            raise RecipeError(
                f"in_context: candidates: {name!r} is also the name of a label, which words call"
                f" {module.words[module.labels.index(name)][0]!r}; add it to the words of that label, or leave it out"
            )


def idle(module: InContextModule) -> Iterator[str]:
    """Notes on settings that do nothing on this task and model."""
    value, masked = module.given, module.reader.masked
    if module.labels and value.candidates and len(module.outcomes) == len(module.labels):
        yield "every candidate is a word of a label, so that search: labels says the same"
    if masked and value.search == "vocabulary" and value.max_new_tokens > 1:
        yield f"a model that fills masks answers in one token: max_new_tokens={value.max_new_tokens} writes no more"
    if masked and value.order in SEARCHED:
        yield f"a model that fills masks writes no probes: order {value.order} asks about training rows, and probe_tokens does nothing"
