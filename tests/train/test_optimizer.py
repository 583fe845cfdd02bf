"""AdamW with bias correction: torch's own numbers, no decay of biases, and gradients clipped only where they are too long."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tempering.contracts import Hooks
from tempering.train import optimizer
from tempering.train.hooks import Folded
from tempering.train.settings import Loop

NONE = Folded([])


def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "backbone.model.dense.weight": nn.Parameter(torch.randn(4, 3)),
        "backbone.model.dense.bias": nn.Parameter(torch.randn(4)),
        "backbone.model.norm.weight": nn.Parameter(torch.randn(4)),
        "framing.final.weight": nn.Parameter(torch.randn(2, 4)),
    }


def _fill(weights: dict[str, torch.Tensor], seed: int) -> None:
    torch.manual_seed(seed)
    for weight in weights.values():
        weight.grad = torch.randn_like(weight)


@pytest.mark.parametrize("per_weight", [False, True])
def test_five_steps_equal_torch_s_own_adamw(per_weight: bool) -> None:
    settings = Loop(learning_rate=1e-2, head_learning_rate=3e-2, weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6)
    mine, theirs = _weights(), _weights()
    ours = optimizer.make(mine, settings, per_weight)
    groups = [
        {"params": [w], "lr": 3e-2 if n.startswith("framing.") else 1e-2, "weight_decay": 0.1 if w.ndim > 1 else 0.0}
        for n, w in theirs.items()
    ]
    reference = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-6, foreach=False, fused=False)
    for step in range(5):
        for weights, optim in ((mine, ours), (theirs, reference)):
            _fill(weights, step)
            if optim is ours:
                optimizer.set_rates(ours, NONE, 1.0, 0.0)
            optim.step()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_the_first_step_has_the_length_of_the_rate() -> None:
    """Bias correction: |update| = lr for every number (without it, 3.16 lr)."""
    weights = _weights()
    before = {n: w.detach().clone() for n, w in weights.items()}
    optim = optimizer.make(weights, Loop(learning_rate=1e-3), per_weight=False)
    _fill(weights, 0)
    optimizer.set_rates(optim, NONE, 1.0, 0.0)
    optim.step()
    for name, weight in weights.items():
        torch.testing.assert_close((weight - before[name]).abs(), torch.full_like(weight, 1e-3), rtol=1e-3, atol=0.0)


def _plain_adam(weight: torch.Tensor, grads: list[torch.Tensor], rate: float, decay: float) -> torch.Tensor:
    """Adam without bias correction, as in BERT's first code, with decoupled decay: what the switch must equal."""
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for grad in grads:
        weight = weight * (1 - rate * decay)
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad * grad
        weight = weight - rate * m / (v.sqrt() + 1e-8)
    return weight


def test_without_bias_correction_it_is_adam_as_bert_had_it() -> None:
    weights = _weights()
    before, grads = {n: w.detach().clone() for n, w in weights.items()}, {n: list[torch.Tensor]() for n in weights}
    optim = optimizer.make(weights, Loop(learning_rate=1e-2, weight_decay=0.1, adam_bias_correction=False), per_weight=False)
    for step in range(5):
        _fill(weights, step)
        for name, weight in weights.items():
            assert weight.grad is not None
            grads[name].append(weight.grad.clone())
        optimizer.set_rates(optim, NONE, 1.0, 0.0)
        optim.step()
    for name, weight in weights.items():
        expected = _plain_adam(before[name], grads[name], 1e-2, 0.1 if weight.ndim > 1 else 0.0)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


def test_without_bias_correction_the_first_step_is_3_16_times_too_long() -> None:
    """(1 - 0.9) / sqrt(1 - 0.999) = 3.162 of the rate."""
    weights = _weights()
    before = {n: w.detach().clone() for n, w in weights.items()}
    optim = optimizer.make(weights, Loop(learning_rate=1e-3, adam_bias_correction=False), per_weight=False)
    _fill(weights, 0)
    optimizer.set_rates(optim, NONE, 1.0, 0.0)
    optim.step()
    for name, weight in weights.items():
        torch.testing.assert_close((weight - before[name]).abs(), torch.full_like(weight, 3.16228e-3), rtol=1e-3, atol=0.0)


def test_biases_and_norms_are_not_decayed() -> None:
    weights = _weights()
    before = {n: w.detach().clone() for n, w in weights.items()}
    optim = optimizer.make(weights, Loop(learning_rate=1e-2, weight_decay=0.5), per_weight=False)
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.set_rates(optim, NONE, 1.0, 0.0)
    optim.step()
    for name, weight in weights.items():
        expected = before[name] * (1 - 1e-2 * 0.5) if weight.ndim > 1 else before[name]
        torch.testing.assert_close(weight.detach(), expected)


def test_a_factor_of_0_freezes_with_moments_and_decay() -> None:
    frozen = "backbone.model.dense.weight"
    weights = _weights()
    before = weights[frozen].detach().clone()
    folded = Folded([("freeze", Hooks(rate=lambda name, progress: 0.0 if name == frozen else 1.0))])
    optim = optimizer.make(weights, Loop(learning_rate=1e-2, weight_decay=0.5), per_weight=True)
    _fill(weights, 0)
    optimizer.set_rates(optim, folded, 1.0, 0.0)
    optim.step()
    assert torch.equal(weights[frozen], before) and not optim.state.get(weights[frozen])
    assert optim.state[weights["framing.final.weight"]]


def test_rates_multiply() -> None:
    weights = _weights()
    folded = Folded([("a", Hooks(rate=lambda n, p: 0.5)), ("b", Hooks(rate=lambda n, p: 1.0 - p))])
    optim = optimizer.make(weights, Loop(learning_rate=0.1, head_learning_rate=1.0), per_weight=True)
    optimizer.set_rates(optim, folded, 0.8, 0.25)
    rates = {g["names"][0]: g["lr"] for g in optim.param_groups}
    assert rates["framing.final.weight"] == pytest.approx(1.0 * 0.8 * 0.5 * 0.75)
    assert rates["backbone.model.dense.bias"] == pytest.approx(0.1 * 0.8 * 0.5 * 0.75)


@pytest.mark.parametrize("limit", [0.5, 1.0])
def test_clipping_is_that_of_torch(limit: float) -> None:
    mine, theirs = _weights(), _weights()
    _fill(mine, 3)
    _fill(theirs, 3)
    norm = optimizer.clip(mine.values(), limit)
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(list(theirs.values()), limit)))
    for name in mine:
        assert mine[name].grad is not None and theirs[name].grad is not None
        torch.testing.assert_close(mine[name].grad, theirs[name].grad)


@pytest.mark.parametrize("limit", [0.0, 1e6])
def test_gradients_within_the_limit_keep_their_bits(limit: float) -> None:
    weights = _weights()
    _fill(weights, 3)
    before = {n: w.grad.clone() for n, w in weights.items() if w.grad is not None}
    optimizer.clip(weights.values(), limit)
    assert all(torch.equal(w.grad, before[n]) for n, w in weights.items() if w.grad is not None)
    assert optimizer.clip([nn.Parameter(torch.zeros(1))], 1.0) == 0.0
