"""Leaving blocks out, then tuning what is left."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass
from torch import nn

from tempering.backbone import Backbone
from tempering.contracts import Tuning
from tempering.errors import ModelError
from tempering.tunings.full import Full


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Truncate:
    """Drops ``k`` blocks for good and tunes what is left, all of it or as another ``tuning`` says.

    ``where``: "top" drops the last k blocks; "alternate" every second one, counted down from the last but one; "bottom" the first k.

    *Paper*: Sajjad et al. 2023. *Formula*: h_L = f_L(... f_1(e)) without k of the f; the state of the last block that is left is what
    head and pooler read. *Needs*: a family with separate blocks and k < L; a place that leaves a model which transformers builds
    alike (where the first block is special, "bottom" is refused). *Costs*: those of ``tuning`` on L - k blocks, also in use.
    *Differs*: the paper's symmetric and contribution-based choices are not offered. A later stage with the same setting drops no more.
    """

    k: int = Field(default=2, ge=1)
    where: Literal["top", "alternate", "bottom"] = "top"
    tuning: Any = Field(default_factory=Full)

    identity: ClassVar[Literal["exact", "near", "no"]] = "no"
    alone: ClassVar[bool] = True  # what others would hang into blocks that go

    @field_validator("tuning")
    @classmethod
    def _is_tuning(cls, given: Any) -> Any:
        """What is left needs a tuning, not its name or class."""
        if isinstance(given, type) or not isinstance(given, Tuning):
            raise ValueError("expected a tuning for the blocks that are left, such as LoRA()")
        return given

    @property
    def tunings(self) -> tuple[Any, ...]:
        """The tuning of what is left: it may look at the data and act while training."""
        return tuple(getattr(self.tuning, "tunings", (self.tuning,)))

    @property
    def trunk_eval(self) -> bool:
        """As the tuning of what is left."""
        return bool(self.tuning.trunk_eval)

    @property
    def trains_pretrained(self) -> bool:
        """As the tuning of what is left."""
        return bool(self.tuning.trains_pretrained)

    @property
    def trains_matrices(self) -> bool:
        """As the tuning of what is left."""
        return bool(getattr(self.tuning, "trains_matrices", self.trains_pretrained))

    @property
    def trains_backbone(self) -> bool:
        """As the tuning of what is left."""
        return bool(self.tuning.trains_backbone)

    @property
    def merges(self) -> bool:
        """As the tuning of what is left."""
        return bool(self.tuning.merges)

    def attach(self, backbone: Backbone) -> None:
        """Drop the blocks, adjust the configuration, and attach the tuning."""
        self.drop(backbone)
        self.tuning.attach(backbone)

    def merge(self, backbone: Backbone) -> None:
        """Merge the tuning; the dropped blocks stay dropped."""
        self.tuning.merge(backbone)

    def count(self, backbone: Backbone) -> int:
        """What the tuning trains of the blocks that are left."""
        left = copy.deepcopy(backbone)
        self.drop(left)
        return int(self.tuning.count(left))

    def drop(self, backbone: Backbone) -> None:
        """Leave the blocks out, where that was not done before."""
        backbone.layout.require("truncate", "blocks")
        if backbone.opened:
            raise ModelError(
                f"truncate cannot serve {backbone.source} ({backbone.layout.family}) here: encoder and decoder are both in use, and it"
                " drops blocks of one stack; use lora or top_layers, or for an encoder's head a family without a decoder"
            )
        mark, before = f"{self.where}-{self.k}", getattr(backbone.config, "truncated", None)
        if before == mark:
            return
        if before is not None:
            raise ModelError(
                f"truncate: {backbone.source} was truncated before ({before}), and this stage asks for {mark}; give both stages the same"
                " k and where, or truncate once"
            )
        kept = self._kept(backbone)
        blocks = backbone.model.get_submodule(backbone.layout.blocks)
        config = _shortened(backbone.config, kept, mark)
        _check_alike(backbone, blocks, kept, config)
        for name, value in vars(config).items():
            backbone.config.__dict__[name] = value
        _renumber(backbone, blocks, kept)

    def _kept(self, backbone: Backbone) -> list[int]:
        """Numbers of the blocks that stay, bottom first."""
        there = len(backbone.blocks)
        if self.k >= there:
            raise ModelError(f"truncate: k = {self.k}, but {backbone.source} has {there} blocks; give k between 1 and {there - 1}")
        if self.where == "alternate" and 2 * self.k > there:
            raise ModelError(
                f"truncate: k = {self.k} is more than every second of the {there} blocks of {backbone.source}; give k of at most"
                f" {there // 2}, or where: top"
            )
        first = {"top": there - self.k, "bottom": 0, "alternate": there - 2 * self.k}[self.where]
        dropped = set(range(first, there if self.where != "bottom" else self.k, 2 if self.where == "alternate" else 1))
        return [i for i in range(there) if i not in dropped]


def _shortened(config: Any, kept: list[int], mark: str) -> Any:
    """The configuration of the model that is left; what it lists by block is listed for those that stay."""
    short, there = copy.deepcopy(config), config.num_hidden_layers
    for name, value in vars(config).items():
        if isinstance(value, list) and name.endswith("_types") and len(value) == there:
            vars(short)[name] = [value[i] for i in kept]
    short.num_hidden_layers = len(kept)
    short.truncated = mark  # written to config.json: a later stage, or a reload, knows
    return short


def _check_alike(backbone: Backbone, blocks: nn.Module, kept: list[int], config: Any) -> None:
    """Refuse where transformers would build the shorter model with other weights than those that are left."""
    with torch.device("meta"):
        built = type(backbone.model)(copy.deepcopy(config)).get_submodule(backbone.layout.blocks)
    path, own = backbone.layout.blocks, backbone.own
    for new, old in enumerate(kept):
        mine = {n: w.shape for n, w in blocks.get_submodule(str(old)).state_dict().items() if f"{path}.{old}.{n}" in own}
        theirs = {n: w.shape for n, w in built.get_submodule(str(new)).state_dict().items()}
        if mine != theirs:
            odd = sorted(mine.keys() ^ theirs.keys()) or ["some"]
            raise ModelError(
                f"truncate: in {backbone.source} ({backbone.layout.family}) block {old} cannot stand in place {new}, since transformers"
                f" builds that place with other weights ({odd[0]}); choose where: top"
            )


def _renumber(backbone: Backbone, blocks: nn.Module, kept: list[int]) -> None:
    """Leave the kept blocks, numbered anew, and tell the backbone which of its tensors are still there."""
    place = {str(old): str(new) for new, old in enumerate(kept)}
    stem = backbone.layout.blocks + "."

    def renamed(names: frozenset[str]) -> frozenset[str]:
        inside = ((n.removeprefix(stem).partition(".")) for n in names if n.startswith(stem))
        moved = {f"{stem}{place[number]}.{rest}" for number, _, rest in inside if number in place}
        return frozenset(moved | {n for n in names if not n.startswith(stem)})

    backbone.own, backbone.pretrained = renamed(backbone.own), renamed(backbone.pretrained)
    left = [blocks.get_submodule(str(old)) for old in kept]
    blocks._modules.clear()
    for i, block in enumerate(left):
        blocks.add_module(str(i), block)
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = i  # type: ignore[assignment]
