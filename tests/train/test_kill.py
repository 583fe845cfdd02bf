"""A run that is killed for good, by SIGKILL and several times over, ends bit for bit as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.train import checkpoint
from tests.laws.bench import differing, refusal
from tests.laws.settings import live
from tests.train.nursery import DONE

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="forks and counts threads as Linux does")

STEPS = 6
LOOP: dict[str, Any] = {
    "max_steps": STEPS,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "weight_decay": 0.1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
}
KINDS = ("tuning", "framing", "stabilizer")
Raise = Callable[[dict[str, Any], Path, dict[str, Any]], dict[str, Any]]


def _stage(kind: str, value: Any) -> Train:
    if kind == "framing" and not value.supervised:
        return Train(framing=value, text="unlabeled", **LOOP)
    return Train(**{kind if kind != "stabilizer" else "stabilizers": value}, **LOOP)


PARTS = {f"{kind}-{name}": _stage(kind, value) for kind in KINDS for name, value in live(kind).items()}
QUICK = ("tuning-lora", "framing-masked_lm", "stabilizer-self_distillation")
MATRIX = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PARTS if not refusal(PARTS[name])]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Raise]:
    """``nursery(recipe, folder, at)``: a run in a process of its own, killed as ``at`` says; how it ended."""
    root = Path(__file__).parents[2]
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]),
    }
    words = [sys.executable, "-c", "from tests.train.nursery import serve; serve()"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=root)
    assert process.stdin is not None
    assert process.stdout is not None

    def order(recipe: dict[str, Any], folder: Path, at: dict[str, Any]) -> dict[str, Any]:
        process.stdin.write(json.dumps({"recipe": recipe, "folder": str(folder), "at": at}) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        assert not answer["error"], answer["error"]
        return answer

    yield order
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


def _moments(rng: random.Random) -> list[dict[str, Any]]:
    """Where a run dies: writing a checkpoint, after a step, between evaluation and checkpoint, and at last wherever it happens to be."""
    group = rng.choice(["weights", "optimizer", "stabilizers", "best"])
    return [
        {"moment": "write", "step": rng.randint(1, 3), "group": group},
        {"moment": "step", "step": rng.randint(3, 4)},
        {"moment": "evaluate", "step": 4},
        {"moment": "step", "step": 4, "more": rng.uniform(0.001, 0.025)},
    ]


def _left(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor a finished run left: the learner's, and the weights, optimizer and method state of its last checkpoints."""
    found = {f"learner/{name}": tensor for name, tensor in load_file(folder / "learner.safetensors").items()}
    for stage in sorted((folder / "checkpoints").glob("stage-*")):
        newest = checkpoint.latest(stage)
        assert newest is not None and newest.name == f"checkpoint-{STEPS}"
        for group, tensors in checkpoint.read(newest, {})[0].items():
            found |= {f"{stage.name}/{group}/{name}": tensor for name, tensor in tensors.items()}
    return found


def _same(recipe: dict[str, Any], folder: Path, moments: list[dict[str, Any]], nursery: Raise) -> int:
    """Compare an unbroken run with one killed at each of ``moments`` in turn; how many kills found it alive."""
    whole, broken = folder / "whole", folder / "broken"
    assert nursery(recipe, whole, {})["code"] == 0
    deaths = [nursery(recipe, broken, at) for at in moments]
    assert all(death["signal"] == signal.SIGKILL or at.get("more") for death, at in zip(deaths, moments, strict=True))
    assert nursery(recipe, broken, {})["code"] == 0
    tensors, others = _left(whole), _left(broken)
    assert any("/optimizer/exp_avg/" in name for name in tensors)
    assert differing(tensors, others) == []
    assert json.loads((whole / DONE).read_text()) == json.loads((broken / DONE).read_text())
    return sum(death["signal"] == signal.SIGKILL for death in deaths)


@pytest.mark.parametrize("part", MATRIX)
def test_killed_for_good_and_resumed(part: str, tmp_path: Path, nursery: Raise) -> None:
    recipe = Recipe("killed", (PARTS[part],)).to_plain()
    assert _same(recipe, tmp_path, _moments(random.Random(part)), nursery) >= 3


def test_a_half_written_checkpoint_is_left_behind_and_swept_away(tmp_path: Path, nursery: Raise) -> None:
    recipe = Recipe("killed", (PARTS["tuning-lora"],)).to_plain()
    assert nursery(recipe, tmp_path, {"moment": "write", "step": 3, "group": "optimizer"})["signal"] == signal.SIGKILL
    stage = tmp_path / "checkpoints" / "stage-0"
    names = sorted(p.name.rpartition(".")[0] or p.name for p in stage.iterdir())
    assert names == [".checkpoint-3", "checkpoint-2"]
    assert nursery(recipe, tmp_path, {})["code"] == 0
    assert [p.name for p in stage.iterdir()] == [f"checkpoint-{STEPS}"]


def test_killed_in_either_of_two_stages(tmp_path: Path, nursery: Raise) -> None:
    first = Train(framing=MaskedLM(), text="unlabeled", **LOOP)
    recipe = Recipe("tapt-lora", (first, PARTS["tuning-lora"])).to_plain()
    moments: list[dict[str, Any]] = [
        {"moment": "step", "step": 3},
        {"moment": "step", "step": 4, "nth": 2},
        {"moment": "write", "step": 5, "group": "weights"},
    ]
    assert _same(recipe, tmp_path, moments, nursery) == 3


def test_state_that_no_checkpoint_holds_is_caught(tmp_path: Path, nursery: Raise) -> None:
    recipe = {"name": "broken", "stages": [{"train": LOOP | {"stabilizers": ["amnesic"]}}]}
    assert _same(recipe, tmp_path / "alone", [], nursery) == 0  # left alone, its runs agree
    with pytest.raises(AssertionError, match="learner/backbone"):
        _same(recipe, tmp_path / "killed", [{"moment": "step", "step": 3}], nursery)
