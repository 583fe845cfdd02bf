"""Several tunings of one backbone: what they train, how they are written, merged and saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tempering.codec import decode, encode
from tempering.errors import ModelError, RecipeError
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.saving import load
from tempering.stages.train import Train
from tempering.tunings.adapter_drop import without_lowest
from tempering.tunings.bitfit import BitFit
from tempering.tunings.dora import DoRA
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tempering.tunings.together import Together
from tempering.tunings.top_layers import TopLayers
from tempering.tunings.truncate import Truncate
from tests.laws.bench import dev, logits, run, stage_of, untrained
from tests.tiny import save_tiny, tiny_backbone, tiny_task

PAIR = Together((LoRA(r=2), Houlsby(m=4)))


def trained(tuning: object) -> set[str]:
    backbone = tiny_backbone()
    tuning.attach(backbone)  # type: ignore[attr-defined]
    return {n for n, w in backbone.named_parameters() if w.requires_grad}


def test_what_any_part_trains_is_trained() -> None:
    assert trained(PAIR) == trained(LoRA(r=2)) | trained(Houlsby(m=4))


def test_the_order_of_the_parts_changes_nothing() -> None:
    swapped = Together(PAIR.tunings[::-1])
    one, other = tiny_backbone(), tiny_backbone()
    PAIR.attach(one)
    swapped.attach(other)
    other.load_state_dict(one.state_dict())
    for backbone in (one, other):
        for name, weight in backbone.named_parameters():
            if "lora" in name:
                weight.data.fill_(0.03)
    inputs = dict(one.tokenizer(["a good film", "sad"], padding=True, return_tensors="pt"))
    assert torch.equal(one.eval().encode(inputs).last, other.eval().encode(inputs).last)


@pytest.mark.parametrize(
    "parts",
    [(LoRA(r=2), Houlsby(m=4)), (BitFit(), Houlsby(m=4)), (BitFit(), TopLayers(k=1), LoRA(r=2))],
    ids=["added", "norms counted once", "three"],
)
def test_shared_weights_count_once(parts: tuple[object, ...]) -> None:
    tuning, backbone = Together(parts), tiny_backbone()
    foretold = tuning.count(backbone)
    tuning.attach(backbone)
    assert foretold == sum(w.numel() for w in backbone.parameters() if w.requires_grad)


def test_it_is_written_as_a_list() -> None:
    plain = encode(PAIR, "tuning")
    assert plain == [{"lora": {"r": 2}}, {"houlsby": {"m": 4}}]
    assert decode("tuning", plain, "tuning") == PAIR
    recipe = Recipe.from_yaml("version: 1\nstages:\n- train:\n    tuning:\n    - lora: {r: 2}\n    - houlsby: {m: 4}\n", "here")
    assert recipe.stages[0].tuning == PAIR
    assert Recipe.from_yaml(recipe.to_yaml(), "here") == recipe


def test_a_part_is_overridden_by_its_name_or_place() -> None:
    recipe = Recipe("pair", (Train(tuning=PAIR),))
    assert recipe.override({"tuning.lora.r": 3}).stages[0].tuning.tunings[0].r == 3
    assert recipe.override({"tuning.1.m": 8}).stages[0].tuning.tunings[1].m == 8
    assert recipe.override({"tuning": ["bitfit", "lora"]}).stages[0].tuning == Together((BitFit(), LoRA()))


@pytest.mark.parametrize(
    ("listed", "says"),
    [(["lora"], "at least two"), (["lora", {"lora": {"r": 2}}], "twice"), (["full", "lora"], "leave it out"), (["lora", "lorra"], "lora")],
)
def test_what_makes_no_sense_is_refused(listed: list[object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        decode("tuning", listed, "stages.0.tuning")


def test_it_says_of_itself_what_its_parts_say() -> None:
    assert (PAIR.identity, PAIR.merges, PAIR.trains_pretrained, PAIR.trains_matrices) == ("near", False, True, False)
    mergeable = Together((LoRA(r=2), BitFit()))
    assert (mergeable.identity, mergeable.merges, mergeable.trains_pretrained) == ("exact", True, True)


def test_half_a_merge_is_refused_and_a_whole_one_keeps_scores() -> None:
    learner = run(stage_of(PAIR))
    before = logits(learner, dev())
    with pytest.raises(ModelError, match="Houlsby cannot be merged"):
        PAIR.merge(learner.backbone)
    assert torch.equal(logits(learner, dev()), before)


@pytest.mark.parametrize("tuning", [PAIR, Together((LoRA(r=2), BitFit()))], ids=["added", "in place"])
def test_saved_and_loaded_it_scores_the_same(tuning: Together, tmp_path: Path) -> None:
    stage = stage_of(tuning)
    learner = fit(Recipe("pair", (stage,)), tiny_task(24), str(save_tiny("bert", tmp_path / "base")), seed=0)
    learner.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.tuning == tuning
    torch.testing.assert_close(logits(again, dev()), logits(learner, dev()), rtol=0, atol=0)


@pytest.mark.parametrize("parts", [(IA3(), LoRA(r=2)), (LoRA(r=2), IA3()), (LoRA(r=2), DoRA(r=2))], ids=["scaled", "low rank", "norms"])
def test_parts_merge_in_the_order_that_their_formulas_ask_for(parts: tuple[object, ...]) -> None:
    tuning = Together(parts)
    learner = run(stage_of(tuning))
    before = logits(learner, dev())
    tuning.merge(learner.backbone)
    torch.testing.assert_close(logits(learner, dev()), before, rtol=1e-5, atol=1e-5)


def test_full_beside_another_makes_no_sense_in_python_either() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        Together((Full(), LoRA()))


def test_truncate_is_refused_in_a_list() -> None:
    with pytest.raises(ValueError, match="write the others inside it"):
        Together((LoRA(), Truncate(1)))


def test_the_lowest_adapters_of_one_part_can_be_dropped() -> None:
    learner = untrained(stage_of(Together((LoRA(r=2), Houlsby(m=4)))))
    without_lowest(learner, 1)
    assert [getattr(part, "drop_layers", None) for part in learner.tuning.tunings] == [None, 1]
    hung = [name for name, _ in learner.named_modules() if "houlsby" in name]
    assert hung and not any(".layer.0." in name for name in hung)
