"""Training the top of the network only."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import size_of, train_only


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TopLayers:
    """Trains the top ``k`` blocks and all that lies above them (pooler, final norm); embeddings and lower blocks are frozen.

    *Paper*: Houlsby et al. 2019, section 3.2 ("variable fine-tuning"). *Formula*: theta of depth > L - k free. *Needs*: a family
    with separate blocks and k <= L. *Costs*: one forward pass, a backward pass through k blocks, Adam's memory for them only.
    *Differs*: nothing; a head is counted apart, as everywhere.
    """

    k: int = Field(default=1, ge=1)

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Train what lies above block L - k; k > L is a `ModelError` that says how many blocks there are."""
        floor = self._floor(backbone)
        train_only(backbone, lambda name: backbone.depth(name) > floor)

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold: the change is in the weights."""

    def count(self, backbone: Backbone) -> int:
        """Size of the top k blocks and of what lies above them."""
        floor = self._floor(backbone)
        return size_of(backbone, lambda name: backbone.depth(name) > floor)

    def _floor(self, backbone: Backbone) -> int:
        backbone.layout.require("top_layers", "blocks")
        there = len(backbone.blocks)
        if self.k > there:
            raise ModelError(
                f"top_layers: k = {self.k}, but {backbone.source} has {there} blocks; give k between 1 and {there}, or use full"
            )
        return there - self.k
