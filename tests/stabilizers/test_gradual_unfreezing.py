"""Gradual unfreezing: what is trained at each moment, and that a frozen weight keeps its bits, decay and moments included."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tempering.contracts import Hooks, Seeds
from tempering.recipe import Recipe
from tempering.stabilizers.gradual_unfreezing import GradualUnfreezing
from tempering.stabilizers.l2_sp import L2SP
from tempering.stages.setup import assemble
from tempering.train import hooks, optimizer
from tempering.train.feed import Feed
from tempering.train.fit import Plan, fit
from tempering.train.settings import Loop
from tempering.tunings.full import Full
from tempering.tunings.top_layers import TopLayers
from tests.laws.bench import STAGE, stage_of
from tests.tiny import tiny_backbone, tiny_task

PARTS = ("framing.", "encoder.layer.1.", "encoder.layer.0.", "embeddings.")


def _started(one: Any, method: GradualUnfreezing, steps: int) -> hooks.Folded:
    """The method at the start of a run of ``steps`` steps."""
    one.learner.steps = steps
    return hooks.start([("gradual_unfreezing", method)], one.learner, one.trained, 0)


def _trained_parts(one: Any, folded: hooks.Folded, step: int, steps: int) -> set[str]:
    rates = {n: folded.rate(n, step / steps) for n in one.trained}
    assert set(rates.values()) <= {0.0, 1.0}
    return {part for part in PARTS if all(rates[n] == 1.0 for n in rates if part in n)}


@pytest.mark.parametrize("epochs", [4, 7])
def test_the_trained_set_after_each_epoch(epochs: int, step: Callable[..., Any]) -> None:
    """share = 1 / epochs: in epoch e (from 0) the head and the top e layers are trained; then all."""
    one = step()
    folded = _started(one, GradualUnfreezing(1 / epochs), steps=10 * epochs)
    for epoch in range(epochs):
        for inside in (0, 9):
            assert _trained_parts(one, folded, 10 * epoch + inside, 10 * epochs) == set(PARTS[: epoch + 1])


def test_left_out_the_last_group_thaws_for_the_last_of_as_many_parts(step: Callable[..., Any]) -> None:
    one = step()
    folded = _started(one, GradualUnfreezing(), steps=100)
    assert [len(_trained_parts(one, folded, s, 100)) for s in (0, 24, 25, 49, 50, 74, 75, 99)] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_the_pooler_goes_with_the_head(step: Callable[..., Any]) -> None:
    one = step()
    folded = _started(one, GradualUnfreezing(), steps=8)
    assert {folded.rate(n, 0.0) for n in one.trained if "pooler" in n} == {1.0}


def test_layers_that_are_not_trained_take_no_turn(step: Callable[..., Any]) -> None:
    one = step(tuning=TopLayers(1))
    folded = _started(one, GradualUnfreezing(), steps=10)
    names = [n for n in one.trained if "layer.1" in n]
    assert [folded.rate(names[0], s / 10) for s in (0, 4, 5, 9)] == [0.0, 0.0, 1.0, 1.0]


def _told_weights(stage: Any) -> list[dict[str, torch.Tensor]]:
    """The learner's weights before training and after every step of a run."""
    seen: list[dict[str, torch.Tensor]] = []

    class Spy:
        touches = ("after_step",)
        neutral = False

        def start(self, learner: Any, trained: Any, seed: int) -> Hooks:
            def copy(_: Any = None) -> None:
                seen.append({n: w.detach().clone() for n, w in trained.items()})

            copy()
            return Hooks(after_step=copy)

    task, seeds = tiny_task(24), Seeds.of(0)
    learner = assemble(stage, tiny_backbone(), task, seeds)
    named = [(type(s).__name__, s) for s in stage.stabilizers]
    fit(learner, Feed(learner.framing, task.train.examples, stage, seeds), Plan(stage, [*named, ("spy", Spy())]))  # type: ignore[list-item]
    return seen


def test_a_weight_keeps_every_bit_until_its_turn_and_then_moves() -> None:
    """With weight decay, and a pull to zero and to the start beside it: eight steps, a group more every second."""
    stage = dataclasses.replace(stage_of(Full(), (GradualUnfreezing(0.25), L2SP(0.5, 0.5, decoupled=True)), stage=STAGE), max_steps=8)
    seen = _told_weights(stage)
    for part, turn in zip(PARTS, (0, 2, 4, 6), strict=True):
        names = [n for n in seen[0] if part in n and n.endswith("weight")]
        assert all(torch.equal(seen[turn][n], seen[0][n]) for n in names)
        assert not any(torch.equal(seen[turn + 1][n], seen[turn][n]) for n in names if "token_type" not in n)


def test_what_thaws_has_no_moments_of_before(step: Callable[..., Any]) -> None:
    one = step()
    folded = _started(one, GradualUnfreezing(), steps=8)
    optim = optimizer.make(one.trained, Loop(weight_decay=0.1), per_weight=True)
    for weight in one.trained.values():
        weight.grad = torch.ones_like(weight)
    optimizer.set_rates(optim, folded, 1.0, 0.0)
    optim.step()
    lower = [w for n, w in one.trained.items() if "layer.0" in n]
    assert lower and not any(optim.state.get(w) for w in lower)


def test_the_recipe_is_the_triple_of_ulmfit() -> None:
    (stage,) = Recipe.load("gradual-unfreezing").stages
    assert [type(s).__name__ for s in stage.stabilizers] == ["GradualUnfreezing", "Discriminative"]
    assert stage.lr_scheduler_type == "slanted_triangular" and stage.stabilizers[1].ratio == 2.6
