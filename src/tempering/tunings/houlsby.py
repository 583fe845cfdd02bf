"""Bottleneck adapters after both sub-layers of every block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Added, Place, check_free, freeze, norms, places, plug

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "tanh": nn.functional.tanh,
}


class Bottleneck(Added):
    """h [..., d] -> h + U act(D h + b_D) + b_U, with D (m, d) and U (d, m)."""

    def __init__(self, d: int, m: int, std: float, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(d, m)
        self.up = nn.Linear(m, d)
        self.activation = ACTIVATIONS[activation]
        self.setting = (m, activation)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        """The sub-layer's output, adapted."""
        change: Tensor = self.up(self.activation(self.down(h)))
        return h + change


def _adapt(sublayer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook: reads the adapter from the sub-layer, so that swapped weights are seen."""
    adapted: Tensor = sublayer.get_submodule("houlsby")(output)
    return adapted


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Houlsby:
    """Adds a bottleneck after the attention and after the feed-forward sub-layer of every block, and trains all norms.

    *Paper*: Houlsby et al. 2019. *Formula*: h + U act(D h + b_D) + b_U before the residual addition, D (m, d) and U (d, m) normal
    with ``init_std``, cut at two of them: 2L(2md + m + d) numbers, and the norms' own with ``layer_norm``. *Needs*: a family in the
    table of architectures. *Costs*: one pass, two thin products a sub-layer, also when used: it does not merge. *Differs*:
    ``init_std`` 1e-3 is that of the authors' code, the paper says 1e-2. Where blocks share weights they share one pair of adapters;
    norms without a bias train their gain.
    """

    m: int = Field(default=64, ge=1)
    init_std: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    activation: Literal["gelu", "relu", "silu", "tanh"] = "gelu"
    layer_norm: bool = True

    trunk_eval: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    trains_matrices: ClassVar[bool] = False
    identity: ClassVar[Literal["exact", "near", "no"]] = "near"
    merges: ClassVar[bool] = False

    @property
    def trains_pretrained(self) -> bool:
        """Whether norms, which are pretrained weights, are trained."""
        return self.layer_norm

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, add the adapters, train them and the norms. Adapters that a stage before left are trained on."""
        found = self._places(backbone)
        for place in found:
            check_free(place, "houlsby", (self.m, self.activation))
        freeze(backbone)
        make = partial(Bottleneck, backbone.hidden_size, self.m, self.init_std, self.activation)
        for _, sublayer in found:
            plug(sublayer, "houlsby", make, _adapt, backbone.embeddings.get_parameter("weight"))
        for norm in norms(backbone).values() if self.layer_norm else ():
            for weight in norm.parameters(recurse=False):
                weight.requires_grad_(True)

    def merge(self, backbone: Backbone) -> None:
        """Refused: a non-linear map cannot be folded into a linear one."""
        raise ModelError(
            "houlsby cannot be merged: an adapter is a non-linear map of its own, which no pretrained weight can take in;"
            " keep it attached (then: keep), or use lora where one set of weights is wanted"
        )

    def count(self, backbone: Backbone) -> int:
        """2L(2md + m + d), and with ``layer_norm`` the size of all norms."""
        d, m = backbone.hidden_size, self.m
        added = len(self._places(backbone)) * (2 * m * d + m + d)
        own = (w.numel() for norm in norms(backbone).values() for w in norm.parameters(recurse=False))
        return added + (sum(own) if self.layer_norm else 0)

    def _places(self, backbone: Backbone) -> list[Place]:
        return places(backbone, "houlsby", ("attention_output", "ffn_output"))
