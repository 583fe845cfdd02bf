"""The five strategies of prompting (Liu et al. 2021, section 1.3 of the survey's table): which parameters each of the recipes trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.framings.cloze import Cloze
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.tunings.frozen import Frozen
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import tiny_task

WORDS = {"bad": "bad", "good": "good"}
SEEDS = Seeds.of(0)
STRATEGIES = {  # name -> (theta is trained, phi in the prompt exists and is trained, a head exists and is trained)
    "promptless": (True, False, True),
    "tuning-free": (False, False, False),
    "fixed-lm": (False, True, False),
    "fixed-prompt": (True, False, False),
    "prompt-and-lm": (True, True, False),
}


def made(name: str) -> Any:
    """The stage of a recipe, a few steps long, with words of the tiny vocabulary, and weight decay that would move idle weights."""
    stage = Recipe.load(f"strategy-{name}").stages[-1]
    if isinstance(stage.framing, Cloze):
        stage = dataclasses.replace(stage, framing=dataclasses.replace(stage.framing, words=WORDS))
    if not isinstance(stage, Train):
        return stage
    quick = {"max_steps": 3, "num_train_epochs": 1, "warmup_steps": 0, "weight_decay": 0.1, "load_best_model_at_end": False}
    return dataclasses.replace(stage, learning_rate=1e-2, **quick)


def run(stage: Any, folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """The learner, and the pretrained weights as they were."""
    save_masked_lm("bert", folder)
    backbone = Backbone.load(str(folder))
    before = {n: p.detach().clone() for n, p in backbone.model.state_dict().items()}
    return stage.run(backbone, tiny_task(), SEEDS), before


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_trains_what_it_says(name: str, tmp_path: Path) -> None:
    lm, prompt, head = STRATEGIES[name]
    learner, before = run(made(name), tmp_path)
    after = learner.backbone.model.state_dict()
    theta = [n for n, w in before.items() if not torch.equal(w, after[n])]
    trained = learner.trained()
    assert bool(theta) == lm
    assert any(learner.pretrained(n) for n in trained) == lm
    if not lm:  # bit-identical, weight decay or not, and no gradient is asked for
        assert not any(p.requires_grad for n, p in learner.backbone.model.named_parameters() if n in before)
        assert all(torch.equal(w, after[n]) for n, w in before.items())
    phi = [n for n in learner.state_dict() if n.endswith(("prompt.weight", "soft.table"))]
    assert bool(phi) == prompt and set(phi) <= set(trained)
    others = {n for n in trained if n.startswith("framing.")} - set(phi)
    assert bool(others) == head, others


def test_the_five_recipes_differ_only_in_values() -> None:
    recipes = [Recipe.load(f"strategy-{name}") for name in STRATEGIES]
    assert {len(r.stages) for r in recipes} == {1}
    assert len({r.key() for r in recipes}) == 5
    assert all(not r.check() for r in recipes)


def test_a_frozen_model_comes_with_dropout_and_without(tmp_path: Path) -> None:
    """Both strengths of "frozen": no gradient alone (prompt tuning), and evaluation mode too (vectors in the template, a frozen body)."""
    loose, _ = run(made("fixed-lm"), tmp_path)
    stage = made("prompt-and-lm")
    strict, before = run(dataclasses.replace(stage, tuning=Frozen()), tmp_path)
    for learner, mode in ((loose, True), (strict, False)):
        assert learner.train().backbone.model.encoder.training is mode
    after = strict.backbone.model.state_dict()
    assert set(strict.trained()) == {"framing.soft.table"} and all(torch.equal(w, after[n]) for n, w in before.items())


def test_both_parts_have_rates_of_their_own(tmp_path: Path) -> None:
    """The vectors move at head_learning_rate, the model at learning_rate: with AdamW a first step is as long as the rate."""
    stage = dataclasses.replace(made("prompt-and-lm"), max_steps=1, learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.0)
    learner, before = run(dataclasses.replace(stage, lr_scheduler_type="constant"), tmp_path)
    body = (
        learner.backbone.model.state_dict()["encoder.layer.0.output.dense.weight"] - before["encoder.layer.0.output.dense.weight"]
    ).abs()
    words = before["embeddings.word_embeddings.weight"][learner.backbone.tokenizer.convert_tokens_to_ids(["it", "was"])]
    moved = (learner.framing.soft.table.detach() - words).abs()
    assert float(body.max()) == pytest.approx(1e-4, rel=1e-2)
    assert float(moved.max()) == pytest.approx(1e-2, rel=1e-2)


def test_prompt_tuning_beside_a_trained_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(RecipeError):
        Train(framing=Cloze(words=WORDS), tuning=("prompt_tuning", "full"))
