"""Vector-based random matrix adaptation."""

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
from tempering.tunings.attach import Added, Place, check_free, freeze, plug, refuse_packed, sizes, transposed, unplug, walk
from tempering.tunings.peft_format import low_rank_config, peft_names
from tempering.tunings.targets import Targets, targets_of


class Vectors(Added):
    """b (out) and d (r) of one map, over a view of the random matrices A (r, in) and B (out, r) that all maps share."""

    def __init__(self, shared: tuple[Tensor, Tensor], inputs: int, outputs: int, d_initial: float, dropout: float, seed: int) -> None:
        super().__init__()
        a, b = shared
        self.d = nn.Parameter(torch.full((len(a),), d_initial))
        self.b = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("A", a[:, :inputs], persistent=False)  # drawn again from the seed: not worth storing
        self.register_buffer("B", b[:outputs], persistent=False)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.setting = (len(a), seed)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        narrow = nn.functional.linear(self.drop(x), self.get_buffer("A"))
        return self.b * nn.functional.linear(self.d * narrow, self.get_buffer("B"))

    def product(self) -> Tensor:
        """diag(b) B diag(d) A, shaped (out, in)."""
        return (self.b[:, None] * self.get_buffer("B")) @ (self.d[:, None] * self.get_buffer("A"))


def projections(r: int, inputs: int, outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), uniform with bound sqrt(6 / fan-in): the very draws of PEFT for the same ``projection_prng_key``."""
    generator = torch.Generator("cpu").manual_seed(seed)
    shapes = ((r, inputs), (outputs, r))
    a, b = (torch.empty(s, device="cpu").uniform_(-math.sqrt(6 / s[1]), math.sqrt(6 / s[1]), generator=generator) for s in shapes)
    return a, b


def _add(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook: reads the vectors from the layer, so that swapped weights are seen."""
    delta: Tensor = layer.get_submodule("vera")(args[0])
    return output + delta


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class VeRA:
    """Adds one frozen random low-rank matrix pair to all chosen linear maps and trains two vectors a map that scale it.

    ``target_modules`` as in `LoRA`. *Paper*: Kopiczko et al. 2024. *Formula*: y = W x + diag(b) B diag(d) A drop(x), A (r, in) and
    B (out, r) random and shared by all maps (cut to size), d (r) at ``d_initial``, b (out) zero: exactly the backbone; r + out numbers
    a map. *Needs*: as `LoRA`. *Costs*: one pass, two products of rank r a map; none once merged; a saved change of kilobytes, as the
    random pair is drawn again from ``projection_prng_key``. *Differs*: nothing; the draws are PEFT's, so that it reads the same folder.
    """

    r: int = Field(default=256, ge=1)
    d_initial: float = Field(default=0.1, allow_inf_nan=False)
    vera_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Targets = ("query", "value")
    projection_prng_key: int = Field(default=0, ge=0)

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and add the vectors to every target. What a stage before left there is trained on."""
        targets = self._targets(backbone)
        for target in targets:
            check_free(target, "vera", (self.r, self.projection_prng_key))
        freeze(backbone)
        widest = [max(size) for size in zip(*(sizes(layer) for _, layer in targets), strict=True)]
        shared = projections(self.r, widest[0], widest[1], self.projection_prng_key)
        like = targets[0][1].get_parameter("weight")
        shared = (shared[0].to(like.device, like.dtype), shared[1].to(like.device, like.dtype))
        for _, layer in targets:
            make = partial(Vectors, shared, *sizes(layer), self.d_initial, self.vera_dropout, self.projection_prng_key)
            plug(layer, "vera", make, _add, layer.get_parameter("weight"), first=True)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        """W += diag(b) B diag(d) A in every layer that carries it; then take it off."""
        refuse_packed(backbone, "vera")
        for _, layer in list(walk(backbone.model)):
            added = getattr(layer, "vera", None)
            if isinstance(added, Vectors):
                change = added.product()
                layer.get_parameter("weight").add_(change.T if transposed(layer) else change)
                unplug(layer, "vera", _add)

    def count(self, backbone: Backbone) -> int:
        """Sum of r + out over the targets."""
        return sum(self.r + sizes(layer)[1] for _, layer in self._targets(backbone))

    def _targets(self, backbone: Backbone) -> list[Place]:
        return targets_of(backbone, "vera", self.target_modules)  # A and B are random: their rank may exceed that of W

    def peft_config(self, backbone: Backbone, task_type: str, modules_to_save: Sequence[str]) -> dict[str, Any]:
        """``adapter_config.json``: PEFT draws the shared pair from the same key."""
        shared = low_rank_config(self._targets(backbone), backbone, task_type, modules_to_save)
        kept = ("task_type", "base_model_name_or_path", "inference_mode", "target_modules", "modules_to_save", "fan_in_fan_out", "bias")
        own = {"peft_type": "VERA", "r": self.r, "d_initial": self.d_initial, "vera_dropout": self.vera_dropout}
        key = {"projection_prng_key": self.projection_prng_key, "save_projection": False}
        return {name: shared[name] for name in kept} | own | key

    def peft_names(self, backbone: Backbone, prefix: str) -> dict[str, str]:
        """Our names of the attached weights -> PEFT's names on disk."""
        return peft_names(backbone, prefix, "vera", {"b": "vera_lambda_b", "d": "vera_lambda_d"})
