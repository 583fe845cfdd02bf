"""The divergence that consistency terms share, against the golden values of the specification and its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from tempering.contracts import Kind, Slab
from tempering.stabilizers.divergence import symmetric


def _slab(logits: torch.Tensor, kind: Kind = "classification") -> Slab:
    return Slab(logits, None, None, None, kind)


def _log(*p: float) -> torch.Tensor:
    return torch.tensor(p, dtype=torch.float64).log().view(1, 1, -1)


def test_the_golden_value_of_the_specification() -> None:
    """p = (.5, .5), q = (.9, .1): KL 0.510826, reverse 0.368064, half sum 0.439445."""
    p, q = _slab(_log(0.5, 0.5)), _slab(_log(0.9, 0.1))
    assert float(symmetric(p, q)) == pytest.approx(0.439445, abs=5e-7)
    forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    reverse = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert (forward, reverse) == (pytest.approx(0.510826, abs=5e-7), pytest.approx(0.368064, abs=5e-7))
    assert float(symmetric(p, q)) == pytest.approx((forward + reverse) / 2)


def test_classes_are_compared_by_softmax_and_averaged_over_rows_and_heads() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 5, 4)
    p, q = Categorical(logits=a), Categorical(logits=b)
    expected = 0.5 * (kl_divergence(p, q) + kl_divergence(q, p)).mean()
    torch.testing.assert_close(symmetric(_slab(a), _slab(b)), expected)


def test_labels_are_compared_one_by_one_and_summed() -> None:
    torch.manual_seed(1)
    a, b = torch.randn(2, 1, 5, 3)
    p, q = Bernoulli(logits=a), Bernoulli(logits=b)
    expected = 0.5 * (kl_divergence(p, q) + kl_divergence(q, p)).sum(-1).mean()
    torch.testing.assert_close(symmetric(_slab(a, "multilabel"), _slab(b, "multilabel")), expected)


def test_values_by_the_squared_difference() -> None:
    a, b = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.0], [1.0]]])
    assert float(symmetric(_slab(a, "regression"), _slab(b, "regression"))) == 2.5


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_it_is_symmetric_zero_at_equality_and_finite_far_apart(kind: Kind) -> None:
    torch.manual_seed(2)
    a, b = torch.randn(2, 1, 5, 3)
    assert float(symmetric(_slab(a, kind), _slab(a, kind))) == 0.0
    torch.testing.assert_close(symmetric(_slab(a, kind), _slab(b, kind)), symmetric(_slab(b, kind), _slab(a, kind)))
    far = (100 * a).requires_grad_()
    symmetric(_slab(far, kind), _slab(-far, kind)).backward()
    assert far.grad is not None and bool(far.grad.isfinite().all())
