"""Several tries of one recipe: start them all, stop the bad ones early, finish the rest, keep the one that is best on dev.

After Dodge et al. 2020, "Fine-tuning pretrained language models: weight initializations, data orders, and early stopping": on small data
such runs end far apart, and much of that shows early. The training rows are the same in every try, initialization and order are not.

A study does not stop seeds: the mean over chosen runs is the mean of another thing than the mean over runs, and pairing them with another
recipe's would call luck a difference. This is a way to a better model, not to a fairer comparison: the score that chose is optimistic, the
test split is read once, for the model that is kept, and what all tries cost is what it cost.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tempering.choosing import choose
from tempering.contracts import Seeds, predicts
from tempering.errors import CollapseError, RecipeError, ResumeError
from tempering.fitting import account, evaluate, fit
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.tasks.task import Task
from tempering.train.checkpoint import latest
from tempering.train.device import refuse_launched
from tempering.train.progress import Event, Listener, silent

FILE = "tries.json"


@dataclass(frozen=True)
class Tries:
    """``count`` runs; at the first checkpoint at or after the share ``stop_at`` of the last stage the share ``stop_worst`` of them ends."""

    count: int = 5
    stop_worst: float = 0.5
    stop_at: float = 0.3

    def __post_init__(self) -> None:
        if self.count < 2:
            raise RecipeError(f"--tries {self.count}: expected 2 at least; one run is what  temper fit  does without it")
        for name in ("stop_worst", "stop_at"):
            if not 0 < getattr(self, name) < 1:
                raise RecipeError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected a share between 0 and 1, such as 0.5")

    @property
    def kept(self) -> int:
        """How many are finished: one at least, and never more than the share leaves."""
        return max(1, self.count - round(self.count * self.stop_worst))

    def seeds(self, seeds: Seeds) -> list[Seeds]:
        """Of every try. The first has ``seeds`` as they are; the others draw initialization, order and dropout anew."""
        steps = range(0, 4 * self.count, 4)  # `Seeds.of` counts in fours: try i has the streams that the i-th seed from here would have
        return [replace(seeds, init=seeds.init + i, order=seeds.order + i, dropout=seeds.dropout + i) for i in steps]


@dataclass
class Attempt:
    """One try: ``state`` is "open", "paused", "stopped" or "finished"; ``score`` is the best on dev so far, larger is better."""

    number: int
    seeds: dict[str, int]
    state: str = "open"
    score: float | None = None
    step: int = 0
    seconds: float = 0.0
    dev: dict[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[float, int]:
        """The best first, of equals the earlier."""
        return -(self.score if self.score is not None else float("-inf")), self.number


class Paused(Exception):
    """A try has reached the checkpoint at which it is judged."""


@dataclass
class _Watch:
    """A listener that follows a try, and ends it at the first checkpoint of its last stage that lies at or after the share ``stop_at``."""

    attempt: Attempt
    stage: str
    stop_at: float
    listener: Listener
    pausing: bool

    def __call__(self, event: Event) -> None:
        judged = event["event"] == "save" and Path(event["folder"]).match(self.stage) and self.read(event)
        self.listener(event)
        if judged:
            raise Paused

    def read_last(self, folder: Path) -> bool:
        """The same from the newest checkpoint in ``folder``, if there is one."""
        newest = latest(folder)
        return newest is not None and self.read(json.loads((newest / "state.json").read_text(encoding="utf-8")))

    def read(self, saved: Mapping[str, Any]) -> bool:
        """Take over what a checkpoint says; whether the try is to be judged by it."""
        self.attempt.step, self.attempt.score, total = saved["step"], saved.get("best"), saved.get("total", 0)
        return self.pausing and self.attempt.score is not None and self.stop_at * total <= saved["step"] < total


def fit_tries(
    recipe: Recipe | str,
    task: Task | str | Path,
    model: str = "minilm",
    *,
    tries: Tries | int = 5,
    seed: int = 0,
    seeds: Seeds | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    metrics: Sequence[str] = (),
    listener: Listener = silent,
) -> Learner:
    """As `tempering.fit`, for the best of several tries on the development split; ``tries`` is their number, or `Tries` with shares.

    A try that goes on is bit for bit the run it would have been alone. The record tells of all ``tries``; its seconds are those of all.
    """
    started = time.perf_counter()
    task = task if isinstance(task, Task) else Task.from_file(task, seed=seed)
    how = tries if isinstance(tries, Tries) else Tries(tries)
    recipe, why = choose(task) if recipe == "auto" else (Recipe.load(recipe), "")
    _check(recipe, task)
    with _place(output_dir) as folder:
        race = _Race(recipe, replace(task, test=None), model, how, folder, tuple(metrics), listener)
        race.start(how.seeds(seeds or Seeds.of(seed)), resume)
        best, learner = race.run()
    spent, found = sum(attempt.seconds for attempt in race.attempts), evaluate(learner, task, tuple(metrics), None, listener)
    notes = [*([why] if why else []), *learner.record["notes"], race.words(best)]
    account(learner, recipe, task, Seeds(**best.seeds), found, notes, started, spent)
    learner.record |= {"tries": [asdict(a) for a in race.attempts], "chosen": best.number}
    learner.record["seconds"] = max(learner.record["seconds"], spent)
    return learner


def _check(recipe: Recipe, task: Task) -> None:
    refuse_launched("--tries runs")
    stage = recipe.stages[-1]
    if task.dev is None or not predicts(stage.framing):
        raise RecipeError(f"recipe {recipe.name}: tries are judged on the development split: it needs one, and a last stage with labels")
    if lacking := [name for name in ("eval_strategy", "save_strategy") if getattr(stage, name, "no") == "no"]:
        raise RecipeError(f"recipe {recipe.name}: tries are judged at checkpoints of the last stage; it needs {lacking[0]} epoch or steps")


@contextmanager
def _place(output_dir: str | Path | None) -> Iterator[Path]:
    """The folder of the tries: below the output folder's checkpoints, or one that goes away."""
    if output_dir:
        yield Path(output_dir) / "checkpoints"
        return
    with tempfile.TemporaryDirectory(prefix="tempering-tries-") as own:
        yield Path(own)


