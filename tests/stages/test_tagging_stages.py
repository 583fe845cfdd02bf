"""Priming, several tasks and intermediate training on tagged words, as on languages of a named-entity data set."""

from __future__ import annotations

from typing import Any

import pytest

from tempering.errors import RecipeError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.recipe import Recipe
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.prime import Prime
from tempering.stages.train import Train
from tempering.tasks.task import Task
from tempering.tunings.houlsby import Houlsby
from tests.stages.conftest import Write
from tests.tiny import tiny_backbone, tiny_task

LOOP: dict[str, Any] = {"max_steps": 30, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}
LIGHT = Houlsby(m=4, init_std=1e-2)


def _prime(*sources: str, **given: Any) -> Prime:
    fields = {"outer_steps": 2, "inner_steps": 2, "inner_learning_rate": 0.5, "support_rows": 6, "query_rows": 6, "eval_steps": 1}
    return Prime(sources=sources, tuning=LIGHT, **(fields | given))


def test_two_languages_prime_for_a_third(write_tags: Write) -> None:
    target = Task.from_file(write_tags("de"))
    recipe = Recipe("r", (_prime(write_tags("en"), write_tags("fr")), Train(**(LOOP | {"max_steps": 60, "learning_rate": 3e-3}))))
    learner = fit(recipe, target, tiny_backbone())
    (primed,) = learner.record["earlier"]
    assert {f"{n}/{learner.record['main_metric']}" for n in ("en", "fr")} <= set(primed["history"][0])
    assert all(h[f"{n}/support_after"] < h[f"{n}/support_before"] for h in primed["history"] for n in ("en", "fr"))
    assert learner.record["metrics"]["dev"][learner.record["main_metric"]] > 0.3
    assert type(learner.record["framing"]).__name__ == "TokenHead"


def test_a_kept_head_of_tags_is_reused(write_tags: Write) -> None:
    recipe = Recipe(
        "r", (_prime(write_tags("en"), keep_head="h", outer_trains="body_and_start"), Train(tuning=LIGHT, reuse_head="h", **LOOP))
    )
    assert fit(recipe, Task.from_file(write_tags("de")), tiny_backbone()).record["metrics"]["dev"]


def test_tags_beside_classes_and_texts(write_tags: Write, write: Write) -> None:
    stage = MultiTask(tasks=(write_tags("en"), write("tone"), TaskSource(write("more", seed=2), "masked_lm")), **(LOOP | {"max_steps": 4}))
    learner = fit(Recipe("r", (stage, Train(**(LOOP | {"max_steps": 2})))), tiny_task(), tiny_backbone())
    history = learner.record["earlier"][0]["history"][-1]
    assert {"en/loss", "tone/accuracy", "more/loss", "mean"} <= set(history)


def test_the_users_tags_may_be_among_the_tasks(write_tags: Write, tmp_path: Any) -> None:
    stage = MultiTask(tasks=(TaskSource(name="mine"), write_tags("en")), **(LOOP | {"max_steps": 4}))
    learner = fit(Recipe("r", (stage,)), Task.from_file(write_tags("de")), tiny_backbone())
    assert type(learner.record["framing"]).__name__ == "TokenHead" and learner.record["metrics"]["dev"]


def test_classes_cannot_prime_for_tags(write: Write, write_tags: Write) -> None:
    with pytest.raises(RecipeError, match="source tone is classification .* and your task de is tagging"):
        fit(Recipe("r", (_prime(write("tone")), Train())), Task.from_file(write_tags("de")), tiny_backbone())
    assert Head().supervised
