"""Settings of PEFT's methods as plain values that hash: from a configuration of PEFT, and back into the fields of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from tempering.errors import RecipeError

REFUSED = {
    "adalora": "its budget must be told of every step, which tempering does itself; use the tuning adalora",
    "adaption_prompt": "it rewrites the attention of one family of generators; use prefix_tuning",
    "cartridge": "it passes a cache of keys and values to the whole model; use prefix_tuning",
    "lily": "neighboring layers share its weights, which a folder written here does not keep; use lora",
    "osf": "it rewrites the pretrained weights as a decomposition, which no saved change would fit; use pissa",
    "poly": "its forward pass takes the ids of tasks beside the text; use lora for each task",
    "cpt": "it changes inputs and labels of a causal language model; use prompt_tuning",
    "shira": "which entries it trains is not stored with their values; use fish or magnitude",
    "shadow": "it runs a second model beside the body; use lora",
    "trainable_tokens": "it changes the embeddings of the whole model; use prompt_tuning",
    "xlora": "it weighs trained adapters in a pass of its own; use lora",
}
# Fields of every configuration that say where an adapter lies and what for: the model and the framing say so here.
ASIDE = frozenset({"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"})


def configuration(method: str) -> Any:
    """PEFT's class of configurations of ``method``; one that does not change single layers is a `RecipeError`."""
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as KNOWN

    kinds: dict[str, Any] = {kind.value.lower(): cls for kind, cls in KNOWN.items()}
    if method in REFUSED:
        raise RecipeError(f"peft: {method} is not one to take as it is: {REFUSED[method]}")
    prompts = {name for name, cls in kinds.items() if issubclass(cls, PromptLearningConfig)}
    if method in prompts:
        raise RecipeError(f"peft: {method} changes what the whole model is given; use prompt_tuning, p_tuning or prefix_tuning")
    if method not in kinds:
        taken = sorted(set(kinds) - set(REFUSED) - prompts)
        raise RecipeError(f"peft: the installed PEFT has no method {method!r}; use one of {', '.join(taken)}")
    return kinds[method]


def is_configuration(value: object) -> bool:
    """Whether ``value`` is one of PEFT's configurations, told without importing PEFT."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "peft_type")


def settings_of(config: Any) -> dict[str, Any]:
    """``method`` and ``options`` of a configuration: the fields that differ from their defaults."""
    kind = config.peft_type
    default = _defaults(type(config))
    fields = [f.name for f in dataclasses.fields(config) if f.name not in ASIDE]
    options = {name: getattr(config, name) for name in fields if getattr(config, name) != default[name]}
    return {"method": str(kind.value if isinstance(kind, Enum) else kind).lower(), "options": options}


def _defaults(cls: Any) -> dict[str, Any]:
    """What every field holds of a configuration for which nothing is given, or would hold where something must be."""
    try:
        return dict(vars(cls()))
    except (TypeError, ValueError):
        made = {f.name: f.default_factory for f in dataclasses.fields(cls) if f.default_factory is not dataclasses.MISSING}
        return {f.name: made[f.name]() if f.name in made else f.default for f in dataclasses.fields(cls)}


def frozen(value: Any) -> Any:
    """Lists and sets as tuples, mappings as pairs: what hashes. An object of other kinds is a `TypeError`."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(k), frozen(v)) for k, v in value.items()))
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(frozen(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value))
    if isinstance(value, Enum):
        return value.value
    if value is not None and not isinstance(value, str | bool | int | float):
        raise TypeError(f"a {type(value).__name__} is no plain value")
    return value


def thawed(method: str, cls: Any, options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """``options`` as the fields of ``cls`` take them: lists, and mappings where a field holds one. An unknown name is a `RecipeError`."""
    fields = {f.name: str(f.type).lower() for f in dataclasses.fields(cls)}
    if unknown := sorted({name for name, _ in options} - set(fields)):
        raise RecipeError(f"peft: {method} has no option {unknown[0]!r}; use those of its configuration: {', '.join(sorted(fields))}")
    return {name: _thawed(value, "dict" in fields[name]) for name, value in options}


def _thawed(value: Any, mapping: bool) -> Any:
    if not isinstance(value, tuple):
        return value
    pairs = mapping and all(isinstance(part, tuple) and len(part) == 2 for part in value)
    return dict(value) if pairs else list(value)
