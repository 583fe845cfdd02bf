"""Saved deltas on one loaded base: switched, and added up with weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tempering
from tempering.errors import ModelError, RecipeError
from tempering.learner import Learner
from tempering.tunings.adalora import AdaLoRA
from tempering.tunings.attach import body_weights
from tempering.tunings.bitfit import BitFit
from tempering.tunings.deltas import bare, merge_deltas, switch
from tempering.tunings.dora import DoRA
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tests.laws.bench import dev, logits, stage_of
from tests.laws.test_round_trip import fitted
from tests.tiny import FAMILIES, save_tiny, tiny_backbone
from tests.tunings.oracle import attached, states, stir


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Learner, Path]]:
    """Learners of one base, saved."""
    folder = tmp_path_factory.mktemp("deltas")
    base, found = save_tiny("bert", folder / "base"), {}
    tunings: dict[str, Any] = {
        "lora": LoRA(r=2),
        "other": LoRA(r=3, lora_alpha=5, use_rslora=True),
        "dora": DoRA(r=2),
        "bitfit": BitFit(),
        "full": Full(),
        "houlsby": Houlsby(m=4, layer_norm=False),
        "adalora": AdaLoRA(target_r=1, init_r=3),
    }
    for name, tuning in tunings.items():
        learner = fitted(stage_of(tuning), base)
        found[name] = (learner, learner.save_pretrained(folder / name))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bare_body_is_the_pretrained_one(family: str) -> None:
    plain, backbone = tiny_backbone(family), attached(LoRA(r=2), family)
    before = states(plain)
    stir(backbone)
    found = bare(backbone)
    assert set(found.state_dict()) == set(plain.state_dict()) and torch.equal(states(found), before)
    assert body_weights(found).keys() == body_weights(backbone).keys()
    pairs = zip(body_weights(found).values(), body_weights(backbone).values(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert not torch.equal(states(backbone), before)  # the one it came from keeps its change


def test_switching_gives_the_other_learner_over_the_same_memory(saved: dict[str, tuple[Learner, Path]]) -> None:
    first = tempering.load(saved["lora"][1])
    before = logits(first, dev())
    for name in ("other", "dora", "houlsby", "adalora", "lora"):
        learner, folder = saved[name]
        found = switch(first, folder)
        assert torch.equal(logits(found, dev()), logits(learner, dev()))
        weight = "encoder.layer.0.intermediate.dense.weight"
        assert found.backbone.model.get_parameter(weight).data_ptr() == first.backbone.model.get_parameter(weight).data_ptr()
        assert torch.equal(logits(first, dev()), before)


def test_a_base_that_was_trained_in_place_is_refused(saved: dict[str, tuple[Learner, Path]]) -> None:
    with pytest.raises(ModelError, match="has changed the base model itself"):
        switch(saved["full"][0], saved["lora"][1])


def test_loras_add_up_to_a_lora(saved: dict[str, tuple[Learner, Path]]) -> None:
    (one, first), (other, second) = saved["lora"], saved["other"]
    found = merge_deltas([first, second], [0.7, -0.2])
    assert isinstance(found.tuning, LoRA) and found.tuning.r == 5
    path = "encoder.layer.1.attention.self.value.lora"
    parts = [0.7 * one.backbone.model.get_submodule(path).product(), -0.2 * other.backbone.model.get_submodule(path).product()]
    torch.testing.assert_close(found.backbone.model.get_submodule(path).product(), sum(parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", [("lora", "other"), ("dora", "bitfit"), ("full", "bitfit"), ("bitfit", "adalora")])
def test_one_delta_with_weight_one_is_itself(pair: tuple[str, str], saved: dict[str, tuple[Learner, Path]]) -> None:
    """Whether LoRAs are joined, or whole weights summed, also where a tuning trained the base's own."""
    learner, folder = saved[pair[0]]
    found = merge_deltas([folder, saved[pair[1]][1]], [1.0, 0.0])
    torch.testing.assert_close(logits(found, dev()), logits(learner, dev()), rtol=1e-4, atol=1e-5)


def test_deltas_of_different_kinds_add_up_to_whole_weights(saved: dict[str, tuple[Learner, Path]]) -> None:
    folders = [saved[name][1] for name in ("dora", "lora", "adalora")]
    found = merge_deltas(folders, [0.5, 2.0, 1.0])
    base = body_weights(bare(saved["lora"][0].backbone))
    name = "encoder.layer.0.attention.self.query.weight"
    expected = base[name].clone()
    for folder, share in zip(folders, (0.5, 2.0, 1.0), strict=True):
        merged = tempering.load(folder)
        merged.tuning.merge(merged.backbone)
        expected += share * (body_weights(merged.backbone)[name] - base[name])
    torch.testing.assert_close(body_weights(found.backbone)[name], expected, rtol=1e-5, atol=1e-6)
    assert found.framing.labels == saved["dora"][0].framing.labels


def test_the_merged_learner_is_saved_and_loaded(saved: dict[str, tuple[Learner, Path]], tmp_path: Path) -> None:
    for i, names in enumerate((("lora", "other"), ("dora", "lora"))):
        found = merge_deltas([saved[name][1] for name in names])
        folder = found.save_pretrained(tmp_path / str(i))
        assert torch.equal(logits(tempering.load(folder), dev()), logits(found, dev()))


def test_bad_use_is_refused(saved: dict[str, tuple[Learner, Path]], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least two folders and one weight for each"):
        merge_deltas([saved["lora"][1]])
    with pytest.raises(RecipeError, match="found 2 folders and 3 weights"):
        merge_deltas([saved["lora"][1], saved["other"][1]], [1, 2, 3])
    with pytest.raises(ModelError, match="cannot be merged into weights"):
        merge_deltas([saved["lora"][1], saved["houlsby"][1]])
    stranger = fitted(stage_of(LoRA(r=2)), save_tiny("bert", tmp_path / "stranger", seed=1)).save_pretrained(tmp_path / "delta")
    with pytest.raises(ModelError, match="is a change of another base model"):
        merge_deltas([saved["lora"][1], stranger])
    learner = switch(saved["lora"][0], stranger)  # another source: its own base is loaded
    assert learner.backbone.source != saved["lora"][0].backbone.source
