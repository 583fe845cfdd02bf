"""Full fine-tuning."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.tunings.attach import size_of, train_only


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Full:
    """Trains every weight of the body; with ``embeddings=False`` all but the embeddings.

    *Paper*: Devlin et al. 2019, section 4. *Formula*: theta free. *Needs*: any family. *Costs*: one pass; gradients and two Adam
    averages for every weight, 16 bytes a weight in fp32. *Differs*: ``embeddings=False`` is not in the paper; it freezes token,
    position and type embeddings with their norm and projection, which few labelled rows hardly move.
    """

    embeddings: bool = True

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True
    shards: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Train the body's own weights."""
        train_only(backbone, lambda name: self._trains(backbone, name))

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold: the change is in the weights."""

    def count(self, backbone: Backbone) -> int:
        """Size of the body, less the embeddings where they are left out."""
        return size_of(backbone, lambda name: self._trains(backbone, name))

    def _trains(self, backbone: Backbone, name: str) -> bool:
        return self.embeddings or backbone.depth(name) > 0
