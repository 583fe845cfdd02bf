"""The base of the tunings that choose entries all over the body: one count, one way to attach and to merge."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from tempering.backbone import Backbone
from tempering.tunings.sparse import Bank, entries, maskable, merge_bank, plug_bank


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Mask(ABC):  # noqa: B024
    """Trains K = round(density x maskable) entries. ``method`` is the name its bank has in the body.

    ``layer_norm`` counts gains and biases of norms among the maskable weights. A head is always trained whole and counted apart.
    """

    density: float = Field(default=0.005, gt=0, le=1)
    layer_norm: bool = True

    method: ClassVar[str] = ""
    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False  # their change is trained; they stay
    changes_matrices: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and train the changes of K entries, which start at zero."""
        self.plug(backbone)

    def plug(self, backbone: Backbone) -> bool:
        """Attach; whether the bank is new. One of an earlier stage is trained on with the entries it has."""
        chosen = self.chosen(backbone)
        count = entries(backbone, self.method, self.density, chosen)
        return plug_bank(backbone, self.method, chosen, count, (self.density, self.layer_norm))

    def merge(self, backbone: Backbone) -> None:
        """Add the changes to the weights; the merged weights are those of the last pass, bit for bit."""
        merge_bank(backbone, self.method, self.chosen(backbone))

    def count(self, backbone: Backbone) -> int:
        """round(density x maskable numbers)."""
        return entries(backbone, self.method, self.density, self.chosen(backbone))

    def chosen(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        """The maskable weights in their order."""
        return maskable(backbone, self.layer_norm)

    def bank(self, backbone: Backbone) -> Bank:
        """The attached bank."""
        found: Bank = getattr(backbone.model, self.method)
        return found

    def settled(self, backbone: Backbone) -> bool:
        """Whether an earlier stage has trained this bank: its entries are then not chosen anew."""
        return bool(self.bank(backbone).values.any())
