"""Weight-decomposed low-rank adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.tunings.attach import Added, Place, check_free, freeze, plug, refuse_packed, sizes, transposed, unplug, walk
from tempering.tunings.lora import kaiming
from tempering.tunings.peft_format import LORA, low_rank_config, peft_names, tidy
from tempering.tunings.targets import Targets, targets_of


class Decomposed(Added):
    """Direction and length of the rows of one matrix W (out, in): A (r, in), B (out, r) and the lengths m (out)."""

    def __init__(self, weight: Tensor, r: int, alpha: float, dropout: float) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.A = kaiming(r, inputs)
        self.B = nn.Parameter(torch.zeros(outputs, r))
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.scaling = alpha / r
        self.m = nn.Parameter(weight.detach().square().sum(1).sqrt())  # to the bit what `lengths` gives while B is zero
        self.setting = (r, alpha)

    @torch.no_grad()
    def lengths(self, weight: Tensor) -> Tensor:
        """||W + s B A|| of every row [out], expanded so that no (out, in) matrix is made: |w|^2 + 2 s w A'b + s^2 b' A A' b."""
        cross = ((weight @ self.A.T) * self.B).sum(1)
        square = ((self.B @ (self.A @ self.A.T)) * self.B).sum(1)
        return (weight.square().sum(1) + 2 * self.scaling * cross + self.scaling**2 * square).clamp_min(0).sqrt()

    def forward(self, x: Tensor, plain: Tensor, weight: Tensor) -> Tensor:
        """What is added to the layer's output; ``plain`` is W x without a bias. Exactly zero at the start."""
        scale = self.m / self.lengths(weight)
        narrow = nn.functional.linear(self.drop(x), self.A) * self.scaling
        return (scale - 1) * plain + scale * nn.functional.linear(narrow, self.B)

    def change(self, weight: Tensor) -> Tensor:
        """What merging adds to W."""
        scale = (self.m / self.lengths(weight)).unsqueeze(1)
        return (scale - 1) * weight + scale * self.scaling * (self.B @ self.A)


def _weight(layer: Any) -> Tensor:
    """W, which is no parameter where an inner loop puts weights of its own in the place of the model's."""
    weight: Tensor = layer.weight
    return weight.T if transposed(layer) else weight


def _add(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook. Where other methods act on this layer too, its output is no longer W x, which is then computed anew."""
    weight, bias = _weight(layer), getattr(layer, "bias", None)
    alone = sum(isinstance(child, Added) for child in layer.children()) == 1
    plain = nn.functional.linear(args[0], weight) if not alone else output if bias is None else output - bias
    added: Tensor = layer.get_submodule("dora")(args[0], plain, weight)
    return output + added


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DoRA:
    """Trains the length of every row of chosen matrices, and its direction by a low-rank change.

    ``target_modules`` as in `LoRA`. *Paper*: Liu et al. 2024. *Formula*: W' = m (W + s B A) / ||W + s B A||, norms of rows (out) and
    without gradient, s = alpha / r, m (out) the norms of W at first: exactly the backbone; r (in + out) + out numbers a map.
    *Needs*: as `LoRA`. *Costs*: one pass, two thin products a map and one of W with A a step; none once merged. *Differs*: norms by
    expansion, where the authors and PEFT build W + s B A at every step; with dropout only the low-rank path drops, PEFT's W x too.
    """

    r: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Targets = ("query", "value")

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True
    merge_order: ClassVar[int] = -1  # its change is one of the pretrained W: before others have moved that

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and add lengths, A and B to every target. What a stage before left there is trained on."""
        targets = self._targets(backbone)
        for target in targets:
            check_free(target, "dora", (self.r, self.lora_alpha))
        freeze(backbone)
        for _, layer in targets:
            make = partial(Decomposed, _weight(layer), self.r, self.lora_alpha, self.lora_dropout)
            plug(layer, "dora", make, _add, layer.get_parameter("weight"), first=True)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        """W becomes m (W + s B A) / ||W + s B A|| in every layer that carries a DoRA; then take it off."""
        refuse_packed(backbone, "dora")
        for _, layer in list(walk(backbone.model)):
            added = getattr(layer, "dora", None)
            if isinstance(added, Decomposed):
                change = added.change(_weight(layer))
                layer.get_parameter("weight").add_(change.T if transposed(layer) else change)
                unplug(layer, "dora", _add)

    def count(self, backbone: Backbone) -> int:
        """Sum of r (in + out) + out over the targets."""
        shapes = [sizes(layer) for _, layer in self._targets(backbone)]
        return sum(self.r * (inputs + outputs) + outputs for inputs, outputs in shapes)

    def _targets(self, backbone: Backbone) -> list[Place]:
        return targets_of(backbone, "dora", self.target_modules, self.r)

    def peft_config(self, backbone: Backbone, task_type: str, modules_to_save: Sequence[str]) -> dict[str, Any]:
        """``adapter_config.json``: PEFT keeps DoRA as a LoRA with lengths."""
        own = {"r": self.r, "lora_alpha": tidy(self.lora_alpha), "lora_dropout": self.lora_dropout, "use_dora": True}
        return low_rank_config(self._targets(backbone), backbone, task_type, modules_to_save) | own

    def peft_names(self, backbone: Backbone, prefix: str) -> dict[str, str]:
        """Our names of the attached weights -> PEFT's names on disk."""
        return peft_names(backbone, prefix, "dora", LORA | {"m": "lora_magnitude_vector"})
