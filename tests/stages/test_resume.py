"""A run that is killed in the middle of any of these stages ends as one that was left alone; four stages make one model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering.fitting import fit
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.prime import Prime
from tempering.stages.train import Train
from tempering.train import checkpoint
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tests.stages.conftest import Write
from tests.tiny import save_tiny, tiny_backbone, tiny_task
from tests.train.test_kill import LOOP, STEPS, Raise, _same, nursery, pytestmark  # noqa: F401 - a fixture, and where it works

LIGHT = Houlsby(m=4, init_std=1e-2)
LAST = Train(tuning=LIGHT, **LOOP)


def _prime(write: Write, **given: Any) -> Prime:
    fields = {"outer_steps": STEPS, "inner_steps": 2, "inner_learning_rate": 0.1, "learning_rate": 1e-2, "tasks_per_step": 2,
              "support_rows": 4, "query_rows": 6, "eval_steps": 2, "save_steps": 1}  # fmt: skip
    return Prime((write("a"), write("b", seed=1)), tuning=LIGHT, **(fields | given))


def _stage(name: str, write: Write) -> Any:
    return {
        "prime": lambda: _prime(write),
        "prime-kept-heads": lambda: _prime(write, heads="kept"),
        "prime-start": lambda: _prime(write, outer_trains="body_and_start", keep_tuning="start", second_order=True),
        "multi-task": lambda: MultiTask(tasks=(write("a"), TaskSource(write("b", seed=1), MaskedLM(0.4))), stabilizers="r3f", **LOOP),
        "intermediate": lambda: Train(data=write("a", kind="regression"), keep_head="head", **LOOP),
    }[name]()


QUICK = ("prime-kept-heads", "multi-task")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in (*QUICK, "prime", "prime-start", "intermediate")]
)
def test_killed_in_the_middle_and_resumed(name: str, write: Write, tmp_path: Path, nursery: Raise) -> None:  # noqa: F811
    last = Train(tuning=LIGHT, reuse_tuning="start", **LOOP) if name == "prime-start" else LAST
    recipe = Recipe("killed", (_stage(name, write), last)).to_plain()
    rng = random.Random(name)
    moments: list[dict[str, Any]] = [
        {"moment": "write", "step": rng.randint(1, 3), "group": rng.choice(["weights", "optimizer", "best"])},
        {"moment": "step", "step": rng.randint(3, 4)},
        {"moment": "evaluate", "step": 4},
        {"moment": "step", "step": 2 if name == "intermediate" else 5},  # step 2 comes in the second stage only, by then
    ]
    assert _same(recipe, tmp_path, moments, nursery) >= 3


def _four(write: Write, texts: Path) -> Recipe:
    """DAPT -> TAPT -> intermediate -> LoRA with R-Drop, from a recipe file."""
    loop = {k: v for k, v in LOOP.items() if k != "learning_rate"}
    recipe = Recipe.load("dapt-tapt-intermediate-lora-rdrop")
    settings = {f"stages.{i}.{k}": v for i in range(4) for k, v in loop.items()}
    settings |= {"stages.0.text": str(texts), "stages.2.data": write("other", kind="regression", seed=5), "stages.3.tuning.r": 2}
    return recipe.override(settings | {f"stages.{i}.min_steps": 0 for i in range(4)})


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file with a text a line, as the domain's corpus."""
    path = tmp_path / "domain.txt"
    path.write_text("\n".join(e.texts[0] for e in tiny_task(40).train.examples), encoding="utf-8")
    return path


def test_four_stages_in_one_command_make_one_folder(write: Write, texts: Path, tmp_path: Path) -> None:
    recipe, base = _four(write, texts), str(save_tiny("bert", tmp_path / "base"))
    told: list[dict[str, Any]] = []
    learner = fit(recipe, tiny_task(), base, output_dir=tmp_path / "out", listener=told.append)
    notes = [e["text"] for e in told if e["event"] == "note" and e["text"].startswith("stage ")]
    assert len(notes) == 4 and "masked_lm" in notes[1] and "lora" in notes[3]
    assert len(learner.record["earlier"]) == 3 and learner.record["earlier"][2]["history"][-1]["spearman"] is not None
    assert list(learner.record["sources"]) == [str(tmp_path / "data" / "other"), str(texts)]
    learner.save_pretrained(tmp_path / "model")
    back = tempering.load(tmp_path / "model")
    examples = tiny_task().dev.examples
    assert back.predictions(examples) == learner.predictions(examples)
    assert back.record["earlier"] == learner.record["earlier"]


@pytest.mark.parametrize("nth", [pytest.param(n, marks=() if n == 3 else pytest.mark.slow) for n in (1, 2, 3, 4)])
def test_four_stages_resume_in_the_stage_they_died_in(nth: int, write: Write, texts: Path, tmp_path: Path, nursery: Raise) -> None:  # noqa: F811
    moments = [{"moment": "step", "step": 4, "nth": nth}]
    assert _same(_four(write, texts).to_plain(), tmp_path, moments, nursery) == 1


def test_stages_that_are_done_are_not_run_again(write: Write, tmp_path: Path) -> None:
    recipe = Recipe("r", (_stage("prime-start", write), Train(tuning=LIGHT, reuse_tuning="start", **LOOP)))
    whole = fit(recipe, tiny_task(), tiny_backbone(), output_dir=tmp_path / "out")
    told: list[dict[str, Any]] = []
    again = fit(recipe, tiny_task(), tiny_backbone(), output_dir=tmp_path / "out", resume=True, listener=told.append)
    assert not any(e["event"] == "step" for e in told)
    assert again.record["earlier"] == whole.record["earlier"]
    assert again.predictions(tiny_task().dev.examples) == whole.predictions(tiny_task().dev.examples)
    assert checkpoint.latest(tmp_path / "out" / "checkpoints" / "stage-0") is not None


def test_the_tuning_that_follows_need_not_be_the_rehearsed_one(write: Write) -> None:
    assert fit(Recipe("r", (_prime(write), Train(tuning=LoRA(r=2), **LOOP))), tiny_task(), tiny_backbone()).record["metrics"]["dev"]
