"""AdapterFusion: attention over several trained adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Hooks, Probe, Weights
from tempering.errors import ModelError
from tempering.tunings.bottleneck import Activation, Adapter, FeedForwardTuning, Narrow, as_buffers
from tempering.tunings.pfeiffer import Pfeiffer
from tempering.tunings.saved_adapters import fill, read_adapters

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes


class Fused(Adapter):
    """h [..., d] -> sum over k of a_k V v_k, with v_k the change of adapter k at h and a = softmax over k of (Q h) . (K v_k)."""

    def __init__(self, adapters: list[Narrow], d: int, dropout: float) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapters)
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.drop_scores = nn.Dropout(dropout)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.value.weight, 1e-6)
        self.value.weight.detach().fill_diagonal_(1.0)

    def forward(self, h: Tensor) -> Tensor:
        """What is added to the residual sum."""
        if self.sits_out():
            return h.new_zeros(())
        v = torch.stack([adapter(h) for adapter in self.adapters], dim=-2)
        scores = torch.einsum("...d,...kd->...k", self.query(h), self.key(v))
        weights = self.drop_scores(scores).softmax(-1)
        return torch.einsum("...k,...kd->...d", weights, self.value(v))


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Fusion(FeedForwardTuning):
    """Trains an attention over several frozen adapters that earlier runs have trained, anew in every block and for every token.

    ``adapters`` are folders that were fitted with tuning pfeiffer on the same backbone; ``m``, ``reduction`` and ``activation`` are
    theirs. ``new`` adds so many fresh adapters that are trained along. The folders are read when training begins; the model that is
    saved holds all it needs. ``drop_layers`` leaves out the adapters of so many lowest blocks, ``robust`` of a number drawn in every
    training pass (AdapterDrop, Rücklé et al. 2021).

    *Paper*: Pfeiffer et al. 2021. *Formula*: at the place of Pfeiffer's adapter, which reads h [..., d] and adds v_k: a = softmax over k of
    (Q h) . (K v_k), not scaled; added is sum over k of a_k V v_k. Q and K normal with 0.02, V the identity with 1e-6 beside its
    diagonal; the loss gains ``value_penalty`` sum over blocks of ||V - I||^2: L(3d^2 + 2d) numbers. *Needs*: two adapters or more.
    *Costs*: one pass with K adapters and three d x d maps a block: 21 million trained numbers for BERT-base, more than all the
    adapters together. It does not merge. *Differs*: ``new`` is not in the paper. v_k and h are what the authors' code takes: the change
    without the residual, and the normalized sum.
    """

    adapters: tuple[str, ...] = ()
    new: int = Field(default=0, ge=0)
    m: int | None = Field(default=None, ge=1)
    reduction: int = Field(default=16, ge=1)
    activation: Activation = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    value_penalty: float = Field(default=0.01, ge=0, allow_inf_nan=False)

    method: ClassVar[str] = "fusion"
    trains_pretrained: ClassVar[bool] = False
    identity: ClassVar[Literal["exact", "near", "no"]] = "near"
    touches: ClassVar[tuple[str, ...]] = ("term",)

    @property
    def neutral(self) -> bool:
        """Nothing is added to the loss without a penalty."""
        return self.value_penalty == 0

    def prepare(self, learner: Learner, probe: Probe) -> None:
        """Read the adapters' weights from their folders."""
        self.read(learner.backbone)

    def check_files(self, backbone: Backbone) -> None:
        """Refuse a folder that is missing or holds other adapters, before anything is trained."""
        for k, folder in enumerate(self.adapters):
            read_adapters(f"fusion.adapters.{k}", folder, backbone, self.member)

    def read(self, backbone: Backbone) -> None:
        """Fill the frozen adapters of every block from the folders."""
        for k, folder in enumerate(self.adapters):
            tensors = read_adapters(f"fusion.adapters.{k}", folder, backbone, self.member)
            for path, place in self.places(backbone):
                fused: Any = place.get_submodule(self.method)
                fill(fused.adapters[k], tensors, f"{path}.{self.member.method}.")

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """The penalty that holds every V near the identity."""
        values = [weight for name, weight in trained.items() if name.endswith(f".{self.method}.value.weight")]

        def term(passes: Passes) -> Tensor:
            return self.value_penalty * torch.stack([(V - torch.eye(len(V), device=V.device)).square().sum() for V in values]).sum()

        return Hooks(term=term)

    def count(self, backbone: Backbone) -> int:
        """L(3d^2 + 2d), and L(2md + m + d) for every new adapter."""
        d, m, places = backbone.hidden_size, self.member.width(backbone), self.places(backbone)
        self._check()
        return len(places) * (3 * d * d + 2 * d + self.new * (2 * m * d + m + d))

    def make(self, backbone: Backbone) -> Fused:
        """A new fusion over adapters that are yet blank, or new."""
        frozen = [as_buffers(self.member.make(backbone)) for _ in self.adapters]
        return Fused([*frozen, *(self.member.make(backbone) for _ in range(self.new))], backbone.hidden_size, self.dropout)

    def setting(self, backbone: Backbone) -> tuple[object, ...]:
        """The adapters and what they are."""
        self._check()
        return self.adapters, self.new, *self.member.setting(backbone)

    @property
    def member(self) -> Pfeiffer:
        """What each fused adapter is."""
        return Pfeiffer(m=self.m, reduction=self.reduction, activation=self.activation)

    def _check(self) -> None:
        if len(self.adapters) + self.new < 2:
            raise ModelError(
                f"fusion: {len(self.adapters)} adapters and {self.new} new ones leave nothing to choose from; give at least two folders in"
                " adapters that were fitted with tuning pfeiffer on this model, or one and new=1"
            )
