"""What the tests of sparse tunings share: a probe that answers from a table, and the entries that a learner has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tempering.backbone import Backbone
from tempering.contracts import Weights
from tempering.learner import Learner
from tempering.stages.setup import assemble
from tempering.tunings.attach import body_weights
from tests.laws.bench import ROWS, SEEDS, stage_of
from tests.tiny import tiny_backbone, tiny_task


class Told:
    """A probe whose answers are given: gradients batch by batch, and the weights that a dense run ends with."""

    def __init__(self, gradients: list[Weights] | None = None, tuned: Weights | None = None) -> None:
        self.given, self.tuned = gradients or [], tuned or {}
        self.asked: dict[str, Any] = {}

    def gradients(self, rows: int | None = None, batch_size: int = 1, sampled: bool = False) -> Iterator[Weights]:
        self.asked = {"rows": rows, "batch_size": batch_size, "sampled": sampled}
        yield from self.given

    def fine_tuned(self, tuning: Any, num_train_epochs: float | None = None) -> Weights:
        self.asked = {"tuning": tuning, "epochs": num_train_epochs}
        return self.tuned


def fresh(tuning: Any, family: str = "bert") -> Learner:
    """A learner with ``tuning`` attached, before anything was chosen from the data."""
    return assemble(stage_of(tuning), tiny_backbone(family), tiny_task(ROWS), SEEDS)


def before_and_after(tuning: Any, backbone: Backbone) -> dict[str, tuple[Tensor, Tensor]]:
    """Each body weight as it was pretrained and as it is with the change merged in (on a backbone of its own)."""
    old = body_weights(tiny_backbone(backbone.source.removeprefix("tiny-")))
    tuning.merge(backbone)
    return {n: (old[n].detach(), w.detach()) for n, w in body_weights(backbone).items()}


def moved(tuning: Any, backbone: Backbone) -> int:
    """How many entries of the body differ from the pretrained ones after merging."""
    return sum(int((a != b).sum()) for a, b in before_and_after(tuning, backbone).values())


def scores_like(weights: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random scores for every weight, under the learner's names."""
    generator = torch.Generator().manual_seed(seed)
    return {f"backbone.model.{n}": torch.randn(w.shape, generator=generator) for n, w in weights.items()}
