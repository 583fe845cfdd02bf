"""Gradient checkpointing: the same gradients from less memory, with dropout on, and refused where it would give wrong ones."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import CheckpointError

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.passes import Passes
from tempering.recipe import Recipe
from tempering.stages.setup import assemble
from tempering.stages.train import Train
from tempering.train.feed import Feed
from tempering.tunings.lora import LoRA
from tests.tiny import tiny_backbone, tiny_task


def _gradients(tuning: object, recompute: bool, native: bool) -> dict[str, torch.Tensor]:
    backbone, task = tiny_backbone("bert"), tiny_task(12)
    stage = Train(tuning=tuning)
    learner = assemble(stage, backbone, task, Seeds.of(0)).train()
    backbone.model.train()
    backbone.recompute(recompute)
    (batch,) = Feed(learner.framing, task.train.examples, stage, Seeds.of(0)).micro(0)
    passes = Passes(learner, batch, learner.trained(), (0, 0, 0, 0), native_dropout=native)
    learner.framing.loss(passes.student(), batch).backward()
    return {n: w.grad.clone() for n, w in learner.trained().items() if w.grad is not None}


@pytest.mark.parametrize("tuning", [Train().tuning, LoRA()], ids=["full", "lora"])
def test_gradients_with_dropout_are_those_of_the_plain_pass(tuning: object) -> None:
    plain, recomputed = (_gradients(tuning, on, native=True) for on in (False, True))
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-5)


def test_our_own_masks_would_not_be_drawn_again() -> None:
    """Why torch draws the masks then: with ours the backward pass computes something else, and torch notices here."""
    with pytest.raises(CheckpointError):
        _gradients(Train().tuning, recompute=True, native=False)


def _recomputes(backbone: Backbone) -> bool:
    return any(getattr(m, "gradient_checkpointing", False) for m in backbone.model.modules())


def test_a_run_with_it_trains_and_the_next_stage_is_free_of_it() -> None:
    backbone, task = tiny_backbone("bert"), tiny_task(12)
    Train(max_steps=2, gradient_checkpointing=True).run(backbone, task, Seeds.of(0))
    assert _recomputes(backbone)
    Train(max_steps=2).run(backbone, task, Seeds.of(0))
    assert not _recomputes(backbone)


def test_it_is_refused_with_swapped_weights() -> None:
    with pytest.raises(RecipeError, match="mixout"):
        Recipe.load("mixout").override({"gradient_checkpointing": True}).check()
