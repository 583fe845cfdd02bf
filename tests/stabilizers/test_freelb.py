"""FreeLB: the mean loss and the mean gradient along an attack, one pass a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tempering.errors import RecipeError
from tempering.recipe import Recipe
from tempering.stabilizers.freelb import FreeLB, _owned
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.supcon import SupCon
from tempering.stages.train import Train
from tempering.train.fit import supervised
from tempering.tunings.lora import LoRA


def _by_hand(one: Any, value: FreeLB) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The released loop: backward of loss / K at each step, the text's own norm, the ball."""
    passes = one.passes()
    ids, mask = one.batch.inputs["input_ids"], one.batch.inputs["attention_mask"].float()
    draw = 2 * torch.from_numpy(one.passes().stream("freelb").random((*ids.shape, 32), "float32")) - 1
    delta = draw * mask.unsqueeze(-1) * (value.init_mag / (mask.sum(1) * 32).sqrt()).view(-1, 1, 1)
    losses = []
    for _ in range(value.k):
        delta = delta.detach().requires_grad_()
        loss = F.cross_entropy(passes.perturbed(lambda x, d=delta: x + d).only.logits[0], one.batch.targets)
        (loss / value.k).backward(retain_graph=True)
        losses.append(loss.detach())
        g = delta.grad
        delta = delta + value.adv_lr * g / g.flatten(1).norm(dim=1).clamp(min=1e-8).view(-1, 1, 1)
        if value.max_norm is not None:
            norms = delta.flatten(1).norm(dim=1).view(-1, 1, 1)
            delta = torch.where(norms > value.max_norm, delta * value.max_norm / norms, delta)
    grads = {n: w.grad.clone() for n, w in one.trained.items() if w.grad is not None}
    for weight in one.trained.values():
        weight.grad = None
    return torch.stack(losses).mean(), grads


@pytest.mark.parametrize("value", [FreeLB(), FreeLB(k=3, adv_lr=0.5, init_mag=0.0), FreeLB(k=3, adv_lr=0.5, init_mag=0.4, max_norm=0.6)])
@pytest.mark.parametrize("tuning", [None, LoRA(r=2)])
def test_loss_and_gradients_are_those_of_the_released_loop(value: FreeLB, tuning: Any, step: Callable[..., Any]) -> None:
    one = step([value], tuning=tuning)
    expected, grads = _by_hand(one, value)
    passes = one.passes()
    loss = one.folded.loss(passes, supervised)
    torch.testing.assert_close(loss, expected)
    (0.25 * loss).backward()
    assert {n for n, w in one.trained.items() if w.grad is not None} == set(grads)
    for name, gradient in grads.items():
        torch.testing.assert_close(one.trained[name].grad, 0.25 * gradient, rtol=1e-4, atol=1e-7)
    assert passes.made == value.k == Train(stabilizers=(value,)).passes_per_step


def test_one_step_from_the_text_itself_is_plain_training(step: Callable[..., Any]) -> None:
    value = FreeLB(k=1, init_mag=0.0)
    assert value.neutral and not FreeLB(k=1).neutral and FreeLB(k=4, adv_lr=0.0, init_mag=0.0).neutral
    plain, one = step(), step()
    loss = value.start(one.learner, one.trained, 0).base(one.passes())  # type: ignore[misc]
    loss.backward()
    expected = supervised(plain.passes())
    expected.backward()
    assert torch.equal(loss.detach(), expected.detach())
    for name, weight in plain.trained.items():
        assert (weight.grad is None) == (one.trained[name].grad is None)
        if weight.grad is not None:
            torch.testing.assert_close(one.trained[name].grad, weight.grad)


def test_the_attack_raises_the_loss(step: Callable[..., Any]) -> None:
    weak, strong = (step([FreeLB(k=4, adv_lr=rate, init_mag=0.0)]) for rate in (0.01, 1.0))
    losses = [float(one.folded.loss(one.passes(), supervised).detach()) for one in (weak, strong)]
    assert losses[1] > losses[0]


def test_beside_a_term_and_replaced_weights(step: Callable[..., Any]) -> None:
    """R-Drop's two passes keep their own gradients, and mixout's weights outlive the attack's passes."""
    value = (FreeLB(k=2), RDrop(), Mixout(0.3))
    one = step(value)
    with torch.no_grad():
        for weight in one.trained.values():
            weight.add_(0.05)
    passes = one.passes()
    one.folded.loss(passes, supervised).backward()
    assert passes.made == Train(stabilizers=value).passes_per_step == 4
    assert all(bool(w.grad.isfinite().all()) for w in one.trained.values() if w.grad is not None)


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_kinds_of_task(kind: str, step: Callable[..., Any]) -> None:
    one = step([FreeLB()], kind=kind)
    one.folded.loss(one.passes(), supervised).backward()
    assert bool(one.trained["framing.final.weight"].grad.any())


def test_gradients_that_share_memory_are_told_apart() -> None:
    shared = torch.ones(2, 3)
    a, b, c, none = _owned([shared, shared, torch.ones(1).expand(4), None])
    assert none is None and a is shared and a.data_ptr() != b.data_ptr()  # type: ignore[union-attr]
    for gradient in (a, b, c):
        gradient.add_(1.0)  # type: ignore[union-attr]
    assert all(g.unique().tolist() == [2.0] for g in (a, b, c))  # type: ignore[union-attr]


def test_one_pass_s_activations_are_planned_for(step: Callable[..., Any]) -> None:
    """Passes of an attack go one after another; the plan's memory counts one of them."""
    from tempering.footprint import memory_of

    found = []
    for value in ((), (FreeLB(k=4),), (RDrop(),)):
        one = step(value)
        stage = Train(stabilizers=value)
        found.append(memory_of(stage, one.learner, one.folded, one.trained, 16, 24).activations)
    assert found[0] == found[1] and found[2] == 2 * found[0]


def test_two_that_replace_the_loss_are_refused() -> None:
    with pytest.raises(RecipeError, match="freelb and supcon each replaces the supervised loss.*keep one"):
        Recipe("r", (Train(stabilizers=(FreeLB(), SupCon())),)).check()
