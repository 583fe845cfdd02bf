"""What a framing re-estimates over all training rows: when, from what, and who must forget what they knew of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Batch, Weights
from tempering.learner import Learner
from tempering.streams import numpy_stream
from tempering.train import optimizer
from tempering.train.evaluate import telling
from tempering.train.feed import Feed
from tempering.train.hooks import Folded

if TYPE_CHECKING:
    from tempering.train.fit import Plan, Run


@dataclass
class TrainingRows:
    """A `tempering.framings.module.Support` over the rows of one feed, by the weights as they are."""

    learner: Learner
    feed: Feed
    step: int

    def __post_init__(self) -> None:
        self.rng = numpy_stream(self.feed.seeds.init, "refresh", self.step)

    @cached_property
    def targets(self) -> Sequence[Any]:
        """Those of all rows; a framing that does not read them does not pay for them."""
        return [p.target for p in self.feed.prompts()]

    def trunk(self, rows: Sequence[int] | None = None) -> Tensor:
        """What the framing reads of the backbone for all rows, or some: [rows, dim]. Of a cached trunk, the cache."""
        chosen = np.arange(len(self.targets)) if rows is None else np.asarray(rows)
        if self.feed.features is not None:
            return self.feed.features[torch.from_numpy(chosen)]
        prompts, learner = self.feed.prompts(), self.learner

        def work(batch: Batch) -> Tensor:
            trunk: Tensor = learner.framing.trunk(learner.backbone, batch)
            return trunk.float()

        return learner.outputs([prompts[int(i)] for i in chosen], self.feed.settings.per_device_eval_batch_size, work)


@dataclass(frozen=True)
class Refresh:
    """Calls the framing's ``refresh`` before the first step and at its marks: every ``refresh_steps`` steps, or where an epoch ends.

    Marks lie where ``eval_strategy: epoch`` evaluates, and the last step has none. A run that is resumed at a mark comes here again, as
    its checkpoint was written before: nothing of this has to be saved.
    """

    learner: Learner
    feed: Feed
    plan: Plan
    folded: Folded
    trained: Weights
    optim: torch.optim.Optimizer
    steps: int

    @property
    def marks(self) -> frozenset[int]:
        """The steps before which it acts."""
        every = self.learner.framing.refresh_steps
        strategy = "steps" if every else "epoch"
        return (self.plan.settings.marks(strategy, every or 1, self.steps) | {0}) - {self.steps}

    def __call__(self, run: Run) -> None:
        """Refresh if it is time to. What was placed anew is new to the optimizer and to every method's state, too."""
        if run.step not in self.marks:
            return
        framing = self.learner.framing
        with telling(self.learner, self.plan.listener):
            renewed: Mapping[str, Tensor] = framing.refresh(TrainingRows(self.learner, self.feed, run.step))
        for name, rows in renewed.items():
            optimizer.renew(self.optim, f"framing.{name}", rows)
            self.folded.renew(f"framing.{name}", self.trained, rows)
        facts: dict[str, float] = framing.facts()
        if facts:
            run.facts.append({"step": run.step, **facts})
            self.plan.listener({"event": "refresh", "step": run.step, "total": self.steps, "facts": facts})
