"""Law 1. A stabilizer at its neutral setting gives bitwise the run without it, makes no pass and draws no number."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic.dataclasses import dataclass
from torch.nn import functional as F

from tempering.contracts import Hooks
from tempering.stages.train import Train
from tests.laws.bench import STEPS, bits, differing, run, stage_of
from tests.laws.settings import Row, live, rows


def _global_streams() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]


def check_neutral(without: Train, value: Any) -> None:
    """``value`` added to ``without`` changes no bit of the result, no count of passes and no random stream."""
    with_it = stage_of(without.tuning, (value, *without.stabilizers))
    before = _global_streams()
    plain, steadied = run(without), run(with_it)
    assert _global_streams() == before, "a global random stream moved"
    assert steadied.record["stage"]["passes"] == plain.record["stage"]["passes"] == without.passes_per_step * STEPS
    assert with_it.passes_per_step == without.passes_per_step and with_it.why_not_cached == without.why_not_cached
    assert differing(bits(plain), bits(steadied)) == []


def check_acts(value: Any) -> None:
    """A live setting changes the result: else the law above would be empty."""
    assert differing(bits(run(stage_of())), bits(run(stage_of(stabilizers=[value])))) != []


@pytest.mark.parametrize("row", rows("stabilizer"))
def test_a_neutral_setting_changes_no_bit(row: Row) -> None:
    check_neutral(stage_of(), row.neutral)


@pytest.mark.parametrize("row", rows("stabilizer"))
def test_nor_beside_another_method(row: Row) -> None:
    other = next(v for v in live("stabilizer").values() if type(v) is not type(row.live))
    check_neutral(stage_of(stabilizers=[other]), row.neutral)


@pytest.mark.parametrize("row", rows("stabilizer"))
def test_a_neutral_method_is_not_even_started(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> Hooks:
        raise AssertionError("started")

    monkeypatch.setattr(type(row.neutral), "start", start)
    run(stage_of(stabilizers=[row.neutral]))
    with pytest.raises(AssertionError, match="started"):
        run(stage_of(stabilizers=[row.live]))


@pytest.mark.parametrize("row", rows("stabilizer"))
def test_a_live_setting_acts(row: Row) -> None:
    check_acts(row.live)


@dataclass(frozen=True)
class Stirring:
    """Broken: at weight 0 it still draws from the dropout stream of the pass."""

    touches: ClassVar[tuple[str, ...]] = ("noise",)
    neutral: ClassVar[bool] = False

    def start(self, *_: Any) -> Hooks:
        return Hooks(noise=lambda x, rng: 0.0 * F.dropout(torch.ones_like(x), 0.5))


@dataclass(frozen=True)
class Asking:
    """Broken: at weight 0 it still asks for a second pass, over which the loss is then averaged."""

    touches: ClassVar[tuple[str, ...]] = ("term",)
    neutral: ClassVar[bool] = False

    def start(self, *_: Any) -> Hooks:
        return Hooks(term=lambda passes: 0.0 * passes.student(1).only.logits.sum())


@dataclass(frozen=True)
class Global:
    """Broken: draws from numpy's global generator, though its term is zero."""

    touches: ClassVar[tuple[str, ...]] = ("term",)
    neutral: ClassVar[bool] = False

    def start(self, *_: Any) -> Hooks:
        return Hooks(term=lambda passes: torch.zeros(()) * float(np.random.rand()))


@dataclass(frozen=True)
class Idle:
    """Broken: says that every setting is neutral, so that it never acts."""

    touches: ClassVar[tuple[str, ...]] = ("term",)
    neutral: ClassVar[bool] = True

    def start(self, *_: Any) -> Hooks:
        return Hooks(term=lambda passes: passes.student(0).only.logits.square().mean())


@pytest.mark.parametrize(("broken", "seen"), [(Stirring, "=="), (Asking, "passes|=="), (Global, "global random stream")])
def test_the_law_catches(broken: type, seen: str, register: Callable[[str, type], None]) -> None:
    register("stabilizer", broken)
    with pytest.raises(AssertionError, match=seen):
        check_neutral(stage_of(), broken())


def test_the_law_catches_a_method_that_never_acts(register: Callable[[str, type], None]) -> None:
    register("stabilizer", Idle)
    with pytest.raises(AssertionError):
        check_acts(Idle())
