"""Full, Frozen, TopLayers and BitFit: which weights they train, by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tempering.backbone import Backbone
from tempering.errors import ModelError, RecipeError
from tempering.recipe import Recipe
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.top_layers import TopLayers
from tests.tiny import tiny_backbone


def _trained(tuning: Any, family: str = "bert") -> tuple[set[str], Backbone]:
    backbone = tiny_backbone(family)
    tuning.attach(backbone)
    return {n.removeprefix("model.") for n, w in backbone.named_parameters() if w.requires_grad}, backbone


def _all(backbone: Backbone) -> set[str]:
    return {n for n, _ in backbone.model.named_parameters()}


def test_full_and_frozen_are_all_and_nothing() -> None:
    trained, backbone = _trained(Full())
    assert trained == _all(backbone)
    assert _trained(Frozen())[0] == set()


def test_full_after_frozen_trains_again() -> None:
    backbone = tiny_backbone()
    Frozen().attach(backbone)
    Full().attach(backbone)
    assert all(w.requires_grad for w in backbone.parameters())


@pytest.mark.parametrize(
    ("family", "left_out"),
    [
        ("bert", ("embeddings.",)),
        ("electra", ("embeddings.", "embeddings_project.")),
        ("gpt2", ("wte.", "wpe.")),
        ("llama", ("embed_tokens.",)),
        ("t5", ("shared.",)),
        ("deberta-v2", ("embeddings.", "encoder.rel_embeddings.", "encoder.LayerNorm.")),
    ],
)
def test_full_without_embeddings(family: str, left_out: tuple[str, ...]) -> None:
    trained, backbone = _trained(Full(embeddings=False), family)
    assert {n for n in _all(backbone) if n.startswith(left_out)} == _all(backbone) - trained != set()


@pytest.mark.parametrize(
    ("family", "k", "expected"),
    [
        ("bert", 1, ("encoder.layer.1.", "pooler.")),
        ("bert", 2, ("encoder.layer.", "pooler.")),
        ("gpt2", 1, ("h.1.", "ln_f.")),
        ("llama", 1, ("layers.1.", "norm.")),
        ("modernbert", 1, ("layers.1.", "final_norm.")),
        ("t5", 1, ("encoder.block.1.", "encoder.final_layer_norm.")),
    ],
)
def test_top_layers(family: str, k: int, expected: tuple[str, ...]) -> None:
    trained, backbone = _trained(TopLayers(k), family)
    assert trained == {n for n in _all(backbone) if n.startswith(expected)}
    assert all(any(n.startswith(e) for n in trained) for e in expected)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [((0,), ("encoder.layer.0.",)), ((-1,), ("encoder.layer.1.",)), ((-2, 1), ("encoder.layer.",)), ((1, -1), ("encoder.layer.1.",))],
)
def test_any_choice_of_layers_from_either_end(layers: tuple[int, ...], expected: tuple[str, ...]) -> None:
    trained, backbone = _trained(TopLayers(layers=layers))
    assert trained == {n for n in _all(backbone) if n.startswith((*expected, "pooler."))}
    assert TopLayers(layers=layers).count(backbone) == sum(w.numel() for w in backbone.parameters() if w.requires_grad)


def test_a_layer_that_is_not_there_and_both_ways_of_choosing_at_once_are_refused() -> None:
    for wrong in ((2,), (0, -3)):
        with pytest.raises(ModelError, match=r"layers names block -?\d, but tiny-bert has 2 blocks; give numbers from 0 to 1"):
            _trained(TopLayers(layers=wrong))
    with pytest.raises(ValidationError, match="give one of the two"):
        TopLayers(k=2, layers=(0,))


def test_an_override_of_one_way_of_choosing_takes_the_place_of_the_other() -> None:
    recipe = Recipe.load("top-layers")
    assert recipe.stages[0].tuning == TopLayers(2)
    named = recipe.override({"tuning.layers": [0, -1]})
    assert named.stages[0].tuning == TopLayers(layers=(0, -1))
    assert named.override({"tuning.k": 3}).stages[0].tuning == TopLayers(3)
    with pytest.raises(RecipeError) as caught:
        recipe.override({"tuning": {"top_layers": {"k": 2, "layers": [0]}}})
    assert str(caught.value).endswith("top_layers: k counts blocks from the top and layers names them; give one of the two")


def test_more_top_layers_than_there_are() -> None:
    with pytest.raises(ModelError, match="k = 3, but tiny-bert has 2 blocks; give k between 1 and 2"):
        _trained(TopLayers(3))


def test_bitfit_trains_the_biases_of_maps_norms_pooler_and_embeddings() -> None:
    trained, backbone = _trained(BitFit())
    assert trained == {n for n in _all(backbone) if n.rpartition(".")[2] == "bias"}
    assert {"embeddings.LayerNorm.bias", "pooler.dense.bias", "encoder.layer.0.attention.self.query.bias"} <= trained


def test_bitfit_on_the_subset_of_the_paper() -> None:
    trained, _ = _trained(BitFit(subset=True))
    places = ("attention.self.query", "intermediate.dense")
    assert trained == {f"encoder.layer.{i}.{place}.bias" for i in (0, 1) for place in places}
    assert _trained(BitFit(subset=True), "qwen2")[0] == {f"layers.{i}.self_attn.q_proj.bias" for i in (0, 1)}
    with pytest.raises(ModelError, match="has none; use lora"):
        _trained(BitFit(subset=True), "llama")


def test_bitfit_where_only_some_maps_have_a_bias() -> None:
    trained, _ = _trained(BitFit(), "qwen2")
    assert trained == {f"layers.{i}.self_attn.{p}_proj.bias" for i in (0, 1) for p in "qkv"}
