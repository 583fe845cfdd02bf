"""A cloze with several templates: which of them a row is trained under, and that predictions average over all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.recipe import Recipe
from tempering.saving import load
from tempering.stages.train import Train
from tempering.stages.use import Use
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import tiny_examples, tiny_task

TEMPLATES = ("{text} it was {mask}", "{mask} : {text}", "the {text} is {mask} and not")
WORDS = {"bad": "bad", "good": "good"}


@pytest.fixture
def model(tmp_path: Path) -> str:
    save_masked_lm("bert", tmp_path / "m")
    return str(tmp_path / "m")


def test_predictions_are_those_of_the_mean_logits(model: str) -> None:
    task, rows = tiny_task(), tiny_examples(7, seed=9)
    each = []
    for framing in (*TEMPLATES, TEMPLATES):
        learner = Use(Cloze(framing, words=WORDS)).run(Backbone.load(model), task, Seeds.of(0))
        each.append(torch.tensor([[p[label] for label in task.labels] for p in learner.predict_proba([e.texts[0] for e in rows])]))
    alone = torch.stack(each[:3]).log()
    centred = alone - alone.mean(-1, keepdim=True)  # log probabilities are logits up to a constant of each row and template
    assert torch.allclose(centred.mean(0).softmax(-1), each[3], atol=1e-5)


def test_a_row_is_trained_under_one_template_an_epoch_or_under_all(model: str) -> None:
    rows = tiny_examples(40)
    module = Cloze(TEMPLATES, words=WORDS).build(tiny_task(), Backbone.load(model))
    alone = [
        m.render(rows, (), np.random.default_rng(0))
        for t in TEMPLATES
        for m in [Cloze(t, words=WORDS).build(tiny_task(), Backbone.load(model))]
    ]
    first, second = (module.render(rows, rows, np.random.default_rng(i)) for i in (0, 1))
    assert module.renders_anew and {len(found) for found in first} == {1}
    drawn = [next(t for t in range(3) if alone[t][i][0] == found[0]) for i, found in enumerate(first)]
    assert set(drawn) == {0, 1, 2} and first != second
    assert [list(found) for found in module.render(rows, (), np.random.default_rng(0))] == [
        [alone[t][i][0] for t in range(3)] for i in range(len(rows))
    ]
    every = Cloze(TEMPLATES, words=WORDS, trains_on="all")
    stage = Train(framing=every, num_train_epochs=1, per_device_train_batch_size=8, eval_strategy="no")
    learner = stage.run(Backbone.load(model), tiny_task(24), Seeds.of(0))
    assert learner.record["stage"]["steps"] == 9  # 72 prompts


def test_it_is_saved_and_loaded(model: str, tmp_path: Path) -> None:
    recipe = Recipe("t", (Train(framing=Cloze(TEMPLATES, words=WORDS), max_steps=2, num_train_epochs=1),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    learner = fit(recipe, tiny_task(), model)
    learner.save_pretrained(tmp_path / "saved")
    texts = [e.texts[0] for e in tiny_examples(5, seed=3)]
    assert load(tmp_path / "saved").predict_proba(texts) == learner.predict_proba(texts)


def test_what_cannot_work_is_refused() -> None:
    for wrong, said in (
        ((), "empty list"),
        (("{text} {mask}",) * 2, "stands there twice"),
        (("{text} {soft} {mask}", "{mask} {text}"), "one template"),
    ):
        with pytest.raises(ValidationError, match=said):
            Cloze(wrong)
    assert Cloze(("{text} {mask}",)) == Cloze("{text} {mask}")
