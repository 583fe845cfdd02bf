"""L2-SP: sums of squares from the start and from zero, in the loss or beside Adam."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.framings.cloze import Cloze
from tempering.framings.masked_lm import MaskedLM
from tempering.stabilizers.l2_sp import L2SP
from tempering.stabilizers.mixout import Mixout
from tempering.stages.setup import assemble
from tempering.stages.train import Train
from tempering.train import optimizer
from tempering.train.fit import supervised
from tempering.train.hooks import start
from tempering.train.settings import Loop
from tempering.tunings.lora import LoRA
from tests.framings.test_masked_lm import save_masked_lm
from tests.laws.bench import refusal, stage_of
from tests.tiny import save_tiny, tiny_task


def _moved(one: Any, by: float = 0.1) -> Any:
    with torch.no_grad():
        for weight in one.trained.values():
            weight.add_(by)
    return one


def test_the_loss_is_that_of_the_paper(step: Callable[..., Any]) -> None:
    """CE + alpha / 2 |w - w0|^2 over the body + beta / 2 |v|^2 over the head, w0 read before training."""
    one = step([L2SP(0.3, 0.2)])
    start = {n: w.detach().clone() for n, w in one.trained.items()}
    _moved(one)
    passes = one.passes()
    loss = one.folded.loss(passes, supervised)
    old = sum((w - start[n]).square().sum() for n, w in one.trained.items() if n.startswith("backbone."))
    new = sum(w.square().sum() for n, w in one.trained.items() if n.startswith("framing."))
    expected = F.cross_entropy(passes.student().only.logits[0], one.batch.targets) + 0.15 * old + 0.1 * new
    torch.testing.assert_close(loss, expected)


def test_at_the_start_the_body_s_penalty_and_gradient_are_zero(step: Callable[..., Any]) -> None:
    one = step([L2SP(0.3, 0.0)])
    term = one.hooks.term(one.passes())
    body = [w for n, w in one.trained.items() if n.startswith("backbone.")]
    assert float(term.detach()) == 0.0
    assert not any(g.any() for g in torch.autograd.grad(term, body))


def test_the_gradient_draws_back_in_proportion(step: Callable[..., Any]) -> None:
    one = _moved(step([L2SP(0.3, 0.2)]))
    term = one.hooks.term(one.passes())
    for (name, weight), grad in zip(one.trained.items(), torch.autograd.grad(term, list(one.trained.values())), strict=True):
        expected = torch.full_like(weight, 0.03) if name.startswith("backbone.") else 0.2 * weight.detach()
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


def test_decoupled_it_is_a_decay_to_the_start_before_the_step(step: Callable[..., Any]) -> None:
    """w <- w - rate alpha (w - w0), the head to zero; nothing in the loss."""
    one = step([L2SP(0.5, 0.25, decoupled=True)])
    start = {n: w.detach().clone() for n, w in one.trained.items()}
    _moved(one, 0.2)
    before = {n: w.detach().clone() for n, w in one.trained.items()}
    assert one.hooks.term is None
    optim = optimizer.make(one.trained, Loop(learning_rate=0.1), per_weight=False)
    optimizer.set_rates(optim, one.folded, scale=0.5, progress=0.0)
    for name, weight in one.trained.items():
        target, strength = (start[name], 0.5) if name.startswith("backbone.") else (0.0, 0.25)
        torch.testing.assert_close(weight.detach(), before[name] - 0.05 * strength * (before[name] - target))


def test_two_pulls_add_up_and_each_sees_the_weight_as_it_was(step: Callable[..., Any]) -> None:
    one = step()
    one.folded.hooks += step([L2SP(0.0, 0.5, decoupled=True)]).folded.hooks * 2
    name, weight = next((n, w) for n, w in one.trained.items() if n.startswith("framing.") and w.ndim == 2)
    torch.testing.assert_close(one.folded.pull(name, weight), weight)


def test_the_start_travels_with_a_checkpoint(step: Callable[..., Any]) -> None:
    one, other = step([L2SP(0.3, 0.0)]), step([L2SP(0.3, 0.0)])
    saved = {n: w.clone() for n, w in one.folded.save().items()}
    assert {n.partition("/")[2] for n in saved} == {n for n in one.trained if n.startswith("backbone.")}
    _moved(other)
    other.folded.restore({n: w + 0.1 for n, w in saved.items()})
    torch.testing.assert_close(other.hooks.term(other.passes()), torch.tensor(0.0), atol=1e-6, rtol=0)


CLOZE = Cloze("{text} it was {mask}", words={"bad": "awful", "good": "great"})


def _words(folder: Path, stored: bool, framing: Any = CLOZE) -> Any:
    """A learner that names words by a language-model head: that of its checkpoint, or one drawn anew."""
    (save_masked_lm if stored else save_tiny)("bert", folder)
    return assemble(Train(framing=framing), Backbone.load(str(folder)), tiny_task(24), Seeds.of(0))


@pytest.mark.parametrize("framing", [CLOZE, MaskedLM()], ids=["cloze", "masked_lm"])
def test_a_head_of_the_checkpoint_is_pretrained_and_one_drawn_anew_is_not(framing: Any, tmp_path: Path) -> None:
    for stored in (True, False):
        learner = _words(tmp_path / str(stored), stored, framing)
        head = {n: w for n, w in learner.trained().items() if n.startswith("backbone.lm_head.")}
        assert head and {learner.pretrained(n) for n in head} == {stored}
        ((_, hooks),) = start([("l2_sp", L2SP(0.3, 0.2))], learner, head, 0).hooks
        found = float(hooks.term(SimpleNamespace(trained=head)).detach())
        assert found == pytest.approx(0.0 if stored else 0.1 * float(sum(w.detach().square().sum() for w in head.values())), rel=1e-5)


def test_mixout_mixes_the_linear_map_of_a_pretrained_head(tmp_path: Path) -> None:
    for stored in (True, False):
        learner = _words(tmp_path / str(stored), stored)
        ((_, hooks),) = start([("mixout", Mixout(0.5))], learner, learner.trained(), 0).hooks
        assert ("backbone.lm_head.dense.weight" in hooks.save()) is stored


def test_without_a_new_weight_beta_alone_draws_nothing(tmp_path: Path) -> None:
    learner = _words(tmp_path, stored=True)
    old = {n: w for n, w in learner.trained().items() if learner.pretrained(n)}
    ((_, hooks),) = start([("l2_sp", L2SP(0.0, 0.2))], learner, old, 0).hooks
    assert hooks.term(SimpleNamespace(trained=old)).item() == 0.0


def test_what_trains_no_pretrained_weight_is_refused() -> None:
    assert "l2_sp draws trained weights back" in refusal(stage_of(LoRA(r=2), [L2SP()]))
    assert "l2_sp draws trained weights back" in refusal(stage_of(LoRA(r=2), [L2SP(decoupled=True)]))
    assert refusal(stage_of(LoRA(r=2), [L2SP(0.0, 0.0)])) == ""


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        L2SP(alpha=-1.0)
