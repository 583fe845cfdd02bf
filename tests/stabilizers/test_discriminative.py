"""Discriminative rates: each layer's is that of the one above it over the ratio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tempering.errors import RecipeError
from tempering.recipe import Recipe
from tempering.stabilizers.discriminative import Discriminative
from tempering.stabilizers.layer_decay import LayerDecay
from tempering.stages.train import Train
from tempering.tunings.frozen import Frozen
from tempering.tunings.lora import LoRA

EXPECTED = {"embeddings.word_embeddings": 3, "encoder.layer.0.": 2, "encoder.layer.1.": 1, "pooler.": 0, "framing.": 0}


def test_rates_of_two_blocks(step: Callable[..., Any]) -> None:
    """Ratio 2.6: head and pooler 1, top block 1 / 2.6, lower block 1 / 2.6^2, embeddings 1 / 2.6^3, whatever the progress."""
    one = step([Discriminative()])
    for part, below in EXPECTED.items():
        names = [n for n in one.trained if part in n]
        assert names
        for name in names:
            assert one.folded.rate(name, 0.0) == one.folded.rate(name, 0.9) == pytest.approx(2.6**-below)


def test_it_is_layer_decay_with_the_head_as_a_layer(step: Callable[..., Any]) -> None:
    mine, theirs = step([Discriminative(2.0)]), step([LayerDecay(0.5)])
    for name in mine.trained:
        inside = not name.startswith("framing.") and "pooler" not in name
        assert mine.folded.rate(name, 0.0) == theirs.folded.rate(name, 0.0) * (0.5 if inside else 1.0)


@pytest.mark.parametrize(("family", "lowest"), [("gpt2", "wte"), ("modernbert", "tok_embeddings")])
def test_other_families(family: str, lowest: str, step: Callable[..., Any]) -> None:
    one = step([Discriminative(2.0)], family=family)
    assert {one.folded.rate(n, 0.0) for n in one.trained} == {1.0, 0.5, 0.25, 0.125}
    assert {one.folded.rate(n, 0.0) for n in one.trained if lowest in n} == {0.125}


def test_added_weights_take_the_depth_of_their_block(step: Callable[..., Any]) -> None:
    one = step([Discriminative(2.0)], tuning=LoRA(r=2))
    assert {one.folded.rate(n, 0.0) for n in one.trained if "layer.0" in n} == {0.25}


def test_nothing_inside_to_slow_down_is_refused() -> None:
    with pytest.raises(RecipeError, match="discriminative .* tuning frozen trains none of those"):
        Recipe("r", (Train(tuning=Frozen(), stabilizers=(Discriminative(),)),)).check()


def test_a_ratio_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio"):
        Discriminative(ratio=0.5)
