"""Training biases only."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import body_weights, places, size_of, train_only


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BitFit:
    """Trains the bias terms of the body and nothing else; with ``subset`` those of query and of the first feed-forward map only.

    *Paper*: Ben Zaken et al. 2022. *Formula*: y = W x + b with b free, in every linear map and norm, embeddings' norm and pooler
    counted in: L(9d + f + ...) = 102,912 numbers for BERT-base. *Needs*: a model with biases; families built without them
    (RMSNorm and bias-free linear maps) are refused. *Costs*: one pass; a backward pass through the whole body, but gradients
    and Adam's memory for a thousandth of it. *Differs*: where query, key and value are one map, ``subset`` trains
    the bias of all three.
    """

    subset: bool = False

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    trains_matrices: ClassVar[bool] = False
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True
    shards: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Train every bias, or those of the subset; a body without one is a `ModelError`."""
        names = self._names(backbone)  # refuses before anything is frozen
        train_only(backbone, lambda name: name in names)

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold: the change is in the weights."""

    def count(self, backbone: Backbone) -> int:
        """The number of bias terms."""
        names = self._names(backbone)
        return size_of(backbone, lambda name: name in names)

    def _names(self, backbone: Backbone) -> set[str]:
        found = {name for name in body_weights(backbone) if name.endswith(".bias")}
        if self.subset:
            found &= {f"{path}.bias" for path, _ in places(backbone, "bitfit", ("query", "ffn_in"))}
        if not found:
            raise ModelError(
                f"bitfit cannot serve {backbone.source}: it trains bias terms, and a {backbone.layout.family} model built like this one has"
                " none; use lora, or top_layers"
            )
        return found
