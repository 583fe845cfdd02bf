"""A frozen backbone."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.tunings.attach import freeze


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Frozen:
    """Trains nothing of the backbone, which runs without dropout; only what the framing adds is trained.

    *Paper*: the feature-based approach of Devlin et al. 2019, section 5.3. *Formula*: theta = theta0. *Needs*: any family.
    *Costs*: one forward pass for each text in the whole run, since its output may be computed once and kept; no backward pass
    through the body. *Differs*: dropout inside the body is off, so that the output is a constant.
    """

    trunk_eval: ClassVar[bool] = True
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = False
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Train nothing."""
        freeze(backbone)

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold: nothing has changed."""

    def count(self, backbone: Backbone) -> int:
        """Zero."""
        return 0
