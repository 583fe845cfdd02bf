"""Child-Tuning: a random part of each gradient (F), and a part chosen by Fisher information (D)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tempering.stabilizers.child_tuning_d import ChildTuningD, clipped, largest
from tempering.stabilizers.child_tuning_f import ChildTuningF
from tempering.tunings.bitfit import BitFit
from tempering.tunings.lora import LoRA
from tests.laws.bench import bits, refusal, run, stage_of, untrained
from tests.tiny import tiny_task

NAME = "backbone.model.encoder.layer.0.attention.self.query.weight"


def test_f_keeps_each_number_with_p_and_scales_it(step: Callable[..., Any]) -> None:
    """Factors are 0 or 1 / p, the second with probability p, so that the mean gradient is the gradient."""
    one = step([ChildTuningF(0.25)])
    factor = one.hooks.gradient("weight", torch.ones(200, 500))
    assert set(factor.unique().tolist()) == {0.0, 4.0}
    assert float(factor.mean()) == pytest.approx(1.0, abs=0.02)


def test_f_draws_anew_for_each_weight_and_each_step_and_again_after_a_resume(step: Callable[..., Any]) -> None:
    one, other = step([ChildTuningF(0.5)]), step([ChildTuningF(0.5)])
    grad = torch.ones(40, 40)
    first = one.hooks.gradient("a", grad)
    assert torch.equal(first, one.hooks.gradient("a", grad)) and not torch.equal(first, one.hooks.gradient("b", grad))
    one.folded.after_step(one.trained)
    second = one.hooks.gradient("a", grad)
    assert not torch.equal(first, second)
    other.folded.restore(one.folded.save())
    assert torch.equal(other.hooks.gradient("a", grad), second)


def test_f_masks_before_adam_sees_the_gradient(step: Callable[..., Any]) -> None:
    one = step([ChildTuningF(0.5)])
    for weight in one.trained.values():
        weight.grad = torch.full_like(weight, 3.0)
    one.folded.scale_gradients(one.trained)
    found = torch.cat([w.grad.flatten() for w in one.trained.values()])
    assert set(found.unique().tolist()) == {0.0, 6.0}
    assert all(0.0 in w.grad and 6.0 in w.grad for w in one.trained.values() if w.numel() > 100)


def test_the_largest_over_all_weights_are_chosen() -> None:
    """round(p n) of all numbers together, not of each weight."""
    scores = {"a": torch.tensor([[9.0, 1.0], [2.0, 8.0]]), "b": torch.tensor([7.0, 3.0, 6.0, 0.0, 4.0, 5.0])}
    masks = largest(scores, 0.4)
    assert masks["a"].tolist() == [[True, False], [False, True]]
    assert masks["b"].tolist() == [True, False, True, False, False, False]
    assert sum(int(m.sum()) for m in largest({"a": torch.zeros(10)}, 0.01).values()) == 1


def test_a_gradient_is_cut_as_torch_cuts_it() -> None:
    for scale in (0.1, 10.0):
        weight = torch.nn.Parameter(torch.zeros(6, 5))
        weight.grad = scale * torch.arange(30.0).view(6, 5)
        mine = clipped(weight.grad.clone(), 1.0)
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        torch.testing.assert_close(mine, weight.grad)


def _fisher(clip: float) -> dict[str, torch.Tensor]:
    """Mean over batches of the squared, cut gradient of the loss, from a learner before its first step, by plain autograd."""
    stage = stage_of()
    learner = untrained(stage).eval()
    found = [p[0] for p in learner.framing.render(tiny_task(24).train.examples, (), np.random.default_rng(0))]
    total: dict[str, torch.Tensor] = {}
    for prompt in found:
        batch = learner.framing.collate([prompt], np.random.default_rng(0))
        learner.zero_grad()
        learner.framing.loss(learner(batch), batch).backward()
        for name, weight in learner.trained().items():
            if ".layer." in name and weight.grad is not None:
                cut = weight.grad * min(1.0, clip / (float(weight.grad.norm()) + 1e-6))
                total[name] = total.get(name, torch.zeros_like(weight)) + cut.square()
    return total


def test_d_trains_what_the_fisher_information_chooses_and_nothing_else_in_the_blocks() -> None:
    before = bits(untrained(stage_of()))
    stage = stage_of(stabilizers=[ChildTuningD(0.2, batch_size=1, clip=0.5)])
    after = bits(run(dataclasses.replace(stage, weight_decay=0.0)))
    fisher = _fisher(0.5)
    n = sum(f.numel() for f in fisher.values())
    cut = torch.cat([f.flatten() for f in fisher.values()]).topk(round(0.2 * n)).values[-1]
    moved = {name: after[name] != before[name] for name in before if after[name].is_floating_point()}
    for name, information in fisher.items():
        clear = (information > cut * 1.001) | (information < cut * 0.999)  # sums in another order may move the border
        assert torch.equal((information >= cut)[clear], moved[name][clear])
    assert bool(moved["framing.final.weight"].all()) and bool(moved["backbone.model.pooler.dense.weight"].all())
    assert bool(moved["backbone.model.embeddings.LayerNorm.weight"].all())


def test_d_masks_travel_as_state(step: Callable[..., Any]) -> None:
    one, other = step([ChildTuningD(0.3)]), step([ChildTuningD(0.3)])
    state = {n: torch.rand(m.shape) < 0.3 for n, m in one.hooks.save().items()}
    one.hooks.restore(state)
    other.folded.restore(one.folded.save())
    assert torch.equal(other.hooks.gradient(NAME, torch.ones(32, 32)), state[NAME].float())
    assert other.hooks.gradient("framing.final.weight", torch.ones(2, 32)) == 1.0
    assert all(1 <= one.learner.depth(n) <= 2 for n in state)


def test_d_works_where_only_biases_are_trained_and_is_refused_where_nothing_pretrained_is() -> None:
    learner = run(stage_of(BitFit(), [ChildTuningD(0.5)]))
    before, after = bits(untrained(stage_of(BitFit()))), bits(learner)
    names = [n for n in learner.trained() if ".layer." in n]
    share = sum(int((before[n] != after[n]).sum()) for n in names) / sum(before[n].numel() for n in names)
    assert 0.3 < share <= 0.5
    assert "child_tuning_d chooses among trained pretrained weights, but tuning lora" in refusal(stage_of(LoRA(r=2), [ChildTuningD()]))


@pytest.mark.parametrize("method", [ChildTuningF, ChildTuningD])
def test_a_share_of_nothing_is_refused(method: Any) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        method(p=0.0)
