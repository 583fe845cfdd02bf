"""Low-rank adaptation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Hooks, Weights
from tempering.learner import Learner
from tempering.tunings.attach import Added, Place, check_free, freeze, plug, refuse_packed, sizes, transposed, unplug, walk
from tempering.tunings.by_row import linear_by_row
from tempering.tunings.targets import PLACES as PLACES
from tempering.tunings.targets import Targets, targets_of, whole_modules


def kaiming(r: int, inputs: int) -> nn.Parameter:
    """A (r, in) as drawn for ``nn.Linear``: U(-1/sqrt(in), 1/sqrt(in))."""
    weight = nn.Parameter(torch.empty(r, inputs))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return weight


class LowRank(Added):
    """The added path of one linear map: x [..., in] -> s B A drop(x) [..., out], with A (r, in), B (out, r) and scale s."""

    def __init__(self, inputs: int, outputs: int, r: int, alpha: float, dropout: float, use_rslora: bool = False) -> None:
        super().__init__()
        self.A = kaiming(r, inputs)
        self.B = nn.Parameter(torch.zeros(outputs, r))
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.scaling = alpha / (math.sqrt(r) if use_rslora else r)
        self.setting = (r, alpha, use_rslora)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        narrow = nn.functional.linear(self.drop(x), self.A) * self.scaling  # scaled where it is thin
        return nn.functional.linear(narrow, self.B)

    def product(self) -> Tensor:
        """s B A, shaped (out, in)."""
        return self.scaling * (self.B @ self.A)

    @classmethod
    def rowwise(cls, modules: Sequence[LowRank], x: Tensor, owner: Tensor) -> Tensor | None:
        """Every row's own product: A and B gathered by row (`Added`)."""
        if len({getattr(m.drop, "p", 0.0) for m in modules}) > 1:
            return None
        narrow = linear_by_row([m.scaling * m.A for m in modules], modules[0].drop(x), owner)
        return linear_by_row([m.B for m in modules], narrow, owner)


def _add(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook: reads the low-rank weights from the layer, so that swapped weights are seen."""
    delta: Tensor = layer.get_submodule("lora")(args[0])
    return output + delta


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LoRA:
    """Adds a trained low-rank matrix to chosen linear maps of a frozen body, by default to query and value of every block.

    ``target_modules`` holds places (query, key, value, attention_out, ffn_in, ffn_out), or names of the model's own linear maps
    such as ``q_lin``; or is ``"all-linear"``, every linear map inside the blocks; or a regular expression for whole names, as in
    PEFT. ``modules_to_save`` names modules of the body that are trained whole and saved along. ``use_rslora`` divides by sqrt(r)
    instead of r; ``loraplus_lr_ratio`` is how many times faster B learns than A.

    *Paper*: Hu et al. 2022; rsLoRA: Kalajdzievski 2023; LoRA+: Hayou et al. 2024. *Formula*: y = W x + s B A drop(x), A (r, in)
    Kaiming-uniform, B (out, r) zero, s = alpha / r or alpha / sqrt(r): exactly the backbone at the start; r (in + out) numbers a map.
    *Needs*: linear maps of at least r inputs and outputs. *Costs*: one pass, two thin products a map; Adam's memory for A and B only;
    none once merged. *Differs*: where a family fuses query, key and value into one matrix (or blocks share weights), there is one
    low-rank matrix for the fused map (for all blocks), its rank shared; PEFT's LoRA+ gives biases of the head the faster rate too.
    """

    r: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Targets = ("query", "value")
    use_rslora: bool = False
    loraplus_lr_ratio: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    modules_to_save: tuple[str, ...] = ()

    trunk_eval: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True
    shards: ClassVar[bool] = True
    touches: ClassVar[tuple[str, ...]] = ("rate",)

    @property
    def trains_pretrained(self) -> bool:
        """Whether modules of the body are trained whole."""
        return bool(self.modules_to_save)

    @property
    def neutral(self) -> bool:
        """Both matrices learn at one rate: nothing acts while training."""
        return self.loraplus_lr_ratio == 1.0

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and add A and B to every target. One that a stage before left there is trained on."""
        targets = self.targets(backbone)
        whole = whole_modules(backbone, "lora", self.modules_to_save, targets)
        for target in targets:
            check_free(target, "lora", (self.r, self.lora_alpha, self.use_rslora))
        freeze(backbone)
        for _, layer in targets:
            make = partial(LowRank, *sizes(layer), self.r, self.lora_alpha, self.lora_dropout, self.use_rslora)
            plug(layer, "lora", make, _add, layer.get_parameter("weight"), first=True)
        for weight in _own(whole).values():
            weight.requires_grad_(True)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        """W += s B A in every layer that carries a LoRA; then take it off."""
        refuse_packed(backbone, "lora")
        for _, layer in list(walk(backbone.model)):
            delta = getattr(layer, "lora", None)
            if isinstance(delta, LowRank):
                change = delta.product()
                layer.get_parameter("weight").add_(change.T if transposed(layer) else change)
                unplug(layer, "lora", _add)

    def count(self, backbone: Backbone) -> int:
        """Sum of r (in + out) over the targets, and the size of the modules trained whole."""
        targets = self.targets(backbone)
        whole = _own(whole_modules(backbone, "lora", self.modules_to_save, targets))
        return sum(self.r * sum(sizes(layer)) for _, layer in targets) + sum(w.numel() for w in {id(w): w for w in whole.values()}.values())

    def targets(self, backbone: Backbone) -> list[Place]:
        """(path in the body, layer) of every map that gets a LoRA, in the body's order; refusals are `ModelError`."""
        return targets_of(backbone, "lora", self.target_modules, self.r)

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """LoRA+: B learns at ``loraplus_lr_ratio`` times the rate of everything else."""
        return Hooks(rate=lambda name, _progress: self.loraplus_lr_ratio if name.endswith(".lora.B") else 1.0)

    def peft_config(self, backbone: Backbone, task_type: str, modules_to_save: Sequence[str]) -> dict[str, Any]:
        """``adapter_config.json`` of this LoRA (`tempering.tunings.peft_format`)."""
        from tempering.tunings.peft_format import peft_config

        return peft_config(self, backbone, task_type, modules_to_save)

    def peft_names(self, backbone: Backbone, prefix: str) -> dict[str, str]:
        """Our names of the attached weights -> PEFT's names on disk (`tempering.tunings.peft_format`)."""
        from tempering.tunings.peft_format import peft_names, whole_names

        whole = whole_modules(backbone, "lora", self.modules_to_save, self.targets(backbone))
        return peft_names(backbone, prefix) | whole_names(_own(whole), prefix)


def _own(modules: Sequence[Place]) -> dict[str, nn.Parameter]:
    """The body's own weights of ``modules`` by name, leaving out what tunings added."""
    inner = [(f"{path}.{below}" if below else path, m) for path, module in modules for below, m in walk(module)]
    return {f"{path}.{name}": weight for path, m in inner for name, weight in m.named_parameters(recurse=False)}
