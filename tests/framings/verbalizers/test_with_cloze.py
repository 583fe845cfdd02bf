"""Every verbalizer under the cloze framing: trained, used, saved, explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.errors import ModelError, RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.verbalizers.auto_words import AutoWords
from tempering.framings.verbalizers.calibrated import Calibrated
from tempering.framings.verbalizers.kpt import Knowledgeable
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.multi_mask import MultiMask
from tempering.framings.verbalizers.proto_verb import ProtoVerb
from tempering.framings.verbalizers.soft import Soft
from tempering.framings.verbalizers.warp import WARP
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tasks import Task
from tests.framings.test_masked_lm import save_masked_lm
from tests.laws.settings import Row, rows
from tests.tiny import tiny_backbone, tiny_speaker, tiny_task

WORDS = {"bad": ("awful", "dull"), "good": ("great", "fine")}
TEMPLATE = "{text} it was {mask}"
STEPS = {"max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 0, "load_best_model_at_end": False}
RECIPES = ("cloze-soft-verbalizer", "warp", "kpt-zero-shot", "kpt", "proto-verb", "cloze-auto-words", "petal", "cloze-calibrated")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny pretrained model on disk, with its language-model head."""
    folder = tmp_path_factory.mktemp("base")
    save_masked_lm("bert", folder)
    return str(folder)


def same_after_a_reload(stage: Any, base: str, folder: Path) -> None:
    task = tiny_task(16)
    learner = stage.run(Backbone.load(base), task, Seeds.of(0))
    before = [p.probabilities for p in learner.predictions(task.dev.examples)]
    learner.save_pretrained(folder)
    assert [p.probabilities for p in tempering.load(folder).predictions(task.dev.examples)] == before


@pytest.mark.parametrize("row", rows("verbalizer"))
def test_trained_saved_and_loaded(row: Row, base: str, tmp_path: Path) -> None:
    same_after_a_reload(Train(framing=Cloze(TEMPLATE, words=WORDS, verbalizer=row.live), **STEPS), base, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [Calibrated(), Knowledgeable(frequency=0.0, relevance="none"), ProtoVerb(d=4), AutoWords(k=5)])
def test_used_without_a_step(value: Any, base: str, tmp_path: Path) -> None:
    same_after_a_reload(Use(framing=Cloze(TEMPLATE, words=WORDS, verbalizer=value)), base, tmp_path)


def test_words_that_a_file_gave_are_in_the_saved_folder(base: str, tmp_path: Path) -> None:
    file = tmp_path / "related.txt"
    file.write_text("awful, dull, poor, cold\ngreat, fine, warm, happy\n")
    value = Knowledgeable(str(file), frequency=0.0, relevance="none")
    task = tiny_task(16)
    learner = Use(framing=Cloze(TEMPLATE, words={"bad": "sad", "good": "lovely"}, verbalizer=value)).run(
        Backbone.load(base), task, Seeds.of(0)
    )
    before = [p.probabilities for p in learner.predictions(task.dev.examples)]
    learner.save_pretrained(tmp_path / "model")
    file.unlink()
    assert [p.probabilities for p in tempering.load(tmp_path / "model").predictions(task.dev.examples)] == before


def test_labels_that_are_no_words_need_none_where_words_are_found() -> None:
    numbers = {"bad": 1, "good": 2}
    train = [Example(e.texts, numbers[e.label], e.row) for e in tiny_task(16).train]
    task = Task.from_examples(train=train, dev=train[:4], kind="classification")
    learner = Use(framing=Cloze(TEMPLATE, verbalizer=AutoWords(k=5))).run(tiny_speaker(), task, Seeds.of(0))
    assert {p.label for p in learner.predictions(task.train.examples)} == {1, 2}
    with pytest.raises(RecipeError, match="label 1 is no word"):
        Use(framing=Cloze(TEMPLATE)).run(tiny_speaker(), task, Seeds.of(0))


def test_words_of_several_tokens_are_refused_where_there_are_no_masks() -> None:
    framing = Cloze(TEMPLATE, words={"bad": "very dull", "good": "great"}, verbalizer=MultiMask())
    with pytest.raises(ModelError, match=r"reads from left to right and has no masks, and a label word has 2 tokens.*in_context"):
        framing.build(tiny_task(8), tiny_backbone("gpt2"))


def test_what_would_stay_as_drawn_is_not_used_untrained() -> None:
    for value, refused in ((WARP("random"), True), (Calibrated(WARP("random")), True), (WARP(), False), (Soft(), False)):
        recipe = Recipe("one", (Use(framing=Cloze(TEMPLATE, words=WORDS, verbalizer=value)),))
        if refused:
            with pytest.raises(RecipeError, match="stay as they are drawn"):
                recipe.check()
        else:
            recipe.check()


@pytest.mark.parametrize("value", [Manual(), Soft(), WARP("random"), Calibrated(Manual()), AutoWords(k=5), MultiMask()])
def test_a_value_is_read_between_two_poles(value: Any) -> None:
    task = tiny_task(16, "regression")
    framing = Cloze(TEMPLATE, words={"low": "awful", "high": "great"}, verbalizer=value)
    learner = Train(framing=framing, **STEPS).run(tiny_speaker(), task, Seeds.of(0))  # type: ignore[arg-type]
    low, high = (f(e.label for e in task.train) for f in (min, max))
    assert all(low <= p.label <= high for p in learner.predictions(task.dev.examples))


def test_a_frozen_model_that_is_computed_once_gives_the_same_run() -> None:
    framing = Cloze(TEMPLATE, words=WORDS, verbalizer=Soft(bias=True))
    stage = Train(framing=framing, tuning="frozen", **STEPS)  # type: ignore[arg-type]
    assert stage.cached
    assert not Train(framing=Cloze(TEMPLATE, words=WORDS, verbalizer=MultiMask()), tuning="frozen").cached
    assert "several passes" in Train(framing=Cloze(TEMPLATE, verbalizer=Calibrated(MultiMask())), tuning="frozen").why_not_cached
    learner = stage.run(tiny_backbone(), tiny_task(16), Seeds.of(0))
    start = framing.build(tiny_task(16), tiny_backbone()).verbalizer.weight
    assert not learner.framing.verbalizer.weight.equal(start)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_explained_and_their_search_reaches_what_it_names(name: str, base: str) -> None:
    words = {"a": ["good", "fine"], "b": ["bad", "dull"]}
    many = {"framing.verbalizer.frequency": 0.0, "framing.verbalizer.relevance": "none"} if name == "kpt-zero-shot" else {}
    recipe = Recipe.load(name).override({"framing.words": words, **many})
    stage = explain(recipe, base).stages[0]
    framing: Any = recipe.stages[0].framing
    assert bool(stage.head_trained) is (framing.trains or stage.tuning == "full")
    for key, values in recipe.search:
        changed = [recipe.override({key: value}).stages[0] for value in values]
        assert len(set(changed)) == len(values)
