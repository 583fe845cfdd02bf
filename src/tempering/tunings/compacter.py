"""Compacter: bottleneck adapters whose matrices are sums of Kronecker products, with factors shared over all blocks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Added, Place, check_free
from tempering.tunings.bottleneck import ACTIVATIONS, Activation, Adapter, AdapterTuning, trained_norms, width

RULE = "compacter_rule"


class Rule(Added):
    """A [n, n, n]: the n small matrices A_i of every map of every block."""

    def __init__(self, n: int, std: float) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(n, n, n))
        nn.init.normal_(self.A, std=std)
        self.setting = (n,)


class Kronecker(nn.Module):
    """x [..., inputs] -> x W^T + b with W^T = sum over i of A_i (x) (s_i t_i): s [n, inputs / n, 1], t [n, 1, outputs / n]."""

    def __init__(self, inputs: int, outputs: int, n: int) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.empty(n, inputs // n, 1))
        self.t = nn.Parameter(torch.empty(n, 1, outputs // n))
        self.bias = nn.Parameter(torch.zeros(outputs))
        for factor in (*self.s, *self.t):
            nn.init.xavier_uniform_(factor)

    def forward(self, x: Tensor, rule: Tensor) -> Tensor:
        """The map under the shared A (``rule``), made anew at each call: it is as small as a thin matrix."""
        n = len(rule)
        matrix = torch.einsum("iab,ipk,ikq->apbq", rule, self.s, self.t)
        return x @ matrix.reshape(n * self.s.shape[1], n * self.t.shape[2]) + self.bias


class Compact(Adapter):
    """h [..., d] -> h + U act(D h + b_D) + b_U, where D and U are `Kronecker` maps under one `Rule`."""

    def __init__(self, d: int, m: int, n: int, activation: str, rule: Rule) -> None:
        super().__init__()
        self.down, self.up = Kronecker(d, m, n), Kronecker(m, d, n)
        self.activation = ACTIVATIONS[activation]
        self.rule = (rule,)  # in a tuple: it hangs under the embeddings, once

    def forward(self, h: Tensor) -> Tensor:
        """The sub-layer's output, adapted."""
        if self.sits_out():
            return h
        rule = self.rule[0].A
        change: Tensor = self.up(self.activation(self.down(h, rule)), rule)
        return h + change


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Compacter(AdapterTuning):
    """Adds adapters of a few hundred numbers each after both sub-layers of every block, and trains all norms.

    ``plus`` is Compacter++: adapters after the feed-forward sub-layer only. ``m`` is by default the hidden size over ``reduction``.

    *Paper*: Karimi Mahabadi et al. 2021. *Formula*: h + U act(D h + b_D) + b_U before the residual addition; each matrix is the sum over
    i = 1 .. n of A_i (x) s_i t_i, A_i (n, n) one for all maps and blocks, normal with ``init_std``, and factors s_i, t_i of rank one,
    Glorot-uniform: P L (2(d + m) + m + d) + n^3 numbers with P = 2 places a block (1 with ``plus``), and the norms' own with
    ``layer_norm``. *Needs*: d and m that n divides; a family in the table of architectures. *Costs*: one pass, two thin products a
    place, also when used: it does not merge. *Differs*: nothing from the authors' code, whose place is Houlsby's.
    """

    n: int = Field(default=4, ge=1)
    m: int | None = Field(default=None, ge=1)
    reduction: int = Field(default=32, ge=1)
    plus: bool = False
    init_std: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    activation: Activation = "gelu"
    layer_norm: bool = True

    method: ClassVar[str] = "compacter"
    identity: ClassVar[Literal["exact", "near", "no"]] = "near"

    @property
    def trains_pretrained(self) -> bool:
        """Whether norms, which are pretrained weights, are trained."""
        return self.layer_norm

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, add the adapters, train them and the norms. Adapters that a stage before left are trained on."""
        self.width(backbone)
        check_free(("the embeddings", backbone.embeddings), RULE, (self.n,))
        if getattr(backbone.embeddings, RULE, None) is None:
            like = backbone.embeddings.get_parameter("weight")
            self.places(backbone)  # refuses before anything is added
            backbone.embeddings.add_module(RULE, Rule(self.n, self.init_std).to(like.device, like.dtype))
        super().attach(backbone)
        for weight in (*self._rule(backbone).parameters(), *self._norms(backbone)):
            weight.requires_grad_(True)

    def count(self, backbone: Backbone) -> int:
        """P L (2(d + m) + m + d) + n^3, and with ``layer_norm`` the size of all norms."""
        both = backbone.hidden_size + self.width(backbone)
        return len(self.places(backbone)) * 3 * both + self.n**3 + sum(w.numel() for w in self._norms(backbone))

    def places(self, backbone: Backbone) -> list[Place]:
        """Both sub-layers' results, or that of the feed-forward one, in every block that is not dropped."""
        return self.above(backbone, *(() if self.plus else ("attention_output",)), "ffn_output")

    def make(self, backbone: Backbone) -> Compact:
        """A new adapter."""
        return Compact(backbone.hidden_size, self.width(backbone), self.n, self.activation, self._rule(backbone))

    def setting(self, backbone: Backbone) -> tuple[object, ...]:
        """Width, number of products and activation."""
        return self.width(backbone), self.n, self.activation

    def width(self, backbone: Backbone) -> int:
        """Units of a bottleneck: a multiple of n, as the hidden size must be."""
        d, found = backbone.hidden_size, width(self.method, backbone, self.m, self.reduction)
        if d % self.n or found % self.n:
            fits = [n for n in range(1, self.n) if not d % n and not found % n]
            raise ModelError(
                f"compacter: n = {self.n} must divide the hidden size of {backbone.source} ({d}) and the adapter's width ({found});"
                f" give n={fits[-1] if fits else 1}, or m as a multiple of n"
            )
        return found

    def _rule(self, backbone: Backbone) -> Rule:
        found: Any = backbone.embeddings.get_submodule(RULE)
        return found  # type: ignore[no-any-return]

    def _norms(self, backbone: Backbone) -> list[nn.Parameter]:
        return trained_norms(backbone, self.drop_layers) if self.layer_norm else []
