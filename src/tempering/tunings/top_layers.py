"""Training the top of the network only."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import size_of, train_only


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TopLayers:
    """Trains the top ``k`` blocks, or those that ``layers`` numbers, and what lies above the last one (pooler, final norm); nothing else.

    ``layers`` counts from 0 at the bottom or from -1 at the top: ``layers: [0, -1]``. One of the two is given; an override of one in a
    recipe that sets the other takes its place.

    *Paper*: Houlsby et al. 2019, section 3.2 ("variable fine-tuning"). *Formula*: theta of depth > L - k free. *Needs*: a family
    with separate blocks and k <= L. *Costs*: one forward pass, a backward pass down to the lowest trained block, Adam's memory for
    the trained blocks only. *Differs*: the choice by ``layers`` is not in the paper; a head is counted apart, as everywhere.
    """

    k: int = Field(default=1, ge=1)
    layers: tuple[int, ...] = ()

    one_of: ClassVar[tuple[str, ...]] = ("k", "layers")
    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True

    @model_validator(mode="after")
    def _either(self) -> TopLayers:
        if self.layers and self.k != 1:
            raise ValueError("k counts blocks from the top and layers names them; give one of the two")
        return self

    def attach(self, backbone: Backbone) -> None:
        """Train the chosen blocks and what lies above the last one; a block that is not there is a `ModelError`."""
        depths = self._depths(backbone)
        train_only(backbone, lambda name: backbone.depth(name) in depths)

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold: the change is in the weights."""

    def count(self, backbone: Backbone) -> int:
        """Size of the chosen blocks and of what lies above the last one."""
        depths = self._depths(backbone)
        return size_of(backbone, lambda name: backbone.depth(name) in depths)

    def _depths(self, backbone: Backbone) -> set[int]:
        """Heights of what is trained: 1 .. L for blocks, L + 1 above them."""
        backbone.layout.require("top_layers", "blocks")
        there = len(backbone.blocks)
        if self.k > there:
            raise ModelError(
                f"top_layers: k = {self.k}, but {backbone.source} has {there} blocks; give k between 1 and {there}, or use full"
            )
        wrong = [i for i in self.layers if not -there <= i < there]
        if wrong:
            raise ModelError(
                f"top_layers: layers names block {wrong[0]}, but {backbone.source} has {there} blocks; give numbers from 0 to {there - 1},"
                f" or from -1 (the top) to -{there}"
            )
        chosen = self.layers or range(there - self.k, there)
        return {i % there + 1 for i in chosen} | {there + 1}
