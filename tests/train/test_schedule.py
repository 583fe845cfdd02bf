"""The schedule is transformers' own, step by step; what counts as a step, a warm-up and a mark."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError

from tempering.train.schedule import factor
from tempering.train.settings import Loop

THEIRS = {
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "constant_with_warmup": lambda optimizer, warmup, total: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
    "constant": lambda optimizer, warmup, total: transformers.get_constant_schedule(optimizer),
    "polynomial": lambda optimizer, warmup, total: transformers.get_polynomial_decay_schedule_with_warmup(
        optimizer, warmup, total, lr_end=0.0, power=2.5
    ),
}


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 3), (7, 7), (1, 0), (1, 1)])
def test_every_step_is_that_of_transformers(kind: str, total: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule: Any = THEIRS[kind](optimizer, warmup, total)
    for step in range(total):
        assert factor(kind, step, total, warmup, 2.5) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        if step + 1 < total:  # theirs divides by zero behind a last step that is a warm-up
            schedule.step()


def test_a_polynomial_of_power_1_is_linear() -> None:
    assert [factor("polynomial", s, 20, 3) for s in range(20)] == [factor("linear", s, 20, 3) for s in range(20)]


@pytest.mark.parametrize("total", [10, 100, 1000])
def test_the_slanted_triangle_is_the_formula_of_the_paper(total: int) -> None:
    """cut = floor(T / 10); p = t / cut before it, else 1 - (t - cut) / (cut (1 / 0.1 - 1)); (1 + p 31) / 32."""
    cut = int(total * 0.1)
    for t in range(total):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / 0.1 - 1))
        assert factor("slanted_triangular", t, total, cut) == pytest.approx((1 + p * 31) / 32, abs=1e-12)


@pytest.mark.parametrize(("total", "cut"), [(25, 2), (99, 10), (7, 0), (5, 5), (1, 0)])
def test_the_slanted_triangle_goes_from_a_32nd_to_the_peak_at_the_cut_and_back(total: int, cut: int) -> None:
    rates = [factor("slanted_triangular", t, total, cut) for t in range(total)]
    assert all(1 / 32 <= rate <= 1.0 for rate in rates)
    assert rates[0] == (1 / 32 if cut else 1.0)
    if cut < total:
        assert rates.index(max(rates)) == cut and rates[cut] == 1.0
        assert factor("slanted_triangular", total, total, cut) == 1 / 32
    assert rates == sorted(rates[:cut]) + sorted(rates[cut:], reverse=True)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"num_train_epochs": 3}, 9),
        ({"num_train_epochs": 0.5}, 2),
        ({"num_train_epochs": 0.01}, 1),
        ({"num_train_epochs": 3, "min_steps": 100}, 100),
        ({"num_train_epochs": 300, "min_steps": 100}, 900),
        ({"num_train_epochs": 3, "min_steps": 100, "max_steps": 5}, 5),
        ({"num_train_epochs": 1, "gradient_accumulation_steps": 2}, 2),
    ],
)
def test_steps_of_a_run(fields: dict[str, Any], steps: int) -> None:
    """24 rows in batches of 8 or fewer: 3 steps an epoch."""
    assert Loop(per_device_train_batch_size=8, **fields).total_steps(24) == steps


def test_warmup_below_1_is_a_share() -> None:
    assert [Loop(warmup_steps=w).warmup(200) for w in (0, 0.06, 0.5, 1, 30)] == [0, 12, 100, 1, 30]


def test_marks() -> None:
    loop = Loop(num_train_epochs=3)
    assert loop.marks("no", 4, 10) == frozenset()
    assert loop.marks("steps", 4, 10) == {4, 8, 10}
    assert loop.marks("epoch", 4, 9) == {3, 6, 9}
    assert loop.marks("epoch", 4, 100) == {33, 67, 100}  # stretched by min_steps: still three evaluations
    assert loop.marks("epoch", 4, 2) == {1, 2}
    assert Loop(num_train_epochs=0.3).marks("epoch", 4, 5) == {5}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fp16": True}, "loss scaling"),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "needs evaluations"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"per_device_train_batch_size": 0}, "greater than 0"),
        ({"learning_rates": 1}, "learning_rates"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Loop(**fields)
