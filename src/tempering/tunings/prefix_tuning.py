"""Trained keys and values before those of the text, in every layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import check_free, freeze
from tempering.tunings.attention_route import attention_layers
from tempering.tunings.deep_prefix import NAME, Shape, added, install


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PrefixTuning:
    """Puts ``p`` trained keys and values before those of the text in every layer of a frozen body.

    While training they come from an MLP of width ``m``, which is dropped when the model is saved; ``m: null`` trains them as they are
    (P-tuning v2). ``init: text`` starts from the keys and values that the body itself computes for ``text`` (repeated to fill p).

    *Paper*: Li and Liang 2021; Liu et al. 2022 (P-tuning v2: no MLP, dropout on the prefix). *Formula*: attention over [P_K; K] and
    [P_V; V], P [p, key heads * head_dim] in each of L layers: 2 L p d numbers; with the MLP (P_K; P_V) = tanh(E W^T + b) U^T + c, E
    (p, d), W (m, d), U (2 L d, m): p d + d m + m + (m + 1) 2 L d. Fewer where key heads are shared by query heads; where a decoder is
    open L counts its self-attention and its cross-attention too, each with a prefix of its own. *Needs*: a family
    whose attention function can be replaced (`tempering.tunings.attention_route`); checked on the model itself at `attach`. *Costs*: one
    pass with p more keys a layer, also when used: it does not merge. Not the backbone at the start, even with p zeros.
    *Differs*: real tokens keep their own positions, where PEFT, like P-tuning v2's code, moves them by p: a PEFT folder of this
    prefix scores differently, or is refused by PEFT in families that read no cache, so it is saved as a delta.
    """

    p: int = Field(default=30, ge=1)
    m: int | None = Field(default=512, ge=1)
    prefix_dropout: float = Field(default=0.0, ge=0, lt=1)
    init: Literal["random", "text"] = "random"
    text: str = ""
    init_std: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "no"
    merges: ClassVar[bool] = False

    @model_validator(mode="after")
    def _start_fits(self) -> PrefixTuning:
        if (self.init == "text") != bool(self.text.strip()):
            raise ValueError('init: text and a text belong together; give both, as in  init: text, text: "the film was"')
        if self.init == "text" and self.m is not None:
            raise ValueError("init: text sets the keys and values themselves, which an MLP would make anew; set m: null with it")
        return self

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, hang a prefix under every attention layer, and test that it arrives. One that is there is trained on."""
        layers = attention_layers(backbone, "prefix_tuning")
        for place in layers:
            check_free(place, NAME, (self.p,))
        freeze(backbone)
        if not added(backbone.model):
            install(backbone, layers, self.p, self.m, self.init_std, self.prefix_dropout, self.text)
        for module in added(backbone.model).values():
            module.requires_grad_(True)

    def merge(self, backbone: Backbone) -> None:
        """Refused: no weight of the body can hold more keys."""
        raise ModelError(
            "prefix_tuning cannot be merged: its keys and values stand beside those of the text, and no pretrained weight can take them"
            " in; keep it attached (then: keep), or use lora where one set of weights is wanted"
        )

    def eject(self, backbone: Backbone) -> None:
        """Drop the MLP and keep the keys and values it gives now: the same scores from 2 L p d numbers."""
        for _, layer in attention_layers(backbone, "prefix_tuning"):
            prefix: Any = layer.get_submodule(NAME)
            prefix.flatten()
        if getattr(backbone.model, NAME, None) is not None:
            delattr(backbone.model, NAME)

    def count(self, backbone: Backbone) -> int:
        """2 L p d for keys and values, or p d + d m + m + (m + 1) 2 L d for the MLP that makes them."""
        layers = attention_layers(backbone, "prefix_tuning")
        wide, d = len(layers) * Shape.of(backbone, self.p).width, backbone.hidden_size
        there = getattr(layers[0][1], NAME, None)
        if self.m is None or (there is not None and not there.trunk):
            return wide * self.p
        return self.p * d + d * self.m + self.m + (self.m + 1) * wide
