"""Training the largest weights."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.restoring import is_restoring
from tempering.tunings.mask import Mask


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MagnitudeMask(Mask):
    """Trains the share of all weights that is largest in absolute value (or smallest), and no other; no data is looked at.

    *Paper*: after Han et al. 2015, who prune by magnitude; here the criterion chooses what is trained, and nothing is pruned.
    *Formula*: theta = theta0 + delta on the K = round(density x maskable) entries with the largest |theta0_i|. *Needs*: any family.
    *Costs*: nothing before training; then one pass with a copy of the weights, gradients as of full fine-tuning, Adam's memory for K
    numbers; none once merged. *Differs*: see the paper's line; with ``keep: smallest`` the least entries are trained, which magnitude
    pruning would take away.
    """

    keep: Literal["largest", "smallest"] = "largest"

    method: ClassVar[str] = "magnitude"

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, choose by magnitude, and train the changes, which start at zero."""
        fresh, bank = self.plug(backbone), self.bank(backbone)
        if fresh and not bank.values.is_meta and not is_restoring():
            size = torch.cat([w.detach().reshape(-1).abs() for w in self.chosen(backbone).values()])
            bank.choose(size if self.keep == "largest" else -size)
