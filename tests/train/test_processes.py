"""Two processes that `accelerate launch` starts on a CPU do what one does: every loss, every held-out score, the end of a bad run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.errors import RecipeError
from tempering.train import checkpoint
from tempering.train.device import Place, on_first, place
from tempering.train.settings import Loop

ROOT = Path(__file__).parents[2]


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def together(case: str, folder: Path, processes: int) -> dict[str, Any]:
    """What the run of ``case`` told, in one process or in several. With ``--cpu`` accelerate starts one, whatever number it is given."""
    folder.mkdir()
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"]
        launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(_port())]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    command = [*launch, "-m", "tests.train.together", case, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads((folder / "first.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full", "masked", "packed", "chain", "causal", "multi", "demonstrations"])
def test_every_loss_and_score_is_that_of_one_process(case: str, tmp_path: Path) -> None:
    one, two = together(case, tmp_path / "one", 1), together(case, tmp_path / "two", 2)
    assert len(one["steps"]) == 6 * (2 if case == "chain" else 1) and len(one["seen"]) == len(one["steps"]) // 2
    for name in ("steps", "seen"):
        assert [step for step, _ in one[name]] == [step for step, _ in two[name]]
        assert [loss for _, loss in two[name]] == pytest.approx([loss for _, loss in one[name]], abs=1e-5)
    assert len({loss for _, loss in one["steps"]}) == len(one["steps"])
    assert two["metrics"] == {split: pytest.approx(scores, abs=1e-5) for split, scores in one["metrics"].items()}
    assert json.loads((tmp_path / "two" / "second.json").read_text())["steps"] == []  # only the first speaks
    for folder in (tmp_path / "one", tmp_path / "two"):
        kept = [checkpoint.latest(stage) for stage in sorted((folder / "out" / "checkpoints").glob("stage-*"))]
        assert [path.name for path in kept if path] == ["checkpoint-6"] * len(kept) and kept


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_every_process(tmp_path: Path) -> None:
    two = together("collapse", tmp_path / "two", 2)
    assert "the loss became" in two["error"]
    assert json.loads((tmp_path / "two" / "second.json").read_text())["error"] == two["error"]


def test_a_single_process_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("nothing to exchange")

    monkeypatch.setattr(torch.distributed, "all_reduce", never)
    place = Place(torch.device("cpu"), lambda: None, 0, 1)
    assert place.total(1.5, 2.0) == (1.5, 2.0)
    place.sum_gradients([torch.zeros(2)])
    assert on_first(lambda: 3) == 3


@pytest.mark.parametrize("kind", ["fsdp", "deepspeed"])
def test_a_launch_that_would_split_the_model_is_refused_by_stages_that_cannot(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{kind.upper()}", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=f"launch without --use_{kind} .* lora or gradient_checkpointing=true"):
        place(Loop())


def test_a_weight_without_gradient_anywhere_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    other = torch.tensor([1.0, 2.0, 0.0, 0.0, 5.0, 1.0, 0.0, 1.0])  # the gradients of another process, and which of its weights have one

    def all_reduce(flat: torch.Tensor) -> None:
        flat += other

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    here, nowhere, there = torch.zeros(2), torch.zeros(2), torch.zeros(1)
    here.grad = torch.tensor([10.0, 20.0])
    Place(torch.device("cpu"), lambda: None, 0, 2).sum_gradients([here, nowhere, there])
    assert here.grad.tolist() == [11.0, 22.0] and nowhere.grad is None
    assert there.grad is not None and there.grad.tolist() == [5.0]
