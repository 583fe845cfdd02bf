"""What stabilizers cost: passes are shared, and those stated are those made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch

from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.mmr import MMR
from tempering.stabilizers.neftune import NEFTune
from tempering.stabilizers.r3f import R3F
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.self_distillation import SelfDistillation
from tempering.stages.train import Train
from tempering.tunings.frozen import Frozen
from tests.laws.bench import STEPS, refusal, run, stage_of
from tests.laws.settings import live

FIVE = (RDrop(), R3F(), SelfDistillation(), Mixout(), MMR())
PAIRS = [pytest.param((a, b), id=f"{m}-{n}") for (m, a), (n, b) in combinations(live("stabilizer").items(), 2)]


def _made(values: tuple[Any, ...], step: Callable[..., Any]) -> int:
    """Passes of one micro-batch, forward and backward."""
    one = step(values)
    passes = one.passes()
    one.folded.loss(passes, lambda found: found.supervised()).backward()
    return int(passes.made)


def test_five_methods_together_make_four_passes_a_step(step: Callable[..., Any]) -> None:
    assert _made(FIVE, step) == Train(stabilizers=FIVE).passes_per_step == 4
    learner = run(stage_of(stabilizers=FIVE))
    assert learner.record["stage"]["passes"] == 4 * STEPS


def test_each_alone_in_passes_of_its_own_would_make_eight(step: Callable[..., Any]) -> None:
    assert [_made((value,), step) for value in FIVE] == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("pair", PAIRS)
def test_what_is_stated_for_a_pair_is_what_it_makes(pair: tuple[Any, ...], step: Callable[..., Any]) -> None:
    stage = stage_of(stabilizers=pair)
    if not refusal(stage):
        assert _made(pair, step) == stage.passes_per_step


@pytest.mark.parametrize("name", live("stabilizer"))
def test_what_is_stated_is_what_training_counts(name: str) -> None:
    """Of every method alone, over a run of two steps of two micro-batches each."""
    loop = dataclasses.replace(stage_of(stabilizers=[live("stabilizer")[name]]), max_steps=2, eval_strategy="no")
    loop = dataclasses.replace(loop, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert run(loop).record["stage"]["passes"] == loop.passes_per_step * 2


def test_noise_and_changed_embeddings_keep_a_frozen_trunk_from_being_kept() -> None:
    for name in ("r3f", "smart", "freelb", "neftune"):
        stage = Train(tuning=Frozen(), stabilizers=(live("stabilizer")[name],))
        assert not stage.cached and name in stage.why_not_cached
        run(stage_of(Frozen(), [live("stabilizer")[name]]))
    assert Train(tuning=Frozen(), stabilizers=(NEFTune(0.0),)).cached


def test_noise_on_embeddings_reaches_students_and_the_passes_changed_from_them(step: Callable[..., Any]) -> None:
    one, plain = step([NEFTune(20.0)]), step()
    passes = one.passes()
    noisy = passes.student().only.logits
    assert not torch.allclose(noisy, plain.passes().student().only.logits, atol=1e-3)
    assert torch.equal(passes.perturbed(lambda x: x).only.logits, noisy)
    assert torch.equal(passes.under({}).only.logits, plain.passes().under({}).only.logits)
