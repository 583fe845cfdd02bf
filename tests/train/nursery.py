"""A process that raises others to kill them: it imports the library once, forks a child for every run, and ends it with SIGKILL.

It reads an order a line (JSON) from standard input and answers each with a line on standard output. A child stops itself where the order
says; the nursery kills it there, or lets it go on for a moment and kills it wherever it then is.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file

from tempering.contracts import Hooks, Weights
from tempering.fitting import fit
from tempering.methods import METHODS
from tempering.recipe import Recipe
from tempering.train import checkpoint
from tempering.train.progress import Event
from tests.laws.bench import kind_of
from tests.laws.settings import family_of
from tests.tiny import tiny_backbone, tiny_task

DONE = "predictions.json"


@dataclass(frozen=True)
class Amnesic:
    """Broken: its term grows with a step count that no checkpoint holds."""

    touches: ClassVar[tuple[str, ...]] = ("term", "after_step")
    neutral: ClassVar[bool] = False

    def start(self, *_: Any) -> Hooks:
        steps: list[int] = []

        def after_step(weights: Weights) -> None:
            steps.append(1)

        return Hooks(term=lambda passes: len(steps) * passes.student(0).only.logits.square().mean(), after_step=after_step)


def stop() -> None:
    """Stand still until the nursery says what becomes of us."""
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_in_write(step: int, group: str) -> None:
    """From now on, stop while the file of ``group`` of the checkpoint of ``step`` is half written."""
    whole = checkpoint.save_file

    def half(tensors: Weights, path: Path) -> None:
        whole(tensors, path)
        if path.name == f"{group}.safetensors" and path.parent.name.startswith(f".checkpoint-{step}."):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            stop()

    checkpoint.save_file = half  # type: ignore[assignment]  # this process ends with the run


def run(recipe: Recipe, folder: Path, at: dict[str, Any]) -> None:
    """One run in this process, resumed from what is in ``folder``; leaves weights and predictions there."""

    def listener(event: Event) -> None:
        if at.get("moment") == event["event"] and event["step"] == at["step"] and told.append(1) is None and len(told) == at.get("nth", 1):
            stop()

    told: list[int] = []
    if at.get("moment") == "write":
        stop_in_write(at["step"], at["group"])
    framing = recipe.stages[-1].framing
    task = tiny_task(24, kind_of(framing))
    learner = fit(recipe, task, tiny_backbone(family_of(framing)), output_dir=folder, resume=True, listener=listener)
    save_file({name: tensor.contiguous().clone() for name, tensor in learner.state_dict().items()}, folder / "learner.safetensors")
    found = [dataclasses.asdict(p) for p in learner.predictions(task.dev.examples)]
    (folder / DONE).write_text(json.dumps({"predictions": found, "stage": learner.record["stage"]}))


def raise_child(recipe: Recipe, folder: Path, at: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for the run, kill it as ``at`` says, and tell how it ended."""
    child = os.fork()
    if child == 0:
        try:
            run(recipe, folder, at)
        except BaseException:
            (folder / "error.txt").write_text(traceback.format_exc())
        os._exit(0 if (folder / DONE).exists() else 1)
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        if at.get("more"):
            os.kill(child, signal.SIGCONT)
            time.sleep(at["more"])
        os.kill(child, signal.SIGKILL)  # one that has ended meanwhile still waits for us
        _, status = os.waitpid(child, 0)
    error = folder / "error.txt"
    return {"signal": os.WTERMSIG(status), "code": os.waitstatus_to_exitcode(status), "error": error.read_text() if error.exists() else ""}


def serve() -> None:
    """Answer orders until standard input ends."""
    torch.set_num_threads(1)
    METHODS["stabilizer"]["amnesic"] = f"{Amnesic.__module__}:{Amnesic.__qualname__}"
    fit("full", tiny_task(24), tiny_backbone())  # everything is imported now
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"forking with {threads} threads is not safe"
    gc.freeze()  # or every child would touch, and so copy, all pages that hold what was imported
    for line in sys.stdin:
        order = json.loads(line)
        folder = Path(order["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        answer = raise_child(Recipe.from_plain(order["recipe"]), folder, order["at"])
        print(json.dumps(answer), flush=True)
