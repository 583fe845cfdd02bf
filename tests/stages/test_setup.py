"""What a stage refuses once it sees the data and the framing, before a step is taken."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tempering.contracts import Seeds
from tempering.errors import DataError, RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.verbalizers.calibrated import Calibrated
from tempering.framings.verbalizers.multi_mask import MultiMask
from tempering.stabilizers.freelb import FreeLB
from tempering.stabilizers.lnsr import LNSR
from tempering.stabilizers.r3f import R3F
from tempering.stabilizers.smart import SMART
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.train import Train
from tempering.tasks import Task
from tests.tiny import tiny_backbone, tiny_examples, tiny_task

SEEDS = Seeds.of(0)
QUICK: dict[str, Any] = {"max_steps": 1, "num_train_epochs": 1, "per_device_train_batch_size": 8, "warmup_steps": 0, "eval_strategy": "no"}
UNEVEN = {"bad": "awful", "good": "very good"}
EVEN = {"bad": "not good", "good": "very good"}
CARRYING = {"freelb": FreeLB(), "smart": SMART(), "lnsr": LNSR()}


def cloze(words: Any, verbalizer: Any = MultiMask()) -> Cloze:  # noqa: B008
    return Cloze("{text} it was {mask}", words=words, verbalizer=verbalizer)


def run(stage: Any, task: Any = None) -> Any:
    return stage.run(tiny_backbone(), task or tiny_task(16), SEEDS)


@pytest.mark.parametrize("name", CARRYING)
def test_what_carries_something_from_pass_to_pass_needs_words_of_one_length(name: str) -> None:
    said = f"{name} carries .* label words of 1 to 2 tokens"
    for verbalizer in (MultiMask(), Calibrated(verbalizer=MultiMask())):
        with pytest.raises(RecipeError, match=said):
            run(Train(framing=cloze(UNEVEN, verbalizer), stabilizers=(CARRYING[name],), **QUICK))
    learner = run(Train(framing=cloze(EVEN), stabilizers=(CARRYING[name],), **QUICK))
    assert learner.record["stage"]["steps"] == 1


def test_noise_that_is_drawn_for_each_run_serves_words_of_any_length() -> None:
    assert run(Train(framing=cloze(UNEVEN), stabilizers=(R3F(),), **QUICK)).record["stage"]["steps"] == 1


def test_a_task_of_several_is_refused_so_too(write: Any) -> None:
    stage = MultiTask(tasks=(TaskSource(write("a"), cloze(UNEVEN)), write("b", seed=1)), stabilizers=(FreeLB(),), **QUICK)
    with pytest.raises(RecipeError, match="freelb carries"):
        run(stage)


@pytest.mark.parametrize("packed", [False, True])
def test_texts_that_are_all_in_the_dev_split_leave_nothing_to_train_on(packed: bool) -> None:
    rows = tiny_examples(8)
    task = dataclasses.replace(tiny_task(8), train=Task.from_examples(train=rows, dev=rows).dev)
    task = dataclasses.replace(task, dev=task.train)
    with pytest.raises(DataError, match="expected text to train on, found none beside that of the dev and test splits"):
        run(Train(framing=MaskedLM(packed=packed), text="unlabeled", **QUICK), task)


@pytest.mark.parametrize(
    ("framing", "kind", "said"),
    [
        ("head", "multilabel", "a row of multilabel has none"),
        ("head", "regression", "a row of regression has none"),
        ("masked_lm", "classification", "framing masked_lm reads none"),
        (MaskedLM(packed=True), "classification", "framing masked_lm reads none"),
    ],
)
def test_weights_of_classes_are_refused_where_no_class_is_read(framing: Any, kind: str, said: str) -> None:
    with pytest.raises(RecipeError, match=f"class_weights 'balanced' weighs a row by its one class, and {said}; leave it out"):
        run(Train(framing=framing, class_weights="balanced", **QUICK), tiny_task(16, kind))
