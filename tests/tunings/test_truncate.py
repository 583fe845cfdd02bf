"""Truncate: which blocks go, what is left is what transformers builds and loads, and another tuning on top."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError

import tempering
from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.exporting import save_body
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.tunings.fish import FISH
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tempering.tunings.truncate import Truncate
from tests.laws.bench import SEEDS, dev, logits, stage_of
from tests.tiny import FAMILIES, save_tiny, tiny_backbone, tiny_config, tiny_task, tiny_tokenizer
from tests.tunings.shared import inputs, one_step, states, trained

SHORTER = [f for f in FAMILIES if f not in ("albert", "bart")]


def deep(family: str = "bert", layers: int = 6) -> Backbone:
    """A tiny body of more blocks."""
    config = tiny_config(family)
    if hasattr(config, "layer_types"):
        config.layer_types = (config.layer_types * layers)[:layers]
    config.num_hidden_layers = layers
    with torch_stream("deep", family):
        return Backbone(transformers.AutoModel.from_config(config).eval(), tiny_tokenizer(family), f"deep-{family}")


@pytest.mark.parametrize(
    ("where", "k", "kept"),
    [("top", 2, [0, 1, 2, 3]), ("bottom", 2, [2, 3, 4, 5]), ("alternate", 2, [0, 1, 3, 5]), ("alternate", 3, [1, 3, 5]), ("top", 5, [0])],
)
def test_the_blocks_that_stay(where: Any, k: int, kept: list[int]) -> None:
    backbone, whole = deep(), deep()
    own = {n for n in whole.own if not n.startswith("encoder.layer.")}
    Truncate(k=k, where=where).attach(backbone)
    assert backbone.config.num_hidden_layers == len(backbone.blocks) == len(kept) and backbone.top == len(kept) + 1
    for block, number in zip(backbone.blocks, kept, strict=True):
        for (name, a), (_, b) in zip(block.state_dict().items(), whole.blocks[number].state_dict().items(), strict=True):
            assert torch.equal(a, b), name
    assert backbone.own == set(backbone.model.state_dict()) >= own
    assert backbone.pretrained == backbone.own


def test_the_output_is_that_of_the_last_block_left() -> None:
    backbone, whole = tiny_backbone(), tiny_backbone()
    Truncate(k=1).attach(backbone)
    with torch.no_grad():
        found, full = backbone.encode(inputs(backbone)), whole.encode(inputs(whole), layers=True)
    assert full.layers is not None
    assert torch.equal(found.last, full.layers[1])
    assert torch.equal(found.pooled, whole.model.pooler(full.layers[1]))  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["top", "alternate", "bottom"])
@pytest.mark.parametrize("family", SHORTER)
def test_transformers_loads_what_is_left_or_the_place_is_refused(family: str, where: Any, tmp_path: Path) -> None:
    tuning, backbone = Truncate(k=1, where=where), tiny_backbone(family)
    if family in ("modernbert", "t5") and where != "top":  # their first block is built otherwise
        with pytest.raises(ModelError, match="truncate: in tiny-.* cannot stand in place 0, .*choose where: top"):
            tuning.attach(backbone)
        assert len(backbone.blocks) == backbone.config.num_hidden_layers == 2
        return
    tuning.attach(backbone)
    one_step(backbone)
    save_body(backbone, tmp_path)
    back = Backbone.load(str(tmp_path))
    torch.testing.assert_close(states(back), states(backbone), rtol=1e-5, atol=1e-5)
    assert back.own == backbone.own and back.pretrained == backbone.own
    tuning.attach(back)  # the folder says that it is truncated: a later stage drops no more
    assert len(back.blocks) == 1


def test_blocks_that_know_their_number_and_their_kind_are_told(tmp_path: Path) -> None:
    """Of five blocks of changing kinds the first, third and fifth stay, and a reload computes the same."""
    backbone = deep("modernbert", 5)
    kinds = list(backbone.config.layer_types)
    Truncate(k=2, where="alternate").attach(backbone)
    assert backbone.config.layer_types == [kinds[i] for i in (0, 2, 4)]
    gpt = deep("gpt2", 4)
    Truncate(k=1, where="bottom").attach(gpt)
    assert [block.attn.layer_idx for block in gpt.blocks] == [0, 1, 2]  # type: ignore[union-attr]
    save_body(backbone, tmp_path)
    torch.testing.assert_close(states(Backbone.load(str(tmp_path))), states(backbone), rtol=1e-5, atol=1e-5)


def test_a_fitted_one_is_saved_whole_and_loads_as_a_shorter_classifier(tmp_path: Path) -> None:
    backbone = Backbone.load(str(save_tiny("bert", tmp_path / "base")))
    learner = stage_of(Truncate(k=1)).run(backbone, tiny_task(24), SEEDS)
    learner.save_pretrained(tmp_path / "saved")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == 1
    assert torch.equal(logits(tempering.load(tmp_path / "saved"), dev()), logits(learner, dev()))


@pytest.mark.parametrize("inner", [LoRA(r=2), FISH(density=0.02, rows=4), Frozen()], ids=["lora", "fish", "frozen"])
def test_another_tuning_trains_what_is_left_and_comes_back(inner: Any, tmp_path: Path) -> None:
    tuning = Truncate(k=1, tuning=inner)
    backbone = Backbone.load(str(save_tiny("bert", tmp_path / "base")))
    backbone.base_fingerprint = backbone.fingerprint()
    assert (tuning.trunk_eval, tuning.trains_pretrained, tuning.trains_backbone) == (
        inner.trunk_eval,
        inner.trains_pretrained,
        inner.trains_backbone,
    )
    learner = stage_of(tuning).run(backbone, tiny_task(24), SEEDS)
    assert sum(w.numel() for w in trained(backbone).values()) == tuning.count(backbone)
    assert not [n for n in trained(backbone) if n in backbone.pretrained]
    learner.save_pretrained(tmp_path / "saved")
    back = tempering.load(tmp_path / "saved")
    assert len(back.backbone.blocks) == 1
    assert torch.equal(logits(back, dev()), logits(learner, dev()))


def test_the_same_setting_drops_once_and_another_is_refused() -> None:
    backbone = deep()
    Truncate(k=2).attach(backbone)
    Truncate(k=2, tuning=LoRA()).attach(copy.deepcopy(backbone))
    Truncate(k=2).attach(backbone)
    assert len(backbone.blocks) == 4
    with pytest.raises(ModelError, match=r"truncated before \(top-2\), and this stage asks for bottom-2"):
        Truncate(k=2, where="bottom").attach(backbone)


@pytest.mark.parametrize(("where", "k", "advice"), [("top", 2, "between 1 and 1"), ("bottom", 9, "between 1 and 1")])
def test_more_blocks_than_there_are(where: Any, k: int, advice: str) -> None:
    with pytest.raises(ModelError, match=f"k = {k}, but tiny-bert has 2 blocks; give k {advice}"):
        Truncate(k=k, where=where).attach(tiny_backbone())


def test_more_than_every_second_block_shared_blocks_and_an_empty_choice_are_refused() -> None:
    with pytest.raises(ModelError, match="more than every second of the 6 blocks .* at most 3"):
        Truncate(k=4, where="alternate").attach(deep())
    with pytest.raises(ModelError, match="share one set of weights"):
        Truncate(k=1).attach(tiny_backbone("albert"))
    with pytest.raises(ValidationError, match="k"):
        Truncate(k=0)
    for wrong in ("lora", LoRA, None):
        with pytest.raises(ValidationError, match=r"expected a tuning .* such as LoRA\(\)"):
            Truncate(tuning=wrong)


def test_the_nested_tuning_is_part_of_the_recipe() -> None:
    recipe = Recipe("r", (Train(tuning=Truncate(k=1, tuning=LoRA(r=4))),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Truncate().tuning == Full() and Truncate(k=1, tuning=LoRA(r=4)).tunings == (LoRA(r=4),)


def test_two_stacks_in_use_are_refused() -> None:
    opened = tiny_backbone("t5")
    opened.open_decoder()
    for backbone in (tiny_backbone("bart"), opened):
        with pytest.raises(ModelError, match="drops blocks of one stack; use lora or top_layers"):
            Truncate(k=1).attach(backbone)
