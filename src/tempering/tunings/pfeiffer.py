"""One bottleneck adapter a block, after the feed-forward sub-layer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.tunings.bottleneck import Activation, FeedForwardTuning, Narrow, width
from tempering.tunings.invertible import check_invertible, hang_invertible, invertible_size


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Pfeiffer(FeedForwardTuning):
    """Adds a bottleneck after the feed-forward sub-layer of every block and trains nothing else; norms stay frozen.

    ``m`` is the bottleneck's width, by default the hidden size over ``reduction``. With ``invertible`` an invertible adapter follows
    the embeddings (`tempering.tunings.invertible`): with reduction 2, trained under masked_lm, that is MAD-X's language adapter.
    ``drop_layers`` leaves out the adapters of so many lowest blocks, ``robust`` of a number drawn in every training pass (AdapterDrop,
    Rücklé et al. 2021).

    *Paper*: Pfeiffer et al. 2021 (AdapterFusion), 2020 (MAD-X). *Formula*: with x the sub-layer's input, h its result, U (d, m),
    D (m, d): families that normalize after the addition: LN(x + h + U act(D n + b_D) + b_U), n = LN(x + h), the same pretrained norm
    twice; families that normalize before: x + h + U act(D h + b_D) + b_U. L(2md + m + d) numbers. *Needs*: a family in the table of
    architectures. *Costs*: one pass, two thin products a block, also when used: it does not merge. *Differs*: weights start normal with
    ``init_std``, cut at two of them, as Houlsby's do; the ``adapters`` library draws with 0.02. Where norms come first that library
    reads the unnormalized sum x + h, which grows with depth; here h is read.
    """

    m: int | None = Field(default=None, ge=1)
    reduction: int = Field(default=16, ge=1)
    init_std: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    activation: Activation = "relu"
    invertible: bool = False

    method: ClassVar[str] = "pfeiffer"
    shards: ClassVar[bool] = True
    trains_pretrained: ClassVar[bool] = False
    identity: ClassVar[Literal["exact", "near", "no"]] = "near"

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, add the adapters and train them. Adapters that a stage before left are trained on."""
        if self.invertible:
            check_invertible(self.method, backbone, frozen=False)
        super().attach(backbone)
        if self.invertible:
            hang_invertible(backbone, self.init_std, frozen=False)

    def count(self, backbone: Backbone) -> int:
        """L(2md + m + d), and the invertible adapter's own."""
        d, m = backbone.hidden_size, self.width(backbone)
        return len(self.places(backbone)) * (2 * m * d + m + d) + (invertible_size(backbone) if self.invertible else 0)

    def make(self, backbone: Backbone) -> Narrow:
        """A new adapter."""
        return Narrow(backbone.hidden_size, self.width(backbone), self.init_std, self.activation)

    def setting(self, backbone: Backbone) -> tuple[object, ...]:
        """Width and activation."""
        return self.width(backbone), self.activation

    def width(self, backbone: Backbone) -> int:
        """Units of a bottleneck."""
        return width(self.method, backbone, self.m, self.reduction)
