"""Two processes with a part of each weight, started by ``accelerate launch --use_fsdp``, do what one does with the whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import shards
from tests.train.test_processes import ROOT, _port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first of them waits for all runs


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    """What a case told in one process, and in two that share every weight, which run all cases at one launch."""
    folder = tmp_path_factory.mktemp("sharding")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = {case: shards.run(case, folder / "one" / case) for case in (*shards.CASES, "from-one")}
        shards.run("from-one", folder / "two" / "from-one", stop=True)
        two = _launched(folder / "two")
        assert two["from-shards"]["stopped"] and [step for step, _ in two["from-shards"]["steps"]] == [1, 2, 3, 4]
        one["from-shards"] = one["from-one"]
        two["from-shards"] = shards.run("from-shards", folder / "two" / "from-shards")
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(folder, ignore_errors=True)
    return lambda case: (one[case], two[case])


def _launched(folder: Path) -> dict[str, Any]:
    launch = ["-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", str(_port()), "-m", "tests.train.shards", str(folder)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *launch], cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not any(told["steps"] for told in json.loads((folder / "second.json").read_text()).values())  # only the first speaks
    return dict(json.loads((folder / "first.json").read_text()))


@pytest.mark.parametrize("case", shards.CASES)
def test_every_loss_and_score_is_that_of_whole_weights(case: str, both: Any) -> None:
    one, two = both(case)
    assert len(one["steps"]) >= 2 and one["seen"] and one["held"] == [1.0] * len(two["held"])
    for name in ("steps", "seen"):
        assert [step for step, _ in two[name]] == [step for step, _ in one[name]]
    assert [loss for _, loss in two["steps"]] == pytest.approx([loss for _, loss in one["steps"]], abs=1e-5)
    assert [m["loss"] for _, m in two["seen"]] == pytest.approx([m["loss"] for _, m in one["seen"]], abs=1e-5)
    assert two["metrics"] == {split: pytest.approx(scores, abs=1e-5) for split, scores in one["metrics"].items()}
    assert _flat(two.get("chances", [])) == pytest.approx(_flat(one.get("chances", [])), abs=1e-5)
    assert len({loss for _, loss in one["steps"]}) == len(one["steps"]) and not two["sharded"]


def _flat(chances: list[list[float]]) -> list[float]:
    return [chance for row in chances for chance in row]


@pytest.mark.parametrize("case", shards.CASES)
def test_a_process_holds_half_of_all_numbers(case: str, both: Any) -> None:
    for held in both(case)[1]["held"]:
        assert 0.45 < held < 0.55


@pytest.mark.parametrize("case", ["from-one", "from-shards"])
def test_a_run_goes_on_with_shards_or_without(case: str, both: Any) -> None:
    one, two = both(case)
    assert two["resumed"] and not one["resumed"]
    assert [step for step, _ in two["steps"]] == [5, 6]
    assert [loss for _, loss in two["steps"]] == pytest.approx([loss for _, loss in one["steps"][-2:]], abs=1e-5)
    assert [h["loss"] for h in two["stage"]["history"]] == pytest.approx([h["loss"] for h in one["stage"]["history"]], abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-4)
