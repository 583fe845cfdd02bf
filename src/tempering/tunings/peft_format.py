"""Low-rank methods in PEFT's file format: what ``PeftModel.from_pretrained`` reads.

PEFT drops weights of names it does not know with only a warning, so the names here are those of the transformers class that will
load them: ``prefix`` is the attribute under which that class keeps the body (`HeadSpec.body`), empty for the body itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tempering.backbone import Backbone
from tempering.tunings.attach import Place, linear_maps, transposed, walk
from tempering.tunings.lora import LoRA

LORA = {"A": "lora_A.weight", "B": "lora_B.weight"}


def peft_config(
    value: LoRA,
    backbone: Backbone,
    task_type: str,
    modules_to_save: Sequence[str] = (),
    base_model_name_or_path: str | None = None,
) -> dict[str, Any]:
    """The content of ``adapter_config.json`` of a LoRA, JSON-ready.

    ``modules_to_save`` names what is stored whole beside the LoRA, as attributes of the class that will load it (its head).
    """
    fields = low_rank_config(value.targets(backbone), backbone, task_type, (*modules_to_save, *value.modules_to_save))
    own = {"base_model_name_or_path": base_model_name_or_path, "r": value.r, "lora_alpha": tidy(value.lora_alpha)}
    return fields | own | {"lora_dropout": value.lora_dropout, "use_rslora": value.use_rslora}


def low_rank_config(targets: Sequence[Place], backbone: Backbone, task_type: str, modules_to_save: Sequence[str]) -> dict[str, Any]:
    """The fields that all of PEFT's LoRA forms share; the method's own come on top."""
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "target_modules": target_names(backbone, [path for path, _ in targets]),
        "modules_to_save": list(modules_to_save) or None,
        "fan_in_fan_out": all(transposed(layer) for _, layer in targets),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def tidy(number: float) -> float:
    """A whole number as such: PEFT declares ``lora_alpha`` an integer and reads both."""
    return int(number) if number == int(number) else number


def peft_names(backbone: Backbone, prefix: str, child: str = "lora", theirs: Mapping[str, str] = LORA) -> dict[str, str]:
    """Name in ``backbone.state_dict()`` -> key in ``adapter_model.safetensors``, for every module ``child`` that was added.

    ``theirs`` maps our names inside that module to PEFT's after the layer's path.
    """
    head = f"base_model.model.{prefix}." if prefix else "base_model.model."
    paths = carriers(backbone, child)
    return {f"model.{path}.{child}.{mine}": f"{head}{path}.{other}" for path in paths for mine, other in theirs.items()}


def carriers(backbone: Backbone, child: str) -> list[str]:
    """Paths of the layers that carry an added module ``child``."""
    return [path for path, layer in walk(backbone.model) if child in dict(layer.named_children())]


def whole_names(weights: Iterable[str], prefix: str) -> dict[str, str]:
    """The same for the body's own weights that are trained whole: PEFT stores them under the names they have."""
    head = f"base_model.model.{prefix}." if prefix else "base_model.model."
    return {f"model.{name}": f"{head}{name}" for name in weights}


def target_names(backbone: Backbone, paths: list[str]) -> list[str]:
    """The last parts of the names (``query``, ``value``) where those mean exactly ``paths``, else the whole paths.

    PEFT matches the end of a module's name, also in a head, where linear maps may be called like those of the body.
    """
    short = sorted({path.rpartition(".")[2] for path in paths})
    head, lm = backbone.layout.head, backbone.layout.lm
    taken = {part.rpartition(".")[2] for part in (head.dense or "", head.final)} if head else set()
    taken |= {lm.dense.rpartition(".")[2]} if lm else set()
    meant = [path for path in linear_maps(backbone) if path.rpartition(".")[2] in short]
    return short if sorted(meant) == sorted(paths) and not taken & set(short) else paths
