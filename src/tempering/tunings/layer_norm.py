"""Training normalization layers only."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import norms, size_of, train_only


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LayerNormOnly:
    """Trains gain and bias of every norm of the body and nothing else.

    *Paper*: Zhao et al. 2024 (LN-tuning); Qi et al. 2022. *Formula*: y = g * norm(x) + b with g and b free, in all norms: 2d(2L + 1)
    numbers where two norms stand in each block and one after the embeddings: 38,400 for BERT-base. *Needs*: norms with weights; where
    a norm has a gain only, the gain. *Costs*: one pass; a backward pass through the whole body, gradients and Adam's memory for
    next to nothing; wants a high learning rate. *Differs*: nothing.
    """

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    trains_matrices: ClassVar[bool] = False
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Train every norm; a body without one is a `ModelError`."""
        names = _names(backbone)
        train_only(backbone, lambda name: name in names)

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold: the change is in the weights."""

    def count(self, backbone: Backbone) -> int:
        """The size of all norms."""
        names = _names(backbone)
        return size_of(backbone, lambda name: name in names)


def _names(backbone: Backbone) -> set[str]:
    """The norms' weights; a body without one is refused before anything is frozen."""
    found = {f"{path}.{n}" for path, norm in norms(backbone).items() for n, _ in norm.named_parameters(recurse=False)}
    if not found:
        raise ModelError(
            f"layer_norm cannot serve {backbone.source}: it trains norms, and a {backbone.layout.family} model built like this one has none"
            " with weights; use lora, or full"
        )
    return found
