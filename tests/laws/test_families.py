"""Law 9. Every pair of tuning, framing and family trains a step, or is refused with a reason and what to do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.errors import ModelError, RecipeError
from tempering.layouts import LAYOUTS
from tempering.registry import name_of
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tests.laws.bench import STAGE, run, serves, stage_of
from tests.laws.settings import TABLE, Row, rows
from tests.tiny import FAMILIES, GATED, tiny_backbone

ONE_STEP = dataclasses.replace(STAGE, max_steps=1, eval_strategy="no")
EVERY = [*FAMILIES, *(pytest.param(family, marks=pytest.mark.slow) for family in GATED)]
ADVICE = ("use ", "choose ", "give ", "take ", "add ")


@cache
def outcome(stage: Train, family: str) -> str:
    """How a pair fares: empty where it trains one step, else the sentence it is refused with. Anything else breaks the law."""
    told: list[dict[str, Any]] = []
    try:
        learner = run(stage, family, around=Surroundings(listener=told.append))
    except (ModelError, RecipeError) as refused:
        return str(refused)
    except Exception as error:
        raise AssertionError(f"neither trained nor refused: {type(error).__name__}: {error}") from error
    (loss,) = (event["loss"] for event in told if event["event"] == "step")
    assert math.isfinite(loss) and learner.record["stage"]["steps"] == 1
    return ""


def check_pair(stage: Train, family: str, method: str) -> None:
    """A refusal names the method and the family or model, gives a reason, and says what to do."""
    reason = outcome(stage, family)
    if reason:
        assert method in reason and (LAYOUTS[family].family in reason), f"refused without a name: {reason}"
        assert len(reason.split()) > 10 and any(word in reason for word in ADVICE), f"refused without advice: {reason}"


def _stage(tuning: Any = None, framing: Any = None) -> Train:
    stage = stage_of(tuning or Full(), framing=framing, stage=ONE_STEP)
    return stage if framing is None or framing.supervised else dataclasses.replace(stage, text="unlabeled")


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("row", rows("tuning"))
def test_tuning_and_family(row: Row, family: str) -> None:
    check_pair(_stage(row.live), family, name_of(row.live)[1])


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("row", rows("framing"))
def test_framing_and_family(row: Row, family: str) -> None:
    check_pair(_stage(framing=row.live), family, name_of(row.live)[1])


@pytest.mark.parametrize("framing", rows("framing"))
@pytest.mark.parametrize("tuning", rows("tuning"))
def test_tuning_and_framing(tuning: Row, framing: Row) -> None:
    stage = _stage(tuning.live, framing.live)
    if framing.family == "bert":
        assert outcome(stage, "bert") == ""
    elif serves(tuning.live, framing.family):  # a family of fewer methods: a pair may be refused, with a reason
        check_pair(stage, framing.family, name_of(framing.live)[1])


@cache
def kind_of(family: str) -> str:
    return tiny_backbone(family).layout.kind


@pytest.mark.parametrize("kind", ["tuning", "framing"])
def test_each_method_serves_most_families(kind: str) -> None:
    """Refusing everything would satisfy the law above."""
    for name, row in TABLE[kind].items():
        served = [f for f in FAMILIES if not outcome(_stage(**{kind: row.live}), f)]
        alike = [f for f in FAMILIES if kind_of(f) == kind_of(row.family)]
        least = 8 if row.family == "bert" else len(alike)  # of those that can read as it does, all
        assert len(served) >= least, f"{name} serves {served} only"


@dataclass(frozen=True)
class Narrow(Full):
    """Broken: knows one family's names and stumbles over the others."""

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        backbone.model.get_submodule("encoder.layer")


@dataclass(frozen=True)
class Curt(LoRA):
    """Broken: refuses without a reason."""

    def attach(self, backbone: Backbone) -> None:
        raise ModelError("unsupported")


@pytest.mark.parametrize(("broken", "seen"), [(Narrow, "neither trained nor refused"), (Curt, "refused without")])
def test_the_law_catches(broken: type, seen: str, register: Callable[[str, type], None]) -> None:
    register("tuning", broken)
    with pytest.raises(AssertionError, match=seen):
        check_pair(_stage(broken()), "gpt2", broken.__name__.lower())
