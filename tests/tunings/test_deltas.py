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
from tempering.tunings.layer_norm import LayerNormOnly
from tempering.tunings.lora import LoRA
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.together import Together
from tempering.tunings.top_layers import TopLayers
from tempering.tunings.truncate import Truncate
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
        "norms and adapters": Houlsby(m=4),
        "norms": LayerNormOnly(),
        "trio": Together((LoRA(r=2), PrefixTuning(p=2, m=None), Houlsby(m=4))),
        "modules": LoRA(r=2, modules_to_save=("intermediate",)),
        "top": TopLayers(1),
        "shorter": Truncate(1, tuning=LoRA(r=2)),
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


@pytest.mark.parametrize(
    ("name", "reloaded"),
    [("norms and adapters", False), ("norms and adapters", True), ("bitfit", True), ("norms", False), ("trio", True), ("modules", True)],
)
def test_what_was_trained_of_the_base_comes_back_from_it(name: str, reloaded: bool, saved: dict[str, tuple[Learner, Path]]) -> None:
    learner, folder = saved[name]
    first = tempering.load(folder) if reloaded else learner
    before = logits(first, dev())
    for other in ("lora", "bitfit", "trio"):
        found = switch(first, saved[other][1])
        assert torch.equal(logits(found, dev()), logits(saved[other][0], dev()))
        assert torch.equal(logits(switch(found, folder), dev()), before) and torch.equal(logits(first, dev()), before)
        path = "encoder.layer.0.attention.self.query.weight"
        assert found.backbone.model.get_parameter(path).data_ptr() == first.backbone.model.get_parameter(path).data_ptr()


def test_a_base_that_has_moved_is_read_again_where_it_is_now(tmp_path: Path) -> None:
    base = save_tiny("bert", tmp_path / "base")
    one, other = fitted(stage_of(BitFit()), base), fitted(stage_of(LoRA(r=2)), base)
    folders = [learner.save_pretrained(tmp_path / name) for learner, name in ((one, "one"), (other, "other"))]
    moved = base.rename(tmp_path / "moved")
    first = tempering.load(folders[0], base_model=moved)
    found = switch(first, folders[1])
    assert torch.equal(logits(found, dev()), logits(other, dev())) and found.backbone.source == str(moved)
    assert torch.equal(logits(switch(found, folders[0]), dev()), logits(one, dev()))


def test_trained_weights_are_never_shared(saved: dict[str, tuple[Learner, Path]]) -> None:
    """Not even where they are equal: training one learner on would move the other."""
    one = tempering.load(saved["bitfit"][1])
    for other in (switch(one, saved["bitfit"][1]), switch(one, saved["lora"][1])):
        trained = [name for name, weight in body_weights(one.backbone).items() if weight.requires_grad]
        theirs = body_weights(other.backbone)
        assert trained and not [n for n in trained if theirs[n].data_ptr() == one.backbone.model.get_parameter(n).data_ptr()]


def test_a_change_over_a_base_that_a_stage_changed(saved: dict[str, tuple[Learner, Path]], tmp_path: Path) -> None:
    learner = fitted(stage_of(LoRA(r=2)), saved["lora"][0].backbone.source)
    with torch.no_grad():
        learner.backbone.embeddings.get_parameter("weight").mul_(0.5)
    learner.backbone.changed = True
    folder, before = learner.save_pretrained(tmp_path / "adapted"), logits(learner, dev())
    found = switch(learner, saved["other"][1])  # over the base as it was
    assert torch.equal(logits(found, dev()), logits(saved["other"][0], dev()))
    assert torch.equal(logits(switch(found, folder), dev()), before)
    with pytest.raises(
        ModelError, match=r"other: is a change of another .*\(.*base\) than .*adapted \(.*base, changed by an earlier stage\)"
    ):
        merge_deltas([folder, saved["other"][1]])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("full", "its tuning Full made one whole model of it"),
        ("top", "its tuning TopLayers made one whole model of it"),
        ("shorter", "its tuning Truncate has dropped blocks of the base model"),
    ],
)
def test_a_whole_model_is_refused_by_name(name: str, said: str, saved: dict[str, tuple[Learner, Path]]) -> None:
    with pytest.raises(ModelError, match=f"cannot take the place of the learner at hand: {said}.*; load the folder with tempering.load"):
        switch(saved[name][0], saved["lora"][1])


def test_a_change_that_was_merged_before_it_was_saved(saved: dict[str, tuple[Learner, Path]], tmp_path: Path) -> None:
    folder = tempering.load(saved["lora"][1]).save_pretrained(tmp_path / "merged", merge=True)
    with pytest.raises(ModelError, match="its tuning LoRA made one whole model of it"):
        switch(tempering.load(folder), saved["bitfit"][1])
    for other in ("other", "bitfit"):
        found = merge_deltas([folder, saved[other][1]], [1.0, 0.0])
        torch.testing.assert_close(logits(found, dev()), logits(saved["lora"][0], dev()), rtol=1e-4, atol=1e-5)


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
    for pair in (["shorter", "lora"], ["lora", "shorter"]):
        with pytest.raises(ModelError, match="shorter: its tuning truncate has dropped blocks .*; leave it out"):
            merge_deltas([saved[name][1] for name in pair])
    stranger = fitted(stage_of(LoRA(r=2)), save_tiny("bert", tmp_path / "stranger", seed=1)).save_pretrained(tmp_path / "delta")
    with pytest.raises(ModelError, match="is a change of another base model"):
        merge_deltas([saved["lora"][1], stranger])
    learner = switch(saved["lora"][0], stranger)  # another source: its own base is loaded
    assert learner.backbone.source != saved["lora"][0].backbone.source
