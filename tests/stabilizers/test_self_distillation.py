"""Self-distillation: the teacher of a step is the mean of the weights of the K steps before it, not of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tempering.stabilizers.self_distillation import SelfDistillation
from tempering.stages.train import Train
from tempering.train.fit import supervised
from tempering.tunings.lora import LoRA


def _walk(one: Any, steps: int) -> list[dict[str, torch.Tensor]]:
    """Move the weights ``steps`` times and tell the method; the weights after each step."""
    seen = []
    for i in range(steps):
        with torch.no_grad():
            for weight in one.trained.values():
                weight.add_(0.01 * (i + 1))
        one.folded.after_step(one.trained)
        seen.append({n: w.detach().clone() for n, w in one.trained.items()})
    return seen


def _teacher(one: Any) -> torch.Tensor:
    """The teacher's logits, read back from the term's passes."""
    asked: list[dict[str, torch.Tensor]] = []
    passes = one.passes()
    under = passes.under
    passes.under = lambda weights: (asked.append(weights), under(weights))[1]
    one.hooks.term(passes)
    (weights,) = asked
    return weights  # type: ignore[return-value]


def test_the_loss_is_that_of_the_paper(step: Callable[..., Any]) -> None:
    """CE + weight * MSE(student's logits, teacher's logits), teacher in evaluation mode with the start weights."""
    one = step([SelfDistillation(2.0)])
    passes = one.passes()
    loss = one.folded.loss(passes, supervised)
    student = passes.student().only.logits
    with torch.no_grad():
        teacher = one.learner.eval()(one.batch).only.logits
    expected = F.cross_entropy(student[0], one.batch.targets) + 2.0 * (student - teacher).square().mean()
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(student, teacher)  # dropout is on in one of them


def test_with_k_1_the_teacher_is_the_previous_step(step: Callable[..., Any]) -> None:
    one = step([SelfDistillation(1.0, k=1)])
    seen = _walk(one, 3)
    teacher = _teacher(one)
    assert all(torch.equal(teacher[n], seen[-2][n]) for n in one.trained)
    assert not any(torch.equal(teacher[n], one.trained[n]) for n in one.trained)


@pytest.mark.parametrize("teacher", ["mean", "vote"])
def test_without_dropout_it_still_teaches(teacher: str, step: Callable[..., Any]) -> None:
    """A teacher with the student's own weights would say what the student says."""
    one = step([SelfDistillation(1.0, teacher=teacher)])
    for module in one.learner.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert one.hooks.term(one.passes()).item() == 0.0  # before the first step there is nothing else
    _walk(one, 1)
    assert one.hooks.term(one.passes()).item() > 0.0


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 6])
def test_with_k_3_it_is_the_mean_of_the_three_before_or_of_what_there_is(steps: int, step: Callable[..., Any]) -> None:
    one = step([SelfDistillation(1.0, k=3)])
    start = {n: w.detach().clone() for n, w in one.trained.items()}
    before = ([start, *_walk(one, steps)][:-1] or [start])[-3:]
    teacher = _teacher(one)
    for name in one.trained:
        torch.testing.assert_close(teacher[name], torch.stack([w[name] for w in before]).mean(0))


def test_the_teacher_has_no_gradient_and_leaves_modes_and_streams_alone(step: Callable[..., Any]) -> None:
    one = step([SelfDistillation(1.0)])
    modes = {n: m.training for n, m in one.learner.named_modules()}
    passes = one.passes()
    first = passes.student().only.logits.detach().clone()
    assert not passes.under({}).only.logits.requires_grad
    assert {n: m.training for n, m in one.learner.named_modules()} == modes
    asked_after = one.passes()
    asked_after.under({})
    assert torch.equal(asked_after.student().only.logits, first)


def test_it_makes_one_more_pass_and_says_so(step: Callable[..., Any]) -> None:
    one = step([SelfDistillation()])
    passes = one.passes()
    one.folded.loss(passes, supervised)
    assert passes.made == Train(stabilizers=(SelfDistillation(),)).passes_per_step == 2


def test_the_ring_travels_with_a_checkpoint(step: Callable[..., Any]) -> None:
    one, other = step([SelfDistillation(1.0, k=3)]), step([SelfDistillation(1.0, k=3)])
    _walk(one, 4)
    other.folded.restore(one.folded.save())
    theirs, mine = _teacher(other), _teacher(one)
    assert all(torch.equal(theirs[n], mine[n]) for n in one.trained)
    assert len(one.folded.save()) == 4 * len(one.trained)  # three teachers and the weights now


def test_it_keeps_trained_weights_only(step: Callable[..., Any]) -> None:
    one = step([SelfDistillation(1.0, k=2)], tuning=LoRA(r=2))
    assert {key.partition("/")[2] for key in one.hooks.save()} == set(one.trained)
    assert len(one.trained) < 12


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_logits_are_compared_whatever_the_task(kind: str, step: Callable[..., Any]) -> None:
    one = step([SelfDistillation(1.0)], kind=kind)
    passes = one.passes()
    term = one.hooks.term(passes)
    torch.testing.assert_close(term, (passes.student().only.logits - passes.under({}).only.logits).square().mean())


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_vote_is_the_mean_of_the_logits_of_the_k_models_before(steps: int, step: Callable[..., Any]) -> None:
    """At the start the starting weights stand in for the steps that are missing."""
    one = step([SelfDistillation(2.0, k=3, teacher="vote")])
    start = {n: w.detach().clone() for n, w in one.trained.items()}
    models = ([start, start, start, *_walk(one, steps)][:-1] if steps else [start])[-3:]
    passes = one.passes()
    term = one.hooks.term(passes)
    student = passes.student().only.logits
    votes = torch.stack([one.passes().under(weights).only.logits for weights in models]).mean(0)
    torch.testing.assert_close(term, 2.0 * (student - votes).square().mean())


def test_the_vote_of_one_is_the_mean_of_one(step: Callable[..., Any]) -> None:
    terms = []
    for teacher in ("mean", "vote"):
        one = step([SelfDistillation(1.0, teacher=teacher)])
        _walk(one, 2)
        terms.append(one.hooks.term(one.passes()))
    assert torch.equal(*terms)


@pytest.mark.parametrize("steps", [0, 5])
def test_the_vote_costs_k_passes_from_the_first_step_on_and_says_so(steps: int, step: Callable[..., Any]) -> None:
    method = SelfDistillation(1.0, k=3, teacher="vote")
    one = step([method])
    _walk(one, steps)
    passes = one.passes()
    one.folded.loss(passes, supervised)
    assert passes.made == Train(stabilizers=(method,)).passes_per_step == 4