@dataclass
class _Race:
    """All tries, and where they stand: after every one of them ``tries.json`` is written, so that a killed race goes on."""

    recipe: Recipe
    task: Task
    model: str
    how: Tries
    folder: Path
    metrics: tuple[str, ...]
    listener: Listener
    attempts: list[Attempt] = field(default_factory=list)

    def start(self, seeds: Sequence[Seeds], resume: bool) -> None:
        """All tries at their beginning, or where an earlier process left them."""
        self.attempts = [Attempt(i, asdict(s)) for i, s in enumerate(seeds)]
        known = self.folder / FILE
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif known.exists():
            found = json.loads(known.read_text(encoding="utf-8"))
            if found["how"] != asdict(self.how) or [a["seeds"] for a in found["attempts"]] != [a.seeds for a in self.attempts]:
                raise ResumeError(f"{known} tells of other tries or seeds; resume with the settings of that run, or use another folder")
            self.attempts = [Attempt(**a) for a in found["attempts"]]
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> tuple[Attempt, Learner]:
        """Start all, stop the worst, finish the rest; the best on dev and its learner. Ties go to the earlier try."""
        for attempt in self.attempts:
            if attempt.state == "open":
                self.listener({"event": "note", "text": f"try {attempt.number + 1} of {self.how.count}"})
                self._fit(attempt, pausing=True)
        ranked = sorted(self.attempts, key=lambda a: a.rank)
        for attempt in (a for a in ranked[self.how.kept :] if a.state == "paused"):
            attempt.state = "stopped"
            self.listener({"event": "note", "text": f"try {attempt.number + 1} is stopped at step {attempt.step}"})
            shutil.rmtree(self._own(attempt), ignore_errors=True)
        self._write()
        best: tuple[Attempt, Learner] | None = None
        for attempt in (a for a in ranked if a.state != "stopped"):
            how = "goes on" if attempt.state == "paused" else "is finished"
            self.listener({"event": "note", "text": f"try {attempt.number + 1} {how}"})
            learner = self._fit(attempt, pausing=False)
            if learner is not None and (best is None or attempt.rank < best[0].rank):
                best = attempt, learner
        if best is None:
            raise CollapseError(f"recipe {self.recipe.name}: the loss became infinite in every try; lower learning_rate")
        return best

    def _own(self, attempt: Attempt) -> Path:
        return self.folder / f"try-{attempt.number}"

    def _fit(self, attempt: Attempt, pausing: bool) -> Learner | None:
        """Run a try on from where it stands, to the checkpoint where it is judged or to its end; None if it was only paused."""
        inside, started = getattr(self.recipe.stages[-1], "trained_in", ""), time.perf_counter()
        last = f"stage-{len(self.recipe.stages) - 1}/{inside}".rstrip("/")
        was, learner = attempt.state, None
        watch = _Watch(attempt, last, self.how.stop_at, self.listener, pausing)
        try:
            own, seeds = self._own(attempt), Seeds(**attempt.seeds)
            if watch.read_last(own / "checkpoints" / last):  # killed after its checkpoint was written, and before this was noted
                raise Paused
            run = partial(fit, self.recipe, self.task, self.model, seeds=seeds, metrics=self.metrics, listener=watch)
            learner = run(output_dir=own, resume=own.exists())
            attempt.state, attempt.dev = "finished", learner.record["metrics"]["dev"]
        except Paused:
            attempt.state = "paused"
        except CollapseError as error:  # a try that diverges is the worst there is, and ends no other
            attempt.state, attempt.score = "stopped", None
            self.listener({"event": "note", "text": f"try {attempt.number + 1}: {error}"})
        if was != "finished":  # a finished try is only read back
            attempt.seconds += time.perf_counter() - started
        self._write()
        return learner

    def _write(self) -> None:
        part = self.folder / f".{FILE}"
        part.write_text(json.dumps({"how": asdict(self.how), "attempts": [asdict(a) for a in self.attempts]}), encoding="utf-8")
        part.replace(self.folder / FILE)

    def words(self, best: Attempt) -> str:
        """What was done, for the record and the card."""
        ended = sum(a.state == "stopped" for a in self.attempts)
        chosen = f"Try {best.number + 1} of {len(self.attempts)}, chosen on the development split ({ended} were stopped early)"
        return f"{chosen}: its dev score is optimistic, and it is no mean over seeds; time and cost are those of all tries."
