"""Gates: what they multiply, their count, UniPELT as a recipe, what is refused, and tasks that share a batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.saving import load
from tempering.tunings.bitfit import BitFit
from tempering.tunings.gated import Gate, Gated
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.pfeiffer import Pfeiffer
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.together import Together
from tests.laws.bench import run, stage_of
from tests.tiny import save_tiny, tiny_backbone, tiny_examples, tiny_task
from tests.tunings.oracle import check_count, inputs, states, stir

UNIPELT = Together((Gated(LoRA(r=2)), Gated(PrefixTuning(p=3, m=None)), Gated(Pfeiffer(m=4))))


def gates(backbone: Any) -> dict[str, Gate]:
    return {name: m for name, m in backbone.model.named_modules() if isinstance(m, Gate)}


@pytest.mark.parametrize("tuning", [LoRA(r=2), Pfeiffer(m=4)], ids=["lora", "adapter"])
def test_half_open_gates_halve_the_change_and_open_ones_give_all_of_it(tuning: Any) -> None:
    plain, gated = tiny_backbone(), tiny_backbone()
    tuning.attach(plain)
    stir(plain, 0.05)
    Gated(tuning).attach(gated)
    own = plain.model.state_dict()
    missing, unexpected = gated.model.load_state_dict(own, strict=False)
    assert not unexpected and all(".gate." in name for name in missing)
    for gate in gates(gated).values():
        gate.map.bias.data.fill_(30.0)
    torch.testing.assert_close(states(gated), states(plain), atol=1e-6, rtol=0)
    for gate in gates(gated).values():
        gate.map.bias.data.fill_(-30.0)
    torch.testing.assert_close(states(gated), states(tiny_backbone()), atol=1e-6, rtol=0)


def test_one_lora_by_hand() -> None:
    backbone = tiny_backbone()
    Gated(LoRA(r=2, target_modules=("query",))).attach(backbone)
    stir(backbone)
    layer: Any = backbone.blocks[0].get_submodule(backbone.layout.query)
    x = torch.randn(3, 5, layer.in_features)
    open_ = torch.sigmoid(x @ layer.lora.gate.map.weight.T + layer.lora.gate.map.bias)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias) + open_ * (x @ layer.lora.product().T)
    torch.testing.assert_close(layer(x), expected)


def test_a_prefix_is_scaled_by_the_first_token() -> None:
    backbone = tiny_backbone()
    Gated(PrefixTuning(p=3, m=None)).attach(backbone)
    half = states(backbone)
    for gate in gates(backbone).values():
        gate.map.bias.data.fill_(-30.0)  # keys and values of zero still take their share of attention
    shut = states(backbone)
    for module in backbone.model.modules():
        if type(module).__name__ == "Prefix":
            module.weight.data.zero_()
    torch.testing.assert_close(shut, states(backbone), atol=1e-6, rtol=0)
    assert float((half - shut).abs().max()) > 1e-3


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    backbone = tiny_backbone()
    UNIPELT.attach(backbone)
    stir(backbone, 0.05)
    together = inputs(backbone)
    alone = {k: v[:1, : int(together["attention_mask"][0].sum())] for k, v in together.items()}
    with torch.no_grad():
        a, b = backbone.eval().encode(together).last[0, : alone["input_ids"].shape[1]], backbone.encode(alone).last[0]
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_counts_are_those_of_the_tuning_and_a_vector_a_place() -> None:
    lora = 2 * 12 * 8 * (768 + 768)
    check_count(Gated(LoRA(r=8)), "roberta-base", lora + 24 * 769)
    check_count(Gated(Pfeiffer(m=48)), "bert-base", 12 * (2 * 768 * 48 + 48 + 768 + 769))


def test_unipelt_trains_saves_and_reloads(tmp_path: Path) -> None:
    recipe = Recipe.load("unipelt")
    stage = dataclasses.replace(recipe.stages[0], tuning=UNIPELT, max_steps=3, eval_strategy="no", load_best_model_at_end=False)
    base = save_tiny("bert", tmp_path / "base")
    learner = fit(Recipe("small", (stage,)), tiny_task(), str(base))
    texts = [e.texts[0] for e in tiny_examples(5, seed=4)]
    before = learner.predict_proba(texts)
    learner.save_pretrained(tmp_path / "model")
    assert load(tmp_path / "model").predict_proba(texts) == before
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_training_moves_the_gates() -> None:
    learner = run(stage_of(UNIPELT))
    assert all(float(gate.map.weight.detach().abs().max()) > 0 for gate in gates(learner.backbone).values())


@pytest.mark.parametrize("behind", [BitFit(), LoRA(loraplus_lr_ratio=16.0), LoRA])
def test_what_does_more_than_add_is_refused(behind: Any) -> None:
    with pytest.raises(ValueError, match="gate"):
        Gated(behind)


def test_adapters_that_carry_the_sub_layer_along_are_refused() -> None:
    with pytest.raises(ModelError, match="gated cannot open"):
        Gated(Houlsby(m=4, layer_norm=False)).attach(tiny_backbone())


def test_it_does_not_merge() -> None:
    with pytest.raises(ModelError, match="depends on the text"):
        Gated(LoRA()).merge(tiny_backbone())
