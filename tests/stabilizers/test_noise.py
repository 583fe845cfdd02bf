"""Noise from a keyed stream, the mask of real tokens, and a perturbation that moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tempering.contracts import Batch
from tempering.stabilizers.neftune import NEFTune
from tempering.stabilizers.noise import Shift, normal, real_tokens, uniform


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


@pytest.mark.parametrize(("draw", "variance"), [(uniform, 1 / 3), (normal, 1.0)])
def test_draws_have_the_shape_type_and_moments_they_should(draw: object, variance: float) -> None:
    x = torch.zeros(20, 50, 40, dtype=torch.float64)
    made = draw(x, _rng())  # type: ignore[operator]
    assert made.shape == x.shape and made.dtype == x.dtype
    assert float(made.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(made.var()) == pytest.approx(variance, rel=0.03)
    assert torch.equal(made, draw(x, _rng())) and not torch.equal(made, draw(x, _rng(1)))  # type: ignore[operator]


def test_uniform_stays_within_one() -> None:
    made = uniform(torch.zeros(100, 100), _rng())
    assert -1 <= float(made.min()) < -0.99 and 0.99 < float(made.max()) <= 1


def test_real_tokens_are_those_of_the_mask_and_what_a_tuning_puts_in_front() -> None:
    batch = Batch({"input_ids": torch.zeros(2, 3, dtype=torch.int64), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])})
    assert real_tokens(batch, torch.zeros(2, 3, 4)).squeeze(-1).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert real_tokens(batch, torch.zeros(2, 5, 4)).squeeze(-1).tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    unpadded = Batch({"input_ids": torch.zeros(2, 3, dtype=torch.int64)})
    assert real_tokens(unpadded, torch.zeros(2, 3, 4)).tolist() == torch.ones(2, 3, 1).tolist()


def test_a_shift_is_drawn_once_and_moved() -> None:
    shift = Shift(lambda x: torch.full_like(x, 0.5))
    x = torch.ones(1, 2, 3, requires_grad=True)
    assert shift(x).unique().tolist() == [1.5] and shift.delta.requires_grad
    shift.move(shift.delta * 2, last=False)
    assert shift(x).unique().tolist() == [2.0] and shift.delta.requires_grad and shift.delta.is_leaf
    shift.move(shift.delta, last=True)
    assert not shift.delta.requires_grad and shift(x).requires_grad


def test_neftune_is_the_formula_of_the_paper() -> None:
    """|noise| <= alpha / sqrt(length * dim), and its expected norm over a text is alpha / sqrt(3)."""
    noise = NEFTune(5.0).start(None, {}, 0).noise  # type: ignore[arg-type]
    assert noise is not None
    made = noise(torch.zeros(50, 12, 32), _rng())
    bound = 5.0 / (12 * 32) ** 0.5
    assert 0.99 * bound < float(made.abs().max()) <= bound
    assert float(made.flatten(1).norm(dim=1).mean()) == pytest.approx(5.0 / 3**0.5, rel=0.02)
