"""Words composed over several masks (PTR): scores and loss by the formula, shared words, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.verbalizers.composed import Composed
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import tiny_examples, tiny_task

WORDS = {"bad": ("film", "was", "sad"), "good": ("film", "is", "happy")}
CLOZE = Cloze("the {mask} {mask} very {mask} : {text}", Composed(), WORDS)


@pytest.fixture
def body(tmp_path: Path) -> Backbone:
    save_masked_lm("bert", tmp_path)
    return Backbone.load(str(tmp_path)).eval()


@torch.no_grad()
def test_scores_are_sums_over_masks_of_log_shares_among_the_words_there(body: Backbone, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    module, rows = CLOZE.build(tiny_task(), body), tiny_examples(5)
    batch = module.collate([found[0] for found in module.render(rows, (), np.random.default_rng(0))], np.random.default_rng(0))
    scores = module.scores(body, batch)
    whole = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()(**batch.inputs).logits
    places = batch.extra["mask_positions"]
    ids = {word: body.tokenizer.convert_tokens_to_ids(word) for row in WORDS.values() for word in row}
    expected = torch.zeros(5, 2)
    for j, pair in enumerate(zip(*WORDS.values(), strict=True)):
        at = whole[torch.arange(5), places[:, j]]
        there = torch.stack([at[:, ids[w]] for w in dict.fromkeys(pair)], -1).logsumexp(-1)
        expected += torch.stack([at[:, ids[w]] - there for w in pair], -1)
    assert torch.allclose(scores.only.logits[0], expected, atol=1e-4)
    targets = torch.tensor([int(e.label == "good") for e in rows])
    assert module.loss(scores, batch).item() == pytest.approx(-expected.gather(1, targets[:, None]).mean().item(), abs=1e-4)
    said = [p.label for p in module.decode(scores)]
    assert said == [("bad", "good")[int(i)] for i in expected.argmax(-1)]


def test_it_trains_and_is_written(body: Backbone) -> None:
    stage = Train(framing=CLOZE, max_steps=25, num_train_epochs=1, learning_rate=3e-3, load_best_model_at_end=False, warmup_steps=0)
    recipe = Recipe("ptr", (stage,))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    task = tiny_task(24)
    learner = stage.run(body, task, Seeds.of(0))
    right = [p.label == e.label for p, e in zip(learner.predictions(task.train.examples), task.train, strict=True)]
    assert np.mean(right) > 0.8


@pytest.mark.parametrize(
    ("words", "template", "said"),
    [
        ({"bad": ("film", "sad"), "good": ("film",)}, "{mask} {mask} {text}", "has 2 words and class 'good' has 1"),
        ({"bad": ("film", "sad"), "good": ("film", "sad")}, "{mask} {mask} {text}", "same words at every mask"),
        ({"bad": ("film", "very sad"), "good": ("film", "sad")}, "{mask} {mask} {text}", "word 'very sad' of class 'bad' is very, sad"),
        (WORDS, "{mask} {mask} {text}", "has 2 masks, and the verbalizer reads 3"),
    ],
)
def test_what_does_not_fit_is_refused(words: dict[str, tuple[str, ...]], template: str, said: str, body: Backbone) -> None:
    with pytest.raises(RecipeError, match=said):
        Cloze(template, Composed(), words).build(tiny_task(), body)
