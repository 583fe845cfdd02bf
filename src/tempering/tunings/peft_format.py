"""LoRA in PEFT's file format: what ``PeftModel.from_pretrained`` reads.

PEFT drops weights of names it does not know with only a warning, so the names here are those of the transformers class that will
load them: ``prefix`` is the attribute under which that class keeps the body (`HeadSpec.body`), empty for the body itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tempering.backbone import Backbone
from tempering.tunings.attach import linear_maps, transposed, walk
from tempering.tunings.lora import LoRA, LowRank


def peft_config(
    value: LoRA,
    backbone: Backbone,
    task_type: Literal["SEQ_CLS", "FEATURE_EXTRACTION"],
    modules_to_save: Sequence[str] = (),
    base_model_name_or_path: str | None = None,
) -> dict[str, Any]:
    """The content of ``adapter_config.json``, JSON-ready.

    ``modules_to_save`` names what is stored whole beside the LoRA, as attributes of the class that will load it (its head).
    """
    targets = value.targets(backbone)
    alpha = value.lora_alpha
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model_name_or_path,
        "inference_mode": True,
        "r": value.r,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": value.lora_dropout,
        "target_modules": _target_names(backbone, [path for path, _ in targets]),
        "modules_to_save": list(modules_to_save) or None,
        "fan_in_fan_out": all(transposed(layer) for _, layer in targets),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def peft_names(backbone: Backbone, prefix: str) -> dict[str, str]:
    """Name in ``backbone.state_dict()`` -> key in ``adapter_model.safetensors``, for every LoRA weight attached."""
    head = f"base_model.model.{prefix}." if prefix else "base_model.model."
    paths = [path for path, layer in walk(backbone.model) if isinstance(getattr(layer, "lora", None), LowRank)]
    return {f"model.{path}.lora.{w}": f"{head}{path}.lora_{w}.weight" for path in paths for w in ("A", "B")}


def _target_names(backbone: Backbone, paths: list[str]) -> list[str]:
    """The last parts of the names (``query``, ``value``) where those mean exactly ``paths``, else the whole paths.

    PEFT matches the end of a module's name, also in a head, where linear maps may be called like those of the body.
    """
    short = sorted({path.rpartition(".")[2] for path in paths})
    head = backbone.layout.head
    taken = {part.rpartition(".")[2] for part in (head.dense or "", head.final)} if head else set()
    meant = [path for path in linear_maps(backbone) if path.rpartition(".")[2] in short]
    return short if sorted(meant) == sorted(paths) and not taken & set(short) else paths
