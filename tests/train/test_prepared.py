"""What stabilizers do before the first step: weights set first, choices made next, and both known to the hooks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic.dataclasses import dataclass

from tempering.contracts import Hooks, Probe, Weights
from tempering.learner import Learner
from tempering.registry import METHODS, find
from tempering.stages.setup import Surroundings
from tests.laws.bench import bits, differing, run, stage_of

TOLD: list[Any] = []
NAME = "framing.final.weight"


@dataclass(frozen=True)
class Setting:
    """Sets first weights."""

    touches: ClassVar[tuple[str, ...]] = ()
    neutral: bool = False

    def initialize(self, learner: Learner, seed: int) -> None:
        TOLD.append(("initialize", seed))
        with torch.no_grad():
            learner.get_parameter(NAME).fill_(0.5)

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        return Hooks()


@dataclass(frozen=True)
class Choosing:
    """Chooses a factor for each gradient of the head from the data and the weights it finds."""

    touches: ClassVar[tuple[str, ...]] = ("gradient",)
    neutral: bool = False

    def prepare(self, learner: Learner, probe: Probe) -> Weights:
        found = list(probe.gradients(rows=3))
        TOLD.append(("prepare", float(learner.get_parameter(NAME).detach().mean()), len(found)))
        return {"factor": torch.tensor(0.25)}

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        factor = torch.tensor(1.0)

        def gradient(name: str, grad: torch.Tensor) -> float:
            TOLD.append(("factor", float(factor)))
            return float(factor) if name == NAME else 1.0

        def restore(state: Weights) -> None:
            factor.copy_(state["factor"])

        return Hooks(gradient=gradient, save=lambda: {"factor": factor}, restore=restore)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    for cls in (Setting, Choosing):
        monkeypatch.setitem(METHODS["stabilizer"], cls.__name__.lower(), f"{__name__}:{cls.__name__}")
    find.cache_clear()
    TOLD.clear()
    yield
    find.cache_clear()


@pytest.mark.parametrize("order", [(Setting(), Choosing()), (Choosing(), Setting())])
def test_weights_are_set_before_anyone_chooses_and_choices_reach_the_hooks(order: tuple[Any, ...]) -> None:
    run(stage_of(stabilizers=order))
    assert [told[0] for told in TOLD[:2]] == ["initialize", "prepare"]
    assert TOLD[1] == ("prepare", 0.5, 3)
    assert set(TOLD[2:]) == {("factor", 0.25)}


def test_the_seed_is_that_of_new_weights() -> None:
    from tempering.contracts import Seeds

    for seeds in (Seeds.of(0), Seeds.of(0, dropout=7, order=7, sampling=7), Seeds.of(0, init=7)):
        run(stage_of(stabilizers=[Setting()]), seeds=seeds)
    first, same, other = (told[1] for told in TOLD)
    assert first == same != other


def test_neutral_settings_neither_set_nor_choose() -> None:
    with_them = bits(run(stage_of(stabilizers=[Setting(True), Choosing(True)])))
    assert TOLD == [] and differing(with_them, bits(run(stage_of()))) == []


def test_a_resumed_run_takes_both_from_its_checkpoint(tmp_path: Path) -> None:
    stage = dataclasses.replace(stage_of(stabilizers=[Setting(), Choosing()]), save_strategy="steps", save_steps=1)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    whole = bits(run(stage, around=Surroundings(tmp_path / "a")))
    with pytest.raises(KeyboardInterrupt):
        run(stage, around=Surroundings(tmp_path / "b", listener=stop))
    TOLD.clear()
    again = run(stage, around=Surroundings(tmp_path / "b", resume=True))
    assert set(TOLD) == {("factor", 0.25)}
    assert differing(whole, bits(again)) == []
