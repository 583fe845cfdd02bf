"""Training the weights that fine-tuning moves away from zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Probe, Weights
from tempering.tunings.dense import Dense
from tempering.tunings.mask import Mask
from tempering.tunings.sparse import flat

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MovementMask(Mask):
    """Trains the share of all weights that a dense run pushes furthest away from zero, and no other.

    ``epochs`` is the length of the dense run (None: that of the stage), ``dense_rate`` the learning rate of the body in it as a share
    of the stage's: all weights together want a small rate, a few of them alone a large one.

    *Paper*: after Sanh et al. 2020, who prune by this score; here it chooses what is trained, and nothing is pruned. *Formula*:
    S_i = -sum over the steps t of a dense run of (d loss / d theta_i)(t) theta_i(t); theta = theta0 + delta on the
    K = round(density x maskable) entries with the largest S_i, from theta0. *Needs*: any family. *Costs*: a full fine-tuning run
    before training, with one more number a weight; then one pass with a copy of the weights, Adam's memory for K numbers; none once
    merged. *Differs*: the paper masks while the score grows, raises the share step by step and keeps the masked network; here the
    dense run is unmasked and thrown away. The learning rate, a common factor but for its schedule, is left out of S.
    """

    epochs: float | None = Field(default=1.0, gt=0)
    dense_rate: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    method: ClassVar[str] = "movement"

    def prepare(self, learner: Learner, probe: Probe) -> None:
        """Run densely on a copy, add up S, choose."""
        if self.settled(learner.backbone):
            return
        score: Weights = {}

        def watch(trained: Weights) -> Hooks:
            score.update({n: torch.zeros_like(w) for n, w in trained.items()})

            def gradient(name: str, found: Tensor) -> float:
                if name in score:
                    score[name].addcmul_(found, trained[name].detach(), value=-1)
                return 1.0

            return Hooks(gradient=gradient, rate=lambda name, progress: self.dense_rate if name in score else 1.0)

        probe.fine_tuned(Dense(self.layer_norm, watch), self.epochs)
        self.bank(learner.backbone).choose(flat(score, self.chosen(learner.backbone)))
