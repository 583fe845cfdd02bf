"""Meta-learning against golden values, finite differences and the textbook, without any model of ours."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from tempering.contracts import Weights
from tempering.train.meta import Inner, accumulate, adapt, episode

RATE = 0.1


def toy(weights: Weights) -> Tensor:
    """L = (theta phi - 1)^2 / 2."""
    return 0.5 * (weights["theta"] * weights["phi"] - 1.0) ** 2


def at(theta: float, phi: float = 1.0) -> Weights:
    return {"theta": torch.tensor(theta, dtype=torch.float64), "phi": torch.tensor(phi, dtype=torch.float64)}


def query_loss(theta: float, steps: int, rate: float = RATE) -> float:
    """The loss after ``steps`` inner steps, in plain numbers."""
    phi = 1.0
    for _ in range(steps):
        phi -= rate * theta * (theta * phi - 1.0)
    return 0.5 * (theta * phi - 1.0) ** 2


def test_the_golden_scalar_case() -> None:
    first = episode(toy, toy, at(2.0), {"phi"}, {"theta"}, Inner(1, RATE))
    exact = episode(toy, toy, at(2.0), {"phi"}, {"theta"}, Inner(1, RATE, exact=True))
    for found in (first, exact):
        assert float(found.adapted["phi"]) == pytest.approx(0.8, abs=1e-12)
        assert found.loss == pytest.approx(0.18, abs=1e-12)
    assert float(first.gradients["theta"]) == pytest.approx(0.48, abs=1e-12)
    assert float(exact.gradients["theta"]) == pytest.approx(0.12, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_the_exact_gradient_is_that_of_finite_differences(steps: int) -> None:
    h = 1e-6
    expected = (query_loss(2.0 + h, steps) - query_loss(2.0 - h, steps)) / (2 * h)
    found = episode(toy, toy, at(2.0), {"phi"}, {"theta"}, Inner(steps, RATE, exact=True))
    assert float(found.gradients["theta"]) == pytest.approx(expected, abs=1e-8)


def test_first_order_and_exact_differ_by_the_order_of_the_rate() -> None:
    gaps = []
    for rate in (1e-2, 1e-3, 1e-4):
        pair = [episode(toy, toy, at(2.0), {"phi"}, {"theta"}, Inner(1, rate, exact)).gradients["theta"] for exact in (False, True)]
        gaps.append(abs(float(pair[0] - pair[1])) / rate)
    assert gaps[2] == pytest.approx(gaps[1], rel=0.05)  # the gap over the rate tends to a constant
    assert gaps[2] > 0.1


@pytest.mark.parametrize("inner", [Inner(0, RATE), Inner(5, 0.0), Inner(5, 0.0, exact=True)])
def test_without_inner_steps_it_is_the_ordinary_gradient(inner: Inner) -> None:
    found = episode(toy, toy, at(2.0), {"phi"}, {"theta", "phi"}, inner)
    assert float(found.gradients["theta"]) == 1.0 and float(found.gradients["phi"]) == 2.0  # (theta phi - 1) phi, (theta phi - 1) theta
    assert float(found.adapted["phi"]) == 1.0


def test_weights_and_their_gradients_are_left_alone() -> None:
    weights = at(2.0)
    for tensor in weights.values():
        tensor.requires_grad_()
    before = {name: tensor.detach().clone() for name, tensor in weights.items()}
    episode(toy, toy, weights, {"phi"}, {"theta"}, Inner(3, RATE))
    assert all(torch.equal(weights[n], before[n]) and weights[n].grad is None for n in weights)


def test_a_start_that_is_moved_outside_too() -> None:
    """First order takes the gradient at the adapted value; exact goes through the step: d phi' / d phi = 1 - alpha theta^2 = 0.6."""
    first = episode(toy, toy, at(2.0), {"phi"}, {"phi"}, Inner(1, RATE)).gradients["phi"]
    exact = episode(toy, toy, at(2.0), {"phi"}, {"phi"}, Inner(1, RATE, exact=True)).gradients["phi"]
    assert float(first) == pytest.approx(1.2, abs=1e-12)  # (2 x 0.8 - 1) x 2
    assert float(exact) == pytest.approx(0.72, abs=1e-12)


def test_the_order_of_tasks_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [{"a": torch.randn(5, 5, generator=generator)} for _ in range(4)]
    sums: list[Weights] = [{}, {}]
    for total, order in zip(sums, (parts, parts[::-1]), strict=True):
        for part in order:
            accumulate(total, part, 0.25)
    torch.testing.assert_close(sums[0], sums[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(sums[0]["a"], torch.stack([p["a"] for p in parts]).mean(0))


def _net(x: Tensor, w: Weights) -> Tensor:
    hidden = torch.relu(x @ w["w1"] + w["b1"])
    hidden = torch.relu(hidden @ w["w2"] + w["b2"])
    return hidden @ w["w3"] + w["b3"]


def _fit(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    return (_net(x, weights) - y).square().mean()


def _sine(generator: torch.Generator, rows: int = 20) -> tuple[Tensor, Tensor]:
    amplitude, phase = (torch.rand(2, generator=generator) * torch.tensor([4.9, math.pi]) + torch.tensor([0.1, 0.0])).tolist()
    x = torch.rand(rows, 1, generator=generator) * 10 - 5
    return x, amplitude * torch.sin(x + phase)


def _start(generator: torch.Generator) -> Weights:
    sizes = {"w1": (1, 40), "b1": (40,), "w2": (40, 40), "b2": (40,), "w3": (40, 1), "b3": (1,)}
    return {n: torch.randn(s, generator=generator) / math.sqrt(s[0]) if len(s) == 2 else torch.zeros(s) for n, s in sizes.items()}


def _after_one_step(weights: Weights, rate: float) -> float:
    """The mean loss on unseen sine waves after one step on ten points of each."""
    generator, found = torch.Generator().manual_seed(999), []
    for _ in range(40):
        x, y = _sine(generator)
        start = {n: w.detach().requires_grad_() for n, w in weights.items()}
        adapted = adapt(partial(_fit, x=x[:10], y=y[:10]), start, Inner(1, rate))
        found.append(float(_fit(adapted, x[10:], y[10:]).detach()))
    return sum(found) / len(found)


def test_full_maml_on_sine_waves_is_that_of_the_textbook() -> None:
    """Finn et al. 2017, section 5.1: after meta-training, one step on ten points fits a new wave far better."""
    generator = torch.Generator().manual_seed(0)
    weights = _start(generator)
    untrained = _after_one_step(weights, 0.01)
    optimizer = torch.optim.Adam([w.requires_grad_() for w in weights.values()], lr=5e-3)
    inner = Inner(1, 0.01, exact=True)
    for _ in range(300):
        total: Weights = {}
        for _ in range(5):
            x, y = _sine(generator)
            support, query = partial(_fit, x=x[:10], y=y[:10]), partial(_fit, x=x[10:], y=y[10:])
            accumulate(total, episode(support, query, weights, set(weights), set(weights), inner).gradients, 0.2)
        for name, weight in weights.items():
            weight.grad = total[name]
        optimizer.step()
    assert _after_one_step(weights, 0.01) < 0.6 * untrained
