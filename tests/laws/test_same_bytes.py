"""Law 4. The same seeds give the same bytes, also after a kill and a resume at any step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic.dataclasses import dataclass

from tempering.contracts import Hooks, Seeds, Weights
from tempering.learner import Learner
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.train import checkpoint
from tempering.train.progress import Event
from tests.laws.bench import STAGE, bits, dev, differing, kind_of, refusal, run, stage_of, tier
from tests.laws.settings import Row, live, rows

LOOP = dataclasses.replace(
    STAGE, max_steps=5, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=1, load_best_model_at_end=True
)
STEADIED = [("none", ()), *((name, (value,)) for name, value in live("stabilizer").items())]
PAIRS = [((t, s), stage_of(tuning, found, stage=LOOP)) for t, tuning in live("tuning").items() for s, found in STEADIED]
ALLOWED = [pytest.param(stage, id="-".join(pair), marks=tier(pair, ("full", "none"))) for pair, stage in PAIRS if not refusal(stage)]


class KilledError(Exception):
    """Stands for a kill: the process is gone in the middle of a step."""


def _killer(step: int, moment: str) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if event["event"] == moment and event["step"] == step:
            raise KilledError

    return listen


def killed_everywhere(stage: Train, folder: Path, moment: str = "step") -> Learner:
    """The learner of a run that is killed once at every step and resumed each time from what is on disk."""
    for step in range(1, stage.max_steps + 1):
        if moment == "step" or step % stage.eval_steps == 0 or step == stage.max_steps:
            with pytest.raises(KilledError):
                run(stage, around=Surroundings(folder, resume=True, listener=_killer(step, moment)))
    return run(stage, around=Surroundings(folder, resume=True))


def _disk(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    newest = checkpoint.latest(folder)
    assert newest is not None
    groups, state = checkpoint.read(newest, {})
    return {f"{group}/{name}": tensor for group, found in groups.items() for name, tensor in found.items()}, state


def check_same(a: Learner, b: Learner) -> None:
    """Equal weights, history and predictions, to the bit."""
    assert differing(bits(a), bits(b)) == []
    assert a.record["stage"] == b.record["stage"]
    rows = dev(kind_of(a.record["framing"]))
    assert a.predictions(rows) == b.predictions(rows)


def check_resume(stage: Train, folder: Path, moment: str = "step") -> None:
    """A run killed at every step ends as the unbroken one, down to the optimizer and each method's state on disk."""
    unbroken = run(stage, around=Surroundings(folder / "a"))
    broken = killed_everywhere(stage, folder / "b", moment)
    check_same(unbroken, broken)
    (tensors, state), (others, other) = _disk(folder / "a"), _disk(folder / "b")
    assert differing(tensors, others) == [] and state == other
    assert any(name.startswith("optimizer/exp_avg/") for name in tensors)


@pytest.mark.parametrize("stage", ALLOWED)
def test_a_kill_at_every_step_leaves_no_trace(stage: Train, tmp_path: Path) -> None:
    check_resume(stage, tmp_path)


@pytest.mark.parametrize("framing", rows("framing"))
def test_for_every_framing(framing: Row, tmp_path: Path) -> None:
    text = "labeled" if framing.live.supervised else "unlabeled"
    check_resume(dataclasses.replace(stage_of(framing=framing.live, stage=LOOP), text=text), tmp_path)


def _gatherings() -> list[list[Any]]:
    """All stabilizers in as few lists as recipes allow: where two would each own what only one may, the second goes to the next list."""
    lists: list[list[Any]] = []
    for value in live("stabilizer").values():
        home = next((found for found in lists if not refusal(stage_of(stabilizers=[*found, value]))), None)
        if home is None:
            lists.append([value])
        else:
            home.append(value)
    return lists


@pytest.mark.parametrize("together", _gatherings(), ids=len)
def test_for_all_methods_at_once_with_accumulation(together: list[Any], tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, per_device_train_batch_size=4, gradient_accumulation_steps=2, class_weights="balanced")
    check_resume(stage_of(stabilizers=together, stage=loop), tmp_path)


def test_a_kill_between_evaluation_and_checkpoint(tmp_path: Path) -> None:
    check_resume(LOOP, tmp_path, moment="evaluate")


def test_best_weights_and_patience_survive(tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, max_steps=8, eval_steps=1, learning_rate=5e-2, early_stopping_patience=2)
    unbroken = run(loop)
    stage = unbroken.record["stage"]
    assert stage["steps"] == stage["best_step"] + 2 < 8  # patience was spent, and the best weights are not the last
    for step in range(1, stage["steps"] + 1):
        with pytest.raises(KilledError):
            run(loop, around=Surroundings(tmp_path, resume=True, listener=_killer(step, "step")))
    check_same(unbroken, run(loop, around=Surroundings(tmp_path, resume=True)))
    check_same(unbroken, run(loop, around=Surroundings(tmp_path, resume=True)))  # one that has stopped stays stopped


def test_each_seed_matters() -> None:
    first = bits(run(LOOP))
    for purpose in ("init", "order", "dropout"):
        assert differing(first, bits(run(LOOP, seeds=Seeds.of(0, **{purpose: 99})))), f"the {purpose} seed changes nothing"


def test_the_state_of_the_process_does_not_matter() -> None:
    first = run(LOOP)
    torch.rand(7)
    np.random.rand(3)
    check_same(first, run(LOOP))


class Live:
    """Base of the methods below: they are never neutral."""

    touches: ClassVar[tuple[str, ...]] = ("term",)
    neutral: ClassVar[bool] = False


@dataclass(frozen=True)
class Amnesic(Live):
    """Broken: its term grows with a step count that no checkpoint holds."""

    def start(self, *_: Any) -> Hooks:
        steps: list[int] = []

        def after_step(weights: Weights) -> None:
            steps.append(1)

        return Hooks(term=lambda passes: len(steps) * passes.student(0).only.logits.square().mean(), after_step=after_step)


@dataclass(frozen=True)
class Gambling(Live):
    """Broken: draws from numpy's global generator."""

    def start(self, *_: Any) -> Hooks:
        return Hooks(term=lambda passes: float(np.random.rand()) * passes.student(0).only.logits.square().mean())


def test_the_law_catches_state_that_is_not_saved(tmp_path: Path, register: Callable[[str, type], None]) -> None:
    register("stabilizer", Amnesic)
    stage = stage_of(stabilizers=[Amnesic()], stage=LOOP)
    check_same(run(stage), run(stage))  # unbroken runs do agree
    with pytest.raises(AssertionError):
        check_resume(stage, tmp_path)


def test_the_law_catches_a_foreign_random_stream(register: Callable[[str, type], None]) -> None:
    register("stabilizer", Gambling)
    stage = stage_of(stabilizers=[Gambling()], stage=LOOP)
    with pytest.raises(AssertionError):
        check_same(run(stage), run(stage))
