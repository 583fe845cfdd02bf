"""Averages of weights: of the last steps, exponential, and from some point of the run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tempering.stabilizers.ema import EMA
from tempering.stabilizers.self_ensemble import SelfEnsemble
from tempering.stabilizers.swa import SWA
from tempering.train import hooks
from tempering.tunings.lora import LoRA
from tests.laws.bench import bits, differing, losses, refusal, run, stage_of

Seen = list[dict[str, torch.Tensor]]


def _start(one: Any, method: Any, steps: int = 10) -> Any:
    one.learner.steps = steps
    one.folded = hooks.start([("average", method)], one.learner, one.trained, 0)
    return one


def _walk(one: Any, steps: int, seed: int = 0) -> Seen:
    """Move the weights ``steps`` times and tell the method; the weights after each step."""
    torch.manual_seed(seed)
    seen = []
    for _ in range(steps):
        with torch.no_grad():
            for weight in one.trained.values():
                weight.add_(0.1 * torch.randn_like(weight))
        one.folded.after_step(one.trained)
        seen.append({n: w.detach().clone() for n, w in one.trained.items()})
    return seen


def _close(found: dict[str, torch.Tensor], seen: Seen) -> None:
    assert set(found) == set(seen[0])
    for name, weight in found.items():
        torch.testing.assert_close(weight, torch.stack([w[name] for w in seen]).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_self_ensemble_is_the_mean_of_the_last_k(steps: int, step: Callable[..., Any]) -> None:
    one = _start(step(), SelfEnsemble(3))
    seen = _walk(one, steps)
    _close(one.folded.final(), seen[-3:])


def test_self_ensemble_over_all_steps_is_their_arithmetic_mean_and_so_is_swa_from_0(step: Callable[..., Any]) -> None:
    for method in (SelfEnsemble(9), SWA(0.0)):
        one = _start(step(), method, steps=9)
        seen = _walk(one, 9)
        _close(one.folded.final(), seen)


@pytest.mark.parametrize(("method", "first", "every"), [(SWA(0.5), 5, 1), (SWA(0.5, every=2), 5, 2), (SWA(0.25), 2, 1), (SWA(0.99), 9, 1)])
def test_swa_is_the_mean_from_its_start_on(method: SWA, first: int, every: int, step: Callable[..., Any]) -> None:
    """Of 10 steps, those behind floor(after * 10), every second one where told so; ``first`` indexes from 0."""
    one = _start(step(), method, steps=10)
    seen = _walk(one, 10)
    _close(one.folded.final(), seen[first::every])


def test_before_its_start_swa_leaves_the_weights_as_they_are(step: Callable[..., Any]) -> None:
    one = _start(step(), SWA(0.5), steps=10)
    _walk(one, 5)
    assert one.folded.final() == {}
    (last,) = _walk(one, 1)
    _close(one.folded.final(), [last])


def test_ema_is_that_of_its_formula_with_the_warm_up(step: Callable[..., Any]) -> None:
    """a_t = d a_{t-1} + (1 - d) w_t, d = min(decay, (1 + t) / (10 + t)): 2 / 11, 3 / 12, then 0.3."""
    one = _start(step(), EMA(0.3))
    start = {n: w.detach().clone() for n, w in one.trained.items()}
    seen = _walk(one, 4)
    found = one.folded.final()
    for name, average in start.items():
        for d, weights in zip((2 / 11, 3 / 12, 0.3, 0.3), seen, strict=True):
            average = d * average + (1 - d) * weights[name]
        torch.testing.assert_close(found[name], average)


def test_past_the_warm_up_ema_is_torch_s_own(step: Callable[..., Any]) -> None:
    """From t = 1 on the warm-up is 2 / 11 or more: a decay below it is constant."""
    one = _start(step(), EMA(0.15))
    theirs = AveragedModel(one.learner.framing.final, multi_avg_fn=get_ema_multi_avg_fn(0.15))
    theirs.update_parameters(one.learner.framing.final)
    for seed in range(4):
        _walk(one, 1, seed)
        theirs.update_parameters(one.learner.framing.final)
    torch.testing.assert_close(one.folded.final()["framing.final.weight"], theirs.module.weight)


METHODS = [SelfEnsemble(3), EMA(0.6), SWA(0.2, every=2)]


@pytest.mark.parametrize("method", METHODS)
def test_the_average_travels_with_a_checkpoint(method: Any, step: Callable[..., Any]) -> None:
    one, other = _start(step(), method), _start(step(), method)
    _walk(one, 5)
    other.folded.restore({n: w.clone() for n, w in one.folded.save().items()})
    with torch.no_grad():
        for name, weight in other.trained.items():
            weight.copy_(one.trained[name])
    _walk(one, 3, seed=1)
    _walk(other, 3, seed=1)
    assert differing(one.folded.final(), other.folded.final()) == []
    assert differing(one.folded.save(), other.folded.save()) == []


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_as_without_it_and_only_the_end_differs(method: Any) -> None:
    plain, averaged = stage_of(), stage_of(stabilizers=[method])
    assert losses(plain) == losses(averaged)
    assert differing(bits(run(plain)), bits(run(averaged)))


@pytest.mark.parametrize("method", METHODS)
def test_it_keeps_trained_weights_only(method: Any, step: Callable[..., Any]) -> None:
    one = _start(step(tuning=LoRA(r=2)), method)
    _walk(one, 5)
    assert set(one.folded.final()) == set(one.trained) and len(one.trained) < 12


@pytest.mark.parametrize(("method", "copies"), [(SelfEnsemble(3), 3), (EMA(0.6), 1), (SWA(0.0, every=2), 1)])
def test_weights_without_content_show_what_it_will_hold(method: Any, copies: int, step: Callable[..., Any]) -> None:
    """As `explain` asks, on torch's meta device."""
    one = step(tuning=LoRA(r=2))
    hollow = {n: w.to("meta") for n, w in one.trained.items()}
    folded = hooks.start([("average", method)], one.learner, hollow, 0)
    for _ in range(5):
        folded.after_step(hollow)
    assert sum(w.numel() for w in folded.save().values() if w.is_meta) == copies * sum(w.numel() for w in hollow.values())


def test_two_of_them_are_refused() -> None:
    for a, b, names in ((EMA(), SWA(), "ema and swa"), (SWA(), SelfEnsemble(), "swa and self_ensemble")):
        assert f"{names} each chooses the final weights" in refusal(stage_of(stabilizers=[a, b]))
