"""Checkpoints of mixed training: all tasks of one moment in one folder, in the form that a single run's have (`train.checkpoint`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tempering.contracts import Seeds, Weights
from tempering.mixing.lane import Lane
from tempering.train import checkpoint
from tempering.train.progress import Listener

GROUPS = ("weights", "optimizer", "stabilizers", "best", "gradients")


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints of a mixed run go (None: nowhere), and what they must agree with to be continued."""

    folder: Path | None
    resume: bool
    identity: Mapping[str, str]
    listener: Listener

    def save(self, lanes: Sequence[Lane], leader: Lane, count: int) -> None:
        """Write where all ``lanes`` stand after ``count`` mixed batches, if ``leader`` stands at a mark of its own settings.

        One task leads, the longest that is not done: so there are as many checkpoints as its single run would write, and not as many
        for each of a hundred tasks.
        """
        if self.folder is None or not leader.at_mark:
            return
        parts = {lane.name: lane.tensors() for lane in lanes}
        groups: dict[str, Weights] = {
            group: {f"{task}/{name}": tensor for task, mine in parts.items() for name, tensor in mine[group].items()} for group in GROUPS
        }
        state = {"lanes": {lane.name: lane.state() for lane in lanes}, "identity": dict(self.identity)}
        checkpoint.write(self.folder, count, groups, state)
        told = {"task": leader.name, "step": leader.run.step, "total": leader.steps}
        self.listener({"event": "save", **told, "folder": str(self.folder), "best": leader.run.best})

    def restore(self, lanes: Sequence[Lane]) -> int:
        """Let all ``lanes`` stand where the newest checkpoint left them; how many mixed batches were made by then."""
        path = self.newest
        if path is None:
            return 0
        tensors, state = checkpoint.read(path, dict(self.identity))
        for lane in lanes:
            head = f"{lane.name}/"
            mine = {group: {name.removeprefix(head): t for name, t in tensors[group].items() if name.startswith(head)} for group in GROUPS}
            lane.restore(mine, state["lanes"][lane.name])
        self.listener({"event": "note", "text": f"resumed from {path.name}: {sum(lane.run.step for lane in lanes)} steps of all tasks"})
        return int(state["step"])

    @property
    def newest(self) -> Path | None:
        """The checkpoint to continue from."""
        return checkpoint.latest(self.folder) if self.resume and self.folder is not None else None


def identity(model: str, seeds: Seeds, rows: int, tasks: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What two runs must share for one to continue the other: tasks in their order, what each is made of, seeds, batches and model."""
    own = {f"{what} of task {task}": value for task, parts in tasks.items() for what, value in parts.items()}
    return {"list of tasks": ", ".join(tasks), **own, "seeds": json.dumps(asdict(seeds)), "rows_per_batch": str(rows), "model": model}
