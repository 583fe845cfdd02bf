"""A tuning that waits under a name for a later stage: prompts that are pre-trained (PPT) or transferred (SPoT), and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.saving import load
from tempering.stages.setup import Surroundings, assemble, leave
from tempering.stages.train import Train
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.grft import GRFT
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.p_tuning import PTuning
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.prompt_tuning import PromptTuning
from tempering.tunings.prompts import prompt_of
from tempering.tunings.together import Together
from tests.framings.test_masked_lm import save_masked_lm
from tests.stages.conftest import Write
from tests.tiny import save_tiny, tiny_backbone, tiny_task

SEEDS = Seeds.of(0)
LOOP: dict[str, Any] = {"max_steps": 2, "num_train_epochs": 1, "learning_rate": 1e-2, "eval_strategy": "no"}
STILL = LOOP | {"max_steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
MEAN = Head(pool="mean")
TUNINGS = [
    PromptTuning(p=3, init="labels"),
    PTuning(p=3, encoder="mlp"),
    PrefixTuning(p=2, m=8),
    Houlsby(m=4, init_std=1e-2),
    LoRA(r=2),
    Together((PromptTuning(p=3, init="labels"), LoRA(r=2))),
]


@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda t: type(t).__name__)
def test_it_starts_where_the_earlier_stage_ended_and_the_model_goes_on_as_it_came(tuning: Any, write: Write) -> None:
    backbone, around = tiny_backbone(), Surroundings()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    first = Train(data=write("a"), framing=MEAN, tuning=tuning, keep_tuning="t", **LOOP)
    learner = first.run(backbone, tiny_task(), SEEDS, around=around)
    leave(first, backbone)
    after = backbone.state_dict()
    assert set(after) == set(before) and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert prompt_of(backbone) is None and not backbone.changed and backbone.reserved == 0
    kept = around.kept["t"].tensors
    drawn = assemble(Train(framing=MEAN, tuning=tuning), tiny_backbone(), tiny_task(), SEEDS).backbone.model.state_dict()
    mine = learner.backbone.model.state_dict()
    assert set(kept) == set(drawn) - backbone.own and all(torch.equal(tensor, mine[name]) for name, tensor in kept.items())
    assert any(not torch.equal(tensor, drawn[name]) for name, tensor in kept.items())
    second = Train(framing=MEAN, tuning=tuning, reuse_tuning="t", **STILL).run(backbone, tiny_task(), SEEDS, around=around)
    there = second.backbone.model.state_dict()
    assert all(torch.allclose(tensor, there[name], atol=1e-6) for name, tensor in kept.items())


def _transfer(write: Write) -> Recipe:
    """SPoT, small."""
    settings: dict[str, Any] = {"stages.0.data": write("a", seed=3)}
    for i in (0, 1):
        settings |= {f"stages.{i}.{key}": value for key, value in (LOOP | {"min_steps": 0, "tuning.p": 3}).items()}
    return Recipe.load("spot").override(settings)


def test_a_transferred_prompt_is_saved_alone_and_a_finished_source_is_not_run_again(write: Write, tmp_path: Path) -> None:
    recipe, model = _transfer(write), str(save_tiny("bert", tmp_path / "m"))
    assert recipe.check() == []
    learner = fit(recipe, tiny_task(), model, output_dir=tmp_path / "out")
    learner.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "base").exists()
    texts = ["a good film", "a dull room"]
    assert load(tmp_path / "saved").predict_proba(texts) == learner.predict_proba(texts)
    told: list[dict[str, Any]] = []
    (tmp_path / "out" / "checkpoints" / "stage-1").rename(tmp_path / "gone")
    again = fit(recipe, tiny_task(), model, output_dir=tmp_path / "out", resume=True, listener=told.append)
    assert sum(e["event"] == "step" for e in told) == 2 and again.predict_proba(texts) == learner.predict_proba(texts)
    assert not again.backbone.changed and again.record["earlier"] == learner.record["earlier"]


def test_it_is_not_the_plain_prompt(write: Write, tmp_path: Path) -> None:
    """The source's rows matter: another start, another model."""
    model = str(save_tiny("bert", tmp_path / "m"))
    recipe = _transfer(write)
    alone = Recipe(
        "alone", (Train(framing=MEAN, tuning=PromptTuning(p=3), **(LOOP | {"lr_scheduler_type": "constant", "warmup_steps": 0})),)
    )
    first, second = (fit(r, tiny_task(), model).backbone for r in (recipe, alone))
    starts = [p() for b in (first, second) if (p := prompt_of(b)) is not None]
    assert not torch.allclose(*starts)


@pytest.mark.parametrize("name", ["ppt", "ppt-unified"])
def test_a_prompt_is_pretrained_on_plain_texts(name: str, tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path / "m")
    settings: dict[str, Any] = {"stages.1.framing.words": ["bad", "good"]}
    words = {"ppt": ["bad", "dull", "good"], "ppt-unified": ["bad", "good", "sad", "great", "film", "book"]}[name]
    settings["stages.0.framing.framing.words"] = words
    for i in (0, 1):
        settings |= {f"stages.{i}.{key}": value for key, value in (LOOP | {"min_steps": 0, "tuning.p": 3}).items()}
    recipe = Recipe.load(name).override(settings)
    plan = explain(recipe, Backbone.load(str(tmp_path / "m")), tiny_task())
    assert [stage.backbone_trained for stage in plan.stages] == [3 * 32] * 2 and plan.stages[1].head_trained == 0
    learner = fit(recipe, tiny_task(), str(tmp_path / "m"))
    learner.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "base").exists()
    texts = ["a good film", "a dull room"]
    assert load(tmp_path / "saved").predict_proba(texts) == learner.predict_proba(texts)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((Train(data="a", tuning=BitFit(), keep_tuning="t"), Train(tuning=BitFit(), reuse_tuning="t")), "bitfit trains pretrained weights"),
        ((Train(data="a", tuning=Houlsby(), keep_tuning="t"), Train(tuning=Houlsby(), reuse_tuning="t")), "set layer_norm: false in it"),
        ((Train(data="a", tuning=Houlsby()), Train()), r"give it a name by keep_tuning.*\(reuse_tuning\), with layer_norm: false in both"),
        ((Train(data="a", tuning=Frozen(), keep_tuning="t"), Train(tuning=Frozen(), reuse_tuning="t")), "frozen adds nothing"),
        ((Train(data="a", tuning=PromptTuning()), Train()), "give it a name by keep_tuning"),
        ((Train(data="a", tuning=LoRA(), keep_tuning="t"), Train(tuning=LoRA())), "no later stage takes the tuning up.*reuse_tuning: t"),
        ((Train(data="a", tuning=LoRA(r=2), keep_tuning="t"), Train(tuning=LoRA(), reuse_tuning="t")), "give both stages the same tuning"),
        ((Train(), Train(tuning=LoRA(), keep_tuning="t")), "in the last stage is for nobody"),
        ((Train(data="a", tuning=GRFT(), keep_tuning="t"), Train(tuning=GRFT(), reuse_tuning="t")), "grft (trains|chooses)"),
    ],
)
def test_what_cannot_be_kept_is_refused(stages: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe("r", stages).check()
