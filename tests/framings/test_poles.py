"""A value between two label words: the golden values of the specification, and where each loss has its least value."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tempering.framings.gaps.poles import pole_losses, share_of, value_of

BOUNDS = torch.tensor([0.0, 5.0], dtype=torch.float64)
GAPS = torch.linspace(-6.0, 6.0, 24001, dtype=torch.float64)


def test_golden_value_g2() -> None:
    gap, value = torch.tensor([1.0 - 0.2], dtype=torch.float64), torch.tensor([3.5], dtype=torch.float64)
    assert value_of(gap, BOUNDS).item() == pytest.approx(3.44987, abs=1e-5)
    assert pole_losses(gap, value, BOUNDS).item() == pytest.approx(2.3631e-4, abs=1e-7)  # computed there in single precision
    assert pole_losses(gap, value, BOUNDS, reference=True).item() == pytest.approx(2.07135, abs=1e-5)
    target = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    logs = torch.tensor([[0.2, 1.0]], dtype=torch.float64).log_softmax(-1)
    assert -(target * logs).sum().item() == pytest.approx(0.61110, abs=1e-5)
    assert pole_losses(gap, value, BOUNDS).item() == pytest.approx(F.kl_div(logs, target, reduction="batchmean").item(), abs=1e-12)
    theirs = F.kl_div(logs, target, log_target=True, reduction="none").mean()
    assert pole_losses(gap, value, BOUNDS, reference=True).item() == pytest.approx(theirs.item(), abs=1e-12)


@pytest.mark.parametrize(("value", "true", "reference"), [(0.5, 0.5, 1.55), (2.5, 2.5, 2.5), (4.5, 4.5, 3.45)])
def test_where_the_loss_is_least(value: float, true: float, reference: float) -> None:
    values = torch.full_like(GAPS, value)
    for asked, expected in ((False, true), (True, reference)):
        best = GAPS[pole_losses(GAPS, values, BOUNDS, asked).argmin()]
        assert value_of(best, BOUNDS).item() == pytest.approx(expected, abs=5e-3)


@given(st.floats(-50, 50), st.floats(-3, 8))
def test_predictions_stay_on_the_scale_and_losses_are_sound(gap: float, value: float) -> None:
    gaps, values = torch.tensor([gap], dtype=torch.float64), torch.tensor([value], dtype=torch.float64)
    found = value_of(gaps, BOUNDS).item()
    assert 0.0 <= found <= 5.0 and 0.0 <= share_of(values, BOUNDS).item() <= 1.0
    assert pole_losses(gaps, values, BOUNDS).item() >= -1e-12
    assert value_of(gaps + 0.1, BOUNDS).item() >= found


def test_a_value_at_an_end_has_a_finite_loss_and_gradient() -> None:
    gap = torch.tensor([3.0, -3.0, 30.0], requires_grad=True)
    losses = pole_losses(gap, torch.tensor([0.0, 5.0, 9.0]), BOUNDS.float())
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(losses).all() and gap.grad is not None and torch.isfinite(gap.grad).all()
    assert losses[2] < 1e-6  # beyond the end is at the end
