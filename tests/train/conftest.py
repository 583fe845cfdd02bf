"""What the tests of the loop share: a tiny learner with its feed, without dropout where sums are compared, and a spy on gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from tempering.contracts import Hooks, Seeds
from tempering.learner import Learner
from tempering.stages.setup import assemble
from tempering.stages.train import Train
from tempering.train.feed import Feed
from tests.tiny import tiny_backbone, tiny_task

Made = tuple[Learner, Feed]


def _make(stage: Train, kind: str = "classification", still: bool = False, weights: Any = None) -> Made:
    task, seeds = tiny_task(24, kind), Seeds.of(0)
    learner = assemble(stage, tiny_backbone(), task, seeds)
    if still:
        for module in learner.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    return learner, Feed(learner.framing, task.train.examples, stage, seeds, weights=weights)


class Spy:
    """A stabilizer that changes nothing and keeps every gradient it sees."""

    touches: ClassVar[tuple[str, ...]] = ("gradient",)
    neutral: ClassVar[bool] = False

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def start(self, *_: Any) -> Hooks:
        return Hooks(gradient=self._keep)

    def _keep(self, name: str, grad: torch.Tensor) -> float:
        self.seen[name] = grad.detach().clone()
        return 1.0


@pytest.fixture
def make() -> Callable[..., Made]:
    """``make(stage, kind, still, weights)``: a learner and its feed; ``still`` takes all dropout out."""
    return _make


@pytest.fixture
def spy() -> Spy:
    return Spy()
