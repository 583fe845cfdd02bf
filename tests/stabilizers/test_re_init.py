"""Re-initialization: which weights are drawn anew, how, from what, and how often."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.errors import ModelError, RecipeError
from tempering.stabilizers.l2_sp import L2SP
from tempering.stabilizers.re_init import ReInit
from tempering.stages.setup import Surroundings
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tempering.tunings.top_layers import TopLayers
from tests.laws.bench import bits, differing, refusal, run, stage_of

BODY = "backbone.model."


def _drawn(one: Any, k: int, seed: int = 5) -> dict[str, torch.Tensor]:
    """What changed in the learner: its new values by name."""
    before = bits(one.learner)
    ReInit(k).initialize(one.learner, seed)
    after = bits(one.learner)
    return {n: after[n] for n in differing(before, after)}


def test_the_top_block_and_the_pooler_are_drawn_and_the_rest_keeps_its_bits(step: Callable[..., Any]) -> None:
    one = step()
    drawn = _drawn(one, 1)
    wanted = {n for n in one.trained if "encoder.layer.1." in n or "pooler." in n}
    assert set(drawn) == wanted


def test_they_are_drawn_as_bert_draws_them(step: Callable[..., Any]) -> None:
    """Linear N(0, initializer_range), biases 0, norms 1 and 0."""
    one = step()
    std = one.learner.backbone.config.initializer_range
    drawn = _drawn(one, 2)
    for name, value in drawn.items():
        if name.endswith("bias"):
            assert not value.any()
        elif "LayerNorm" in name:
            assert bool((value == 1).all())
    matrices = torch.cat([v.flatten() for n, v in drawn.items() if v.ndim == 2])
    assert len(matrices) > 10_000
    assert float(matrices.std()) == pytest.approx(std, rel=0.03) and abs(float(matrices.mean())) < std / 30


def test_each_family_draws_in_its_own_way(step: Callable[..., Any]) -> None:
    """GPT-2 scales what it adds to the residual stream by 1 / sqrt(2 L)."""
    one = step(family="gpt2")
    config = one.learner.backbone.config
    drawn = _drawn(one, 1)
    residual = torch.cat([v.flatten() for n, v in drawn.items() if n.endswith("c_proj.weight")])
    assert float(residual.std()) == pytest.approx(config.initializer_range / (2 * config.n_layer) ** 0.5, rel=0.1)
    assert any("ln_f" in n for n in one.trained) and not [n for n in drawn if ".h.0." in n or "wte" in n]


def test_the_draw_is_that_of_the_seed(step: Callable[..., Any]) -> None:
    first, again, other = (_drawn(step(), 1, seed) for seed in (3, 3, 4))
    assert differing(first, again) == []
    assert {n for n in first if first[n].ndim == 2} == set(differing(first, other))


def test_no_global_stream_moves(step: Callable[..., Any]) -> None:
    one, before = step(), torch.get_rng_state()
    ReInit(1).initialize(one.learner, 0)
    assert torch.equal(before, torch.get_rng_state())


def _start_of(stage: Any, **how: Any) -> dict[str, torch.Tensor]:
    """The weights as the first step finds them (a rate of next to nothing)."""
    return bits(run(dataclasses.replace(stage, learning_rate=1e-30, weight_decay=0.0), **how))


def test_it_acts_before_the_first_step_and_before_the_methods_that_remember_the_start() -> None:
    plain, drawn = _start_of(stage_of()), _start_of(stage_of(stabilizers=[ReInit(1)]))
    moved = [n for n in plain if not torch.allclose(plain[n], drawn[n], rtol=0, atol=1e-20)]
    assert moved and all("encoder.layer.1." in n or "pooler." in n for n in moved)
    kept: dict[str, Any] = {}

    def remember(self: L2SP, learner: Any, trained: Any, seed: int) -> Any:
        kept.update({n: w.detach().clone() for n, w in trained.items()})
        return start(self, learner, trained, seed)

    start = L2SP.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(L2SP, "start", remember)
        for order in ([L2SP(), ReInit(1)], [ReInit(1), L2SP()]):
            kept.clear()
            run(stage_of(stabilizers=order))
            assert set(moved) <= set(kept)
            assert all(torch.allclose(kept[n], drawn[n], rtol=0, atol=1e-20) for n in moved)


def test_a_resumed_run_does_not_draw_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    draw = ReInit.initialize
    monkeypatch.setattr(ReInit, "initialize", lambda *given: (times.append(1), draw(*given))[1])
    stage = dataclasses.replace(stage_of(stabilizers=[ReInit(1)]), save_strategy="steps", save_steps=1)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    whole = bits(run(stage, around=Surroundings(tmp_path / "a")))
    with pytest.raises(KeyboardInterrupt):
        run(stage, around=Surroundings(tmp_path / "b", listener=stop))
    assert len(times) == 2
    again = run(stage, around=Surroundings(tmp_path / "b", resume=True))
    assert len(times) == 2 and differing(whole, bits(again)) == []


def test_weights_that_would_stay_as_drawn_are_refused(step: Callable[..., Any]) -> None:
    assert "re_init draws pretrained layers anew" in refusal(stage_of(LoRA(r=2), [ReInit(1)]))
    with pytest.raises(RecipeError, match=r"would leave encoder\.layer\.0\..* as drawn"):
        step([ReInit(2)], tuning=TopLayers(1))
    assert step([ReInit(1)], tuning=TopLayers(1)).folded.hooks
    assert step([ReInit(2)], tuning=Full(embeddings=False)).folded.hooks


def test_more_blocks_than_there_are_or_shared_ones_are_refused(step: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="k = 3, but tiny-bert has 2 blocks"):
        step([ReInit(3)])
    with pytest.raises(ModelError, match="re_init cannot serve the albert family"):
        step([ReInit(1)], family="albert")
