"""Layer-wise decay: the rate of block l is base * decay^(L - l)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tempering.stabilizers.layer_decay import LayerDecay
from tempering.train import optimizer
from tempering.train.settings import Loop
from tempering.tunings.lora import LoRA
from tempering.tunings.top_layers import TopLayers

EXPECTED = {"embeddings.word_embeddings": 0.25, "encoder.layer.0.": 0.5, "encoder.layer.1.": 1.0, "pooler.": 1.0, "framing.": 1.0}


def test_rates_of_two_blocks(step: Callable[..., Any]) -> None:
    """L = 2, decay 0.5: top block 1, lower block 0.5, embeddings 0.25, pooler and head 1."""
    one = step([LayerDecay(0.5)])
    for part, factor in EXPECTED.items():
        names = [n for n in one.trained if part in n]
        assert names
        assert {one.folded.rate(n, 0.3) for n in names} == {factor}


@pytest.mark.parametrize(("family", "lowest"), [("gpt2", "wte"), ("deberta-v2", "rel_embeddings"), ("modernbert", "tok_embeddings")])
def test_other_families_count_the_same_depths(family: str, lowest: str, step: Callable[..., Any]) -> None:
    one = step([LayerDecay(0.5)], family=family)
    found = {n: one.folded.rate(n, 0.0) for n in one.trained}
    assert set(found.values()) == {0.25, 0.5, 1.0}
    assert {rate for n, rate in found.items() if lowest in n} == {0.25}


def test_the_optimizer_gets_the_product_of_peak_schedule_and_factor(step: Callable[..., Any]) -> None:
    one = step([LayerDecay(0.5)])
    optim = optimizer.make(one.trained, Loop(learning_rate=0.1, head_learning_rate=0.3), per_weight=True)
    optimizer.set_rates(optim, one.folded, scale=0.5, progress=0.0)
    rates = {group["names"][0]: group["lr"] for group in optim.param_groups}
    assert len(rates) == len(one.trained)
    for name, rate in rates.items():
        peak = 0.3 if name.startswith("framing.") else 0.1
        assert rate == pytest.approx(peak * 0.5 * one.folded.rate(name, 0.0))


def test_added_weights_take_the_depth_of_their_block(step: Callable[..., Any]) -> None:
    one = step([LayerDecay(0.5)], tuning=LoRA(r=2))
    assert {one.folded.rate(n, 0.0) for n in one.trained if "layer.0" in n} == {0.5}
    assert {one.folded.rate(n, 0.0) for n in one.trained if "layer.1" in n} == {1.0}


def test_frozen_layers_need_no_rate(step: Callable[..., Any]) -> None:
    one = step([LayerDecay(0.5)], tuning=TopLayers(1))
    assert {one.folded.rate(n, 0.0) for n in one.trained} == {1.0}


@pytest.mark.parametrize("decay", [0.0, 1.1])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        LayerDecay(decay=decay)
