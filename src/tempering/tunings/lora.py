"""Low-rank adaptation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Added, Place, check_free, freeze, linear_maps, places, plug, sizes, transposed, unplug, walk

PLACES = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")


class LowRank(Added):
    """The added path of one linear map: x [..., in] -> (alpha / r) B A drop(x) [..., out], with A (r, in) and B (out, r)."""

    def __init__(self, inputs: int, outputs: int, r: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(-1/sqrt(in), 1/sqrt(in)), as nn.Linear
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.scaling = alpha / r
        self.setting = (r, alpha)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        narrow = nn.functional.linear(self.drop(x), self.A) * self.scaling  # scaled where it is thin
        return nn.functional.linear(narrow, self.B)

    def product(self) -> Tensor:
        """(alpha / r) B A, shaped (out, in)."""
        return self.scaling * (self.B @ self.A)


def _add(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook: reads the low-rank weights from the layer, so that swapped weights are seen."""
    delta: Tensor = layer.get_submodule("lora")(args[0])
    return output + delta


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LoRA:
    """Adds a trained low-rank matrix to chosen linear maps of a frozen body, by default to query and value of every block.

    ``target_modules`` holds places (query, key, value, attention_out, ffn_in, ffn_out), or names of the model's own linear maps
    such as ``q_lin``, or is ``"all-linear"``: every linear map inside the blocks.

    *Paper*: Hu et al. 2022. *Formula*: y = W x + (alpha / r) B A drop(x), A (r, in) Kaiming-uniform, B (out, r) zero: exactly the
    backbone at the start; r (in + out) numbers a map. *Needs*: linear maps of at least r inputs and outputs. *Costs*: one pass, two
    thin products a map; Adam's memory for A and B only; none once merged. *Differs*: where a family fuses query, key and value into
    one matrix (or blocks share weights), there is one low-rank matrix for the fused map (for all blocks), its rank shared.
    """

    r: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = ("query", "value")

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True

    @field_validator("target_modules", mode="before")
    @classmethod
    def _several(cls, given: object) -> object:
        """One name stands for a tuple of one."""
        return (given,) if isinstance(given, str) and given != "all-linear" else given

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and add A and B to every target. One that a stage before left there is trained on."""
        targets = self.targets(backbone)
        for target in targets:
            check_free(target, "lora", (self.r, self.lora_alpha))
        freeze(backbone)
        for _, layer in targets:
            make = partial(LowRank, *sizes(layer), self.r, self.lora_alpha, self.lora_dropout)
            plug(layer, "lora", make, _add, layer.get_parameter("weight"), first=True)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        """W += (alpha / r) B A in every layer that carries a LoRA; then take it off."""
        for _, layer in list(walk(backbone.model)):
            delta = getattr(layer, "lora", None)
            if isinstance(delta, LowRank):
                change = delta.product()
                layer.get_parameter("weight").add_(change.T if transposed(layer) else change)
                unplug(layer, "lora", _add)

    def count(self, backbone: Backbone) -> int:
        """Sum of r (in + out) over the targets."""
        return sum(self.r * sum(sizes(layer)) for _, layer in self.targets(backbone))

    def targets(self, backbone: Backbone) -> list[Place]:
        """(path in the body, layer) of every map that gets a LoRA, in the body's order; refusals are `ModelError`."""
        maps = linear_maps(backbone)
        if self.target_modules == "all-linear":
            backbone.layout.require("lora", "blocks")
            chosen = {path for path in maps if path.startswith(backbone.layout.blocks + ".")}
        else:
            chosen = {path for name in self.target_modules for path in self._paths(backbone, maps, name)}
        found = [(path, layer) for path, layer in maps.items() if path in chosen]
        if not found:
            raise ModelError("lora: target_modules is empty; give at least one place, such as query, or leave the field out")
        self._check_rank(found)
        return found

    def _paths(self, backbone: Backbone, maps: dict[str, nn.Module], name: str) -> list[str]:
        """Paths that one entry of ``target_modules`` means: a place of the table, else the end of a linear map's name."""
        named = [path for path in maps if f".{path}".endswith(f".{name}")]
        if name in PLACES and (getattr(backbone.layout, name) or not named):
            return [path for path, _ in places(backbone, "lora", [name])]
        if not named:
            there = sorted({path.rpartition(".")[2] for path in maps})
            raise ModelError(
                f"lora: target_modules names {name!r}, and no linear map of {backbone.source} is called that; give places"
                f" ({', '.join(PLACES)}) or names that this model has ({', '.join(there)})"
            )
        return named

    def _check_rank(self, found: list[Place]) -> None:
        path, least = min(((path, min(sizes(layer))) for path, layer in found), key=lambda pair: pair[1])
        if self.r > least:
            raise ModelError(f"lora: r = {self.r} is more than the {least} inputs or outputs of {path}; give r of at most {least}")

    def peft_config(
        self, backbone: Backbone, task_type: Literal["SEQ_CLS", "FEATURE_EXTRACTION"], modules_to_save: Sequence[str]
    ) -> dict[str, Any]:
        """``adapter_config.json`` of this LoRA (`tempering.tunings.peft_format`)."""
        from tempering.tunings.peft_format import peft_config

        return peft_config(self, backbone, task_type, modules_to_save)

    def peft_names(self, backbone: Backbone, prefix: str) -> dict[str, str]:
        """Our names of the attached weights -> PEFT's names on disk (`tempering.tunings.peft_format`)."""
        from tempering.tunings.peft_format import peft_names

        return peft_names(backbone, prefix)
