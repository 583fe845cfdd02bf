"""Lottery-ticket sparse fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Probe, Weights
from tempering.passes import Passes
from tempering.tunings.dense import Dense
from tempering.tunings.mask import Mask
from tempering.tunings.sparse import flat

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LTSFT(Mask):
    """Trains the share of all weights that a first, full run changed most, again from the pretrained weights, and no other.

    ``epochs`` is the length of the first run (None: that of the stage), ``l1`` weighs the mean absolute change in both runs (the
    paper: 0.1 for language modeling, 0 for tasks). Changes of one base add up: theta0 + delta_language + delta_task.

    *Paper*: Ansell et al. 2022. *Formula*: theta1 from a full run; theta = theta0 + delta on the K = round(density x maskable)
    entries with the largest |theta1 - theta0|; loss + l1 / maskable ||theta - theta0||_1. *Needs*: any family. *Costs*: a full
    fine-tuning run before training; then one pass with a copy of the weights, gradients as of full fine-tuning, Adam's memory for K
    numbers; none once merged. *Differs*: one round of choosing (the authors' code can split K over several); exactly K entries, of
    equal ones the first (the code takes all at the threshold); changes below 1e-7 are kept.
    """

    density: float = Field(default=0.08, gt=0, le=1)
    layer_norm: bool = False
    epochs: float | None = Field(default=3.0, gt=0)
    l1: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    method: ClassVar[str] = "lt_sft"
    touches: ClassVar[tuple[str, ...]] = ("term",)

    @property
    def neutral(self) -> bool:
        """Without a penalty nothing is done while training."""
        return self.l1 == 0.0

    def prepare(self, learner: Learner, probe: Probe) -> None:
        """Run densely on a copy, choose what changed most; the learner itself has not moved: that is the rewind."""
        if self.settled(learner.backbone):
            return
        chosen = self.chosen(learner.backbone)
        before = flat({f"backbone.model.{n}": w.detach() for n, w in chosen.items()}, chosen)
        after = probe.fine_tuned(Dense(self.layer_norm, self._penalty), self.epochs)
        self.bank(learner.backbone).choose((flat(after, chosen) - before).abs())

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """The penalty on the changes of the chosen entries."""
        bank = self.bank(learner.backbone)
        return Hooks(term=lambda passes: bank.values.abs().sum() * (self.l1 / bank.bounds[-1]))

    def _penalty(self, trained: Weights) -> Hooks:
        """The same penalty in the first run, where every maskable weight may change."""
        if not self.l1:
            return Hooks()
        start = {n: w.detach().clone() for n, w in trained.items()}
        total = sum(w.numel() for w in start.values())

        def term(passes: Passes) -> Tensor:
            return torch.stack([(w - start[n]).abs().sum() for n, w in trained.items()]).sum() * (self.l1 / total)

        return Hooks(term=term)
