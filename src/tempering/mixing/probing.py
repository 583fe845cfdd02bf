"""The proof that a task runs among others as it does alone: a few rows, scored both ways when the task is taken in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Batch, Example
from tempering.errors import DataError, ModelError
from tempering.mixing.rows import SHARED_INPUTS, part_of
from tempering.mixing.served import Served
from tempering.streams import torch_stream

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.mixing.learner import MixedLearner

BASE = -1
NOISE = 0.05
TOLERANCE = 1e-4
TEXTS = ("A short text.", "A somewhat longer text, so that one of the two is padded.")


@torch.no_grad()
def prove(mixed: MixedLearner, task: int) -> tuple[str, bool]:
    """(why ``task`` cannot share a pass, empty if it can; whether its framing reads the states of all layers).

    Its rows stand in one batch with rows of the backbone alone and of another task of its kind, so that rows mix in every way. Its
    own weights are disturbed meanwhile: before training most changes are none, and any change would seem to arrive.
    """
    learner = mixed[mixed.names[task]]
    kind = type(learner.tuning)
    alike = [i for i in range(task) if type(mixed[mixed.names[i]].tuning) is kind and mixed.names[i] not in mixed.apart][-1:]
    learner.eval()
    mixed.backbone.eval()
    try:
        batch = _batch(learner)
        if not SHARED_INPUTS.issuperset(batch.inputs):
            return f"its framing gives the model {', '.join(sorted(batch.inputs.keys() - SHARED_INPUTS))}", False
        calm = learner.framing.scores(learner.backbone, batch).only.logits
        with _disturbed(mixed, learner) as own:
            alone = learner.framing.scores(learner.backbone, batch).only.logits
            spans, encoded = mixed.encode([batch.inputs] * (2 + len(alike)), [task, *alike, BASE], layers=True)
            served: Any = Served(learner.backbone, batch.inputs, part_of(encoded, spans[0], batch.inputs["input_ids"].shape[1]))
            among = learner.framing.scores(served, batch).only.logits
    except DataError:  # the rows of the proof have no labels
        return "its framing scores rows with labels alone", False
    except (ModelError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", False
    gap = _gap(among, alone)
    if own and torch.equal(calm, alone):
        return "a change of its weights does not show in its scores", False
    return (f"its scores among others are off by {gap:.2g}" if gap > TOLERANCE else ""), served.asked_layers


@contextmanager
def _disturbed(mixed: MixedLearner, learner: Learner) -> Iterator[list[Tensor]]:
    """While open, noise is in all weights of the task's body that are not the shared backbone's; they come back to the bit."""
    shared = {id(weight) for weight in mixed.backbone.parameters()}
    own: list[Tensor] = [weight for weight in learner.backbone.model.parameters() if id(weight) not in shared]
    before = [weight.detach().clone() for weight in own]
    try:
        with torch_stream("proof", device=learner.device):
            for weight in own:
                weight.add_(NOISE * torch.randn_like(weight))
        yield own
    finally:
        for weight, value in zip(own, before, strict=True):
            weight.copy_(value)


def _gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1.0))


def _batch(learner: Learner) -> Batch:
    prompts = [found[0] for found in learner.framing.render([Example((text,)) for text in TEXTS], (), np.random.default_rng(0))]
    batch: Batch = learner.framing.collate(prompts, np.random.default_rng(0))
    return batch.to(learner.device)
