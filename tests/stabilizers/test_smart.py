"""SMART: ascent steps on the embeddings, projection, and the proximal term over an average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tempering.stabilizers.smart import SMART, _direction
from tempering.stages.train import Train

FIELDS: dict[str, Any] = {"eta": 0.05, "sigma": 0.02, "radius": 0.1}


def _kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


@pytest.mark.parametrize("k", [1, 3])
def test_the_term_is_that_of_the_formula(k: int, step: Callable[..., Any]) -> None:
    """Written out: start at N(0, sigma^2) on real tokens, k normalized and clipped steps upwards, symmetric divergence there."""
    one = step([SMART(2.0, k=k, **FIELDS)])
    term = one.hooks.term(one.passes())
    passes = one.passes()
    clean = passes.student().only.logits[0]
    ids, mask = one.batch.inputs["input_ids"], one.batch.inputs["attention_mask"].float().unsqueeze(-1)
    noise = torch.from_numpy(one.passes().stream("smart").standard_normal((*ids.shape, 32), "float32"))
    delta = 0.02 * noise * mask
    for _ in range(k):
        delta = delta.detach().requires_grad_()
        (g,) = torch.autograd.grad(_kl(passes.perturbed(lambda x, d=delta: x + d).only.logits[0], clean.detach()), delta)
        delta = (delta + 0.05 * g / (g.abs().amax(-1, keepdim=True) + 1e-12)).clamp(-0.1, 0.1).detach()
    expected = 2.0 * _kl(clean, passes.perturbed(lambda x: x + delta).only.logits[0])
    torch.testing.assert_close(term, expected)
    assert float(expected.detach()) > 1e-4


def test_steps_lead_upwards(step: Callable[..., Any]) -> None:
    """The divergence where k steps lead is larger than where the random start is, and grows with k."""
    fields = {"eta": 0.05, "sigma": 0.01, "radius": 1.0}
    found = []
    for k in (1, 2, 4):
        one = step([SMART(k=k, **fields)])
        found.append(float(one.hooks.term(one.passes()).detach()))
    assert found[0] < found[1] < found[2]


def test_it_counts_its_passes_and_leaves_no_gradient_behind(step: Callable[..., Any]) -> None:
    for value in (SMART(k=1), SMART(k=3), SMART(k=2, mu=1.0), SMART(0.0, mu=1.0)):
        one = step([value])
        passes = one.passes()
        loss = one.folded.loss(passes, lambda found: found.supervised())
        assert all(w.grad is None for w in one.trained.values())
        loss.backward()
        assert passes.made == Train(stabilizers=(value,)).passes_per_step == 1 + value.perturbations + value.teachers


def test_a_token_without_gradient_stays_where_it_is() -> None:
    found = _direction(torch.tensor([[[0.0, 0.0], [3.0, -6.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0.0], [0.5, -1.0]]]))


def test_both_passes_may_have_dropout_of_their_own(step: Callable[..., Any]) -> None:
    shared, own = (step([SMART(shared_dropout=kept)]) for kept in (True, False))
    values = [float(one.hooks.term(one.passes()).detach()) for one in (shared, own)]
    assert 0 < values[0] < 1e-6 < values[1]


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_kinds_of_task(kind: str, step: Callable[..., Any]) -> None:
    one = step([SMART(**FIELDS)], kind=kind)
    term = one.hooks.term(one.passes())
    assert float(term.detach()) > 0
    term.backward()
    assert all(bool(w.grad.isfinite().all()) for w in one.trained.values() if w.grad is not None)


def test_the_teacher_is_the_average_of_the_past(step: Callable[..., Any]) -> None:
    """Rate beta in the first tenth of the steps, late_beta afterwards; in evaluation mode, mu times the divergence."""
    value = SMART(0.0, mu=0.5, beta=0.5, late_beta=0.9)
    one = step([value])
    one.learner.steps = 20
    hooks = value.start(one.learner, one.trained, 0)
    name = "framing.final.weight"
    mean = one.trained[name].detach().clone()
    for t in range(5):
        with torch.no_grad():
            one.trained[name].add_(0.1)
        hooks.after_step(one.trained)  # type: ignore[misc]
        rate = 0.5 if t < 2 else 0.9
        mean = rate * mean + (1 - rate) * one.trained[name].detach()
    state = hooks.save()  # type: ignore[misc]
    torch.testing.assert_close(state[f"mean/{name}"], mean)
    passes = one.passes()
    teacher = passes.under({n: state[f"mean/{n}"] for n in one.trained}).only.logits[0]
    torch.testing.assert_close(hooks.term(passes), 0.5 * _kl(passes.student().only.logits[0], teacher))  # type: ignore[misc]
    other = value.start(one.learner, one.trained, 0)
    other.restore({n: t.clone() for n, t in state.items()})  # type: ignore[misc]
    for found in (hooks, other):
        found.after_step(one.trained)  # type: ignore[misc]
    again, mine = other.save(), hooks.save()  # type: ignore[misc]
    assert all(torch.equal(again[n], mine[n]) for n in mine)


def test_without_a_proximal_term_there_is_no_state(step: Callable[..., Any]) -> None:
    one = step([SMART()])
    assert one.folded.save() == {} and one.hooks.after_step is None
