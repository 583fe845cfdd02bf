"""Passes are asked for, made once, and keyed: what one method asks never moves what another one sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tempering.contracts import Seeds, Weights
from tempering.learner import Learner
from tempering.passes import Passes
from tempering.stages.setup import assemble
from tempering.stages.train import Train
from tempering.train.feed import Feed
from tempering.train.fit import supervised
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tests.tiny import tiny_backbone, tiny_task


def _learner(tuning: Any = None) -> Learner:
    return assemble(Train(tuning=tuning or Full()), tiny_backbone(), tiny_task(24), Seeds.of(0)).train()


def _passes(learner: Learner, key: tuple[int, ...] = (0, 0, 0, 0), **given: Any) -> Passes:
    feed = Feed(learner.framing, tiny_task(24).train.examples, Train(per_device_train_batch_size=8), Seeds.of(0))
    return Passes(learner, feed.micro(0)[0], learner.trained(), key, **given)


def _logits(scores: Any) -> torch.Tensor:
    return scores.only.logits.detach()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def learner() -> Learner:
    return _learner()


def test_a_pass_is_made_once(learner: Learner) -> None:
    passes = _passes(learner)
    assert passes.student(0) is passes.student() is passes.student(0)
    assert passes.made == 1
    passes.student(1)
    assert passes.made == 2


@pytest.mark.parametrize("key", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
def test_seed_step_micro_batch_and_process_key_the_dropout(key: tuple[int, ...], learner: Learner) -> None:
    first = _logits(_passes(learner).student())
    assert torch.equal(first, _logits(_passes(learner).student()))
    assert not torch.equal(first, _logits(_passes(learner, key).student()))


def test_what_was_asked_before_does_not_matter(learner: Learner) -> None:
    forth, back = _passes(learner), _passes(learner)
    a = [_logits(forth.student(i)) for i in (0, 1, 2)]
    back.under({})
    b = [_logits(back.student(i)) for i in (2, 0)]
    back.perturbed(lambda x: x + 1.0)
    b.append(_logits(back.student(1)))
    assert torch.equal(a[0], b[1]) and torch.equal(a[1], b[2]) and torch.equal(a[2], b[0])
    assert not torch.equal(a[0], a[1])


def test_drawn_are_the_passes_that_someone_asked_for(learner: Learner) -> None:
    passes = _passes(learner)
    assert passes.drawn() == [passes.student(0)]
    passes.student(3)
    assert passes.drawn() == [passes.student(0), passes.student(3)]
    each = [learner.framing.loss(scores, passes.batch) for scores in passes.drawn()]
    torch.testing.assert_close(supervised(passes), (each[0] + each[1]) / 2)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_perturbed_pass_has_the_dropout_of_the_first(layer: int, learner: Learner) -> None:
    passes = _passes(learner)
    first = _logits(passes.student())
    assert torch.equal(_logits(passes.perturbed(lambda x: x, layer)), first)
    assert not torch.equal(_logits(passes.perturbed(lambda x: x + 0.5, layer)), first)
    assert torch.equal(_logits(_passes(learner).student()), first)  # the hook is gone again
    assert passes.made == 3


def test_gradients_reach_a_noise(learner: Learner) -> None:
    noise = torch.zeros(8, 1, 32, requires_grad=True)
    scores = _passes(learner).perturbed(lambda x: x + noise)
    (grad,) = torch.autograd.grad(scores.only.logits.sum(), noise)
    assert bool((grad != 0).any())


def test_a_teacher_pass_is_in_evaluation_mode_without_gradient_under_other_weights(learner: Learner) -> None:
    passes = _passes(learner)
    other = {n: w.detach() * 0.9 for n, w in passes.trained.items()}
    modes = [m.training for m in learner.modules()]
    scores = passes.under(other)
    assert not scores.only.logits.requires_grad and [m.training for m in learner.modules()] == modes
    assert torch.equal(_logits(passes.under(other)), _logits(scores))
    assert not torch.equal(_logits(passes.under({})), _logits(scores))
    twin = _learner().eval()
    twin.load_state_dict(learner.state_dict() | other)
    torch.testing.assert_close(_logits(twin(passes.batch)), _logits(scores))


def test_a_teacher_s_error_restores_the_modes(learner: Learner) -> None:
    with pytest.raises(RuntimeError):
        _passes(learner).under({"framing.final.weight": torch.zeros(3, 3)})
    assert learner.training and learner.backbone.model.training


def test_a_view_replaces_the_weights_of_training_passes_with_gradient() -> None:
    learner = _learner(LoRA(r=2))
    seen: list[float] = []

    def view(now: Weights, rng: np.random.Generator) -> Weights:
        seen.append(float(rng.random()))
        return now | {n: w + 0.1 for n, w in now.items()}

    plain, viewed = _passes(learner), _passes(learner, view=view)
    assert not torch.equal(_logits(viewed.student()), _logits(plain.student()))
    viewed.perturbed(lambda x: x)
    assert len(seen) == 1  # the perturbed pass has the weights of student(0)
    viewed.student(1)
    assert len(seen) == 2 and seen[0] != seen[1]
    assert torch.equal(_logits(viewed.under({})), _logits(plain.under({})))
    viewed.student().only.logits.sum().backward()
    grads = {n: w.grad for n, w in learner.trained().items()}
    assert all(g is not None and bool(g.any()) for n, g in grads.items() if "lora" in n or "final" in n)


def test_noises_add_up_and_have_streams_of_their_own(learner: Learner) -> None:
    drawn: list[torch.Tensor] = []

    def noise(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        drawn.append(torch.from_numpy(rng.standard_normal(x.shape, "float32")))
        return drawn[-1]

    alone = _passes(learner, noises={"a": noise})
    both = _passes(learner, noises={"a": noise, "b": noise})
    swapped = _passes(learner, noises={"b": noise, "a": noise})
    found = [_logits(passes.student()) for passes in (alone, both, swapped)]
    (a, a2, b, b3, a3) = drawn
    assert torch.equal(a, a2) and torch.equal(a, a3) and torch.equal(b, b3) and not torch.equal(a, b)
    assert not torch.equal(found[1], found[0])
    torch.testing.assert_close(found[1], found[2], rtol=1e-5, atol=1e-6)
    assert not torch.equal(_logits(both.student(1)), found[1]) and not torch.equal(drawn[-2], a)
    count = len(drawn)
    both.under({})
    assert len(drawn) == count  # a teacher sees none


def test_noise_is_added_to_the_embeddings(learner: Learner) -> None:
    noisy = _passes(learner, noises={"a": lambda x, rng: 0.5 * x})
    assert torch.equal(_logits(noisy.student()), _logits(_passes(learner).perturbed(lambda x: torch.stack([x, 0.5 * x]).sum(0))))


def test_a_perturbed_pass_may_be_that_of_another_student(learner: Learner) -> None:
    passes = _passes(learner)
    second = _logits(passes.perturbed(lambda x: x, i=1))
    assert passes.drawn() == [passes.student(0)]  # it does not count as a student of the supervised mean
    assert torch.equal(second, _logits(passes.student(1))) and not torch.equal(second, _logits(passes.student(0)))


def test_a_method_s_own_stream_is_keyed_by_step_and_purpose(learner: Learner) -> None:
    draws = {
        (key, purpose): float(_passes(learner, key).stream(purpose).random()) for key in ((0, 0, 0, 0), (0, 1, 0, 0)) for purpose in "ab"
    }
    assert len(set(draws.values())) == 4
    assert float(_passes(learner).stream("a").random()) == draws[(0, 0, 0, 0), "a"]


def test_layered_passes_hold_what_every_block_put_out(learner: Learner) -> None:
    plain, layered = _passes(learner), _passes(learner, layered=True)
    assert torch.equal(_logits(layered.student()), _logits(plain.student())) and plain.student().layers == ()
    found = layered.student().layers
    learner.eval()
    try:
        clean = _passes(learner, layered=True).student().layers
        body = learner.backbone.encode(layered.batch.inputs, layers=True).layers
    finally:
        learner.train()
    assert body is not None and len(found) == len(clean) == 2
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(clean, body[1:], strict=True))
    (grad,) = torch.autograd.grad(found[0].sum(), learner.trained()["backbone.model.encoder.layer.0.output.dense.weight"])
    assert bool(grad.isfinite().all())
    hooked = [len(block._forward_hooks) for block in learner.backbone.blocks]  # transformers leaves one behind
    assert layered.under({}).layers == () and _passes(learner, layered=True).student().layers
    assert [len(block._forward_hooks) for block in learner.backbone.blocks] == hooked
