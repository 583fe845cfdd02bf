"""Training the entries with the largest Fisher information."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from tempering.contracts import Probe
from tempering.tunings.mask import Mask
from tempering.tunings.sparse import add_each

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FISH(Mask):
    """Trains the share of all weights on which the loss depends most at the start, and no other.

    ``labels`` are the rows' own ("true": the empirical Fisher information) or drawn from the model's prediction ("sampled").

    *Paper*: Sung et al. 2021. *Formula*: theta = theta0 + delta on the K = round(density x maskable) entries with the largest
    F_i = sum over ``rows`` rows of (d loss / d theta_i)^2, one row at a time; the mask stays. *Needs*: labels, any family.
    *Costs*: ``rows`` backward passes before training; then one pass with a copy of the weights, gradients as of full fine-tuning,
    Adam's memory for K numbers; none once merged. *Differs*: the authors' code takes the head's size off the budget; here the head
    is counted apart. Dropout is off while F is measured, so that the mask depends on the rows only. Of equal entries at the edge
    the first are taken, so that there are exactly K.
    """

    rows: int = Field(default=1024, ge=1)
    labels: Literal["true", "sampled"] = "true"

    method: ClassVar[str] = "fish"

    def prepare(self, learner: Learner, probe: Probe) -> None:
        """Measure F and choose."""
        if self.settled(learner.backbone):
            return
        chosen, bank = self.chosen(learner.backbone), self.bank(learner.backbone)
        total = torch.zeros(bank.bounds[-1], device=bank.values.device)
        for found in probe.gradients(self.rows, sampled=self.labels == "sampled"):
            add_each(total, {name: g.square() for name, g in found.items()}, chosen)
        bank.choose(total)
