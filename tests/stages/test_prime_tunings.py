"""Priming rehearses any tuning: its weights move in the inner loop, the body learns around them, and what cannot be rehearsed says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.methods import METHODS
from tempering.recipe import Recipe
from tempering.stages.episodes import Nursery
from tempering.stages.prime import Prime
from tempering.stages.priming import Progress, _prepare, _step
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.train.device import place
from tempering.train.meta import adapt
from tempering.tunings.lora import LoRA
from tests.laws.settings import live
from tests.stages.conftest import Write
from tests.tiny import tiny_backbone, tiny_task

SEEDS = Seeds.of(0)
TUNINGS = live("tuning")
REFUSED = {
    "full": "plain MAML: set inner: all",
    "fusion": "fusion acts while it trains",
    "lt_sft": "lt_sft acts while it trains",
    "grft": "grft acts while it trains",
    "adalora": "adalora acts while it trains",
    "diff_pruning": "diff_pruning chooses from the data",
    "fish": "fish chooses from the data",
    "movement": "movement chooses from the data",
}


def stage(write: Write, tuning: Any, **given: Any) -> Prime:
    fields = {"outer_steps": 1, "inner_steps": 2, "inner_learning_rate": 0.5, "tasks_per_step": 1, "support_rows": 4, "query_rows": 6}
    return Prime((write("a"),), tuning=tuning, eval_strategy="no", **(fields | given))


@pytest.mark.parametrize("second_order", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [n for n in TUNINGS if n not in REFUSED])
def test_the_weights_of_any_tuning_move_inside_and_the_body_outside(name: str, second_order: bool, write: Write) -> None:
    made = stage(write, TUNINGS[name], second_order=second_order)
    Recipe("r", (made, Train())).check()
    found, where = Nursery.of(made, tiny_backbone(), made.learns(tiny_task()), SEEDS), place(made.loop)
    _prepare(found, where, SEEDS, Surroundings())
    before = {n: w.detach().clone() for n, w in found.learner.named_parameters()}
    weights = found.weights(0, 0)
    support, _ = found.batches(0, 0, 0)
    loss, still = found.loss(0, support, where.autocast), {n: w.detach() for n, w in weights.items()}
    start = {n: w.detach().requires_grad_() for n, w in weights.items() if n in found.moved}
    moved = adapt(lambda phi: loss(still | phi), start, found.inner)
    inside = [n for n in start if n.startswith("backbone.")]
    assert bool(inside) == (name != "frozen") == any(not torch.equal(moved[n], start[n]) for n in inside)
    with torch.no_grad():
        assert float(loss(still | moved)) < float(loss(still | start))
    trained = {n: w for n, w in found.learner.named_parameters() if n in found.outer}
    _step(found, trained, Progress(), where)
    assert trained and all(w.grad is not None and bool(w.grad.abs().sum()) for w in trained.values())
    assert not set(trained) & set(inside)
    assert all(torch.equal(w, before[n]) for n, w in found.learner.named_parameters())  # no episode writes to the model


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_episode_can_rehearse_is_refused(name: str, write: Write) -> None:
    with pytest.raises(RecipeError, match=REFUSED[name]):
        Recipe("r", (stage(write, TUNINGS[name]), Train())).check()


def test_the_docs_name_all_that_are_refused() -> None:
    page = (Path(__file__).parents[2] / "docs" / "before.md").read_text(encoding="utf-8")
    (listed,) = [part for part in page.split("\n\n") if part.startswith("Any tuning can be rehearsed")]
    known = set(METHODS["tuning"])
    assert {name for name in re.findall(r"`(\w+)`", listed) if name in known} == set(REFUSED) | {"lora"}  # lora with two rates


def test_two_rates_in_one_tuning_are_refused_and_one_rate_is_not(write: Write) -> None:
    Recipe("r", (stage(write, LoRA()), Train())).check()
    with pytest.raises(RecipeError, match="lora acts while it trains"):
        Recipe("r", (stage(write, LoRA(loraplus_lr_ratio=16.0)), Train())).check()
