"""What the tests of stabilizers share: a learner before its first step, and the passes of one micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tempering.contracts import Hooks, Seeds
from tempering.learner import Learner
from tempering.passes import Passes
from tempering.stages.setup import assemble
from tempering.stages.train import Train
from tempering.train import hooks
from tests.tiny import tiny_backbone, tiny_task


class Step:
    """A learner, started stabilizers, and one micro-batch of 8 rows."""

    def __init__(self, stabilizers: Sequence[Any] = (), family: str = "bert", kind: str = "classification", tuning: Any = None) -> None:
        task = tiny_task(24, kind)
        stage = Train() if tuning is None else Train(tuning=tuning)
        self.learner: Learner = assemble(stage, tiny_backbone(family), task, Seeds.of(0)).train()
        self.trained = self.learner.trained()
        self.folded = hooks.start([(type(s).__name__, s) for s in stabilizers], self.learner, self.trained, 0)
        prompts = [found[0] for found in self.learner.framing.render(task.train.examples[:8], (), np.random.default_rng(0))]
        self.batch = self.learner.framing.collate(prompts, np.random.default_rng(0))

    @property
    def hooks(self) -> Hooks:
        """Those of the only stabilizer."""
        ((_, found),) = self.folded.hooks
        return found

    def passes(self, step: int = 0) -> Passes:
        """Fresh passes, keyed by the step."""
        return Passes(self.learner, self.batch, self.trained, (0, step), self.folded.view, self.folded.noises, layered=self.folded.layered)


@pytest.fixture
def step() -> Callable[..., Step]:
    """The class, so that a test builds what it needs."""
    return Step
