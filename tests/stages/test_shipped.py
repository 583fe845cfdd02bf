"""What comes before a task, as shipped: recipes say where they leave their paper, and controls differ in one thing alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tempering.recipe import Recipe
from tempering.stages.prime import Prime

PRIMED = ("prime-maml", "prime-one-step", "prime-zero-steps", "prime-kept-heads", "prime-fresh-heads", "prime-kept-start")


@pytest.mark.parametrize(("name", "batch", "rate"), [("simcse", 64, 3e-5), ("simcse-supervised", 512, 5e-5)])
def test_simcse_reads_as_much_of_a_text_as_its_paper(name: str, batch: int, rate: float) -> None:
    stage = Recipe.load(name).stages[0]
    assert (stage.framing.max_length, stage.framing.temperature) == (32, 0.05)
    assert (stage.per_device_train_batch_size, stage.learning_rate) == (batch, rate)


@pytest.mark.parametrize("name", ["dapt", "dapt-tapt"])
def test_dapt_says_that_its_rate_and_batch_are_not_those_of_the_paper(name: str) -> None:
    recipe = Recipe.load(name)
    stage = recipe.stages[0]
    texts = stage.per_device_train_batch_size * stage.gradient_accumulation_steps
    assert (stage.learning_rate, texts) == (1e-4, 256)
    assert "theirs is rate 5e-4 and 2,048 texts a step, here 1e-4 and 256" in recipe.description


def test_the_control_without_priming_is_the_last_stage_alone() -> None:
    assert Recipe.load("prime-none").stages == Recipe.load("prime").stages[1:]
    assert Recipe.load("prime-none").search == Recipe.load("prime").search


@pytest.mark.parametrize("name", PRIMED)
def test_an_ablation_of_priming_changes_one_thing(name: str) -> None:
    mine, whole = Recipe.load(name).stages, Recipe.load("prime").stages
    assert replace(mine[1], reuse_head=None, reuse_tuning=None) == whole[1]
    other = {field for field in Prime.__dataclass_fields__ if getattr(mine[0], field) != getattr(whole[0], field)}
    start = {"outer_trains", "keep_head", "keep_tuning"}
    assert other == start if name == "prime-kept-start" else len(other) == 1


def test_a_learned_start_is_taken_up() -> None:
    first, last = Recipe.load("prime-kept-start").stages
    kept: tuple[Any, ...] = (first.keep_head, first.keep_tuning)
    assert kept == (last.reuse_head, last.reuse_tuning) and None not in kept
    assert Recipe.load("prime-kept-start").check() == []
