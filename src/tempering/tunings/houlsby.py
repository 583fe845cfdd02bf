"""Bottleneck adapters after both sub-layers of every block."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from tempering.backbone import Backbone
from tempering.tunings.attach import Place
from tempering.tunings.bottleneck import Activation, AdapterTuning, Bottleneck, trained_norms, width


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Houlsby(AdapterTuning):
    """Adds a bottleneck after the attention and after the feed-forward sub-layer of every block, and trains all norms.

    *Paper*: Houlsby et al. 2019. *Formula*: h + U act(D h + b_D) + b_U before the residual addition, D (m, d) and U (d, m) normal
    with ``init_std``, cut at two of them: 2L(2md + m + d) numbers, and the norms' own with ``layer_norm``. ``drop_layers`` leaves out the
    adapters of so many lowest blocks, ``robust`` of a number drawn in every training pass (AdapterDrop, Rücklé et al. 2021).
    *Needs*: a family in the table of architectures. *Costs*: one pass, two thin products a sub-layer, also when used: it does not
    merge. *Differs*: ``init_std`` 1e-3 is that of the authors' code, the paper says
    1e-2. Where blocks share weights they share one pair of adapters; norms without a bias train their gain; norms below the lowest
    adapter are frozen with ``drop_layers``.
    """

    m: int = Field(default=64, ge=1)
    init_std: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    activation: Activation = "gelu"
    layer_norm: bool = True

    method: ClassVar[str] = "houlsby"
    shards: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "near"

    @property
    def trains_pretrained(self) -> bool:
        """Whether norms, which are pretrained weights, are trained."""
        return self.layer_norm

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, add the adapters, train them and the norms. Adapters that a stage before left are trained on."""
        super().attach(backbone)
        for weight in self._norm_weights(backbone):
            weight.requires_grad_(True)

    def count(self, backbone: Backbone) -> int:
        """2L(2md + m + d), and with ``layer_norm`` the size of all norms."""
        d, m = backbone.hidden_size, width(self.method, backbone, self.m)
        return len(self.places(backbone)) * (2 * m * d + m + d) + sum(w.numel() for w in self._norm_weights(backbone))

    def places(self, backbone: Backbone) -> list[Place]:
        """Both sub-layers' results in every block that is not dropped."""
        return self.above(backbone, "attention_output", "ffn_output")

    def make(self, backbone: Backbone) -> Bottleneck:
        """A new adapter."""
        return Bottleneck(backbone.hidden_size, width(self.method, backbone, self.m), self.init_std, self.activation)

    def setting(self, backbone: Backbone) -> tuple[object, ...]:
        """Width and activation."""
        return width(self.method, backbone, self.m), self.activation

    def _norm_weights(self, backbone: Backbone) -> list[nn.Parameter]:
        """Those that are trained: of all norms, or of those above the dropped blocks."""
        return trained_norms(backbone, self.drop_layers) if self.layer_norm else []
