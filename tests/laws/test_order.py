"""Law 2. Swapping two stabilizers changes the loss by less than 1e-6, or the pair is refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, ClassVar

import pytest
import torch
from pydantic.dataclasses import dataclass

from tempering.contracts import Hooks, Weights
from tempering.registry import name_of
from tests.laws.bench import losses, refusal, stage_of, tier
from tests.laws.settings import live

PAIRS = [
    pytest.param(a, b, id=f"{m}-{n}", marks=tier((m, n), ("r_drop", "layer_decay")))
    for (m, a), (n, b) in combinations(live("stabilizer").items(), 2)
]


def check_order(a: Any, b: Any) -> None:
    """Either order gives the same losses over a run, or both are refused in one sentence that names the two."""
    forth, back = stage_of(stabilizers=[a, b]), stage_of(stabilizers=[b, a])
    reasons = refusal(forth), refusal(back)
    if any(reasons):
        for reason in reasons:
            assert name_of(a)[1] in reason and name_of(b)[1] in reason and "keep one" in reason
        return
    assert forth.passes_per_step == back.passes_per_step
    gap = max(abs(x - y) for x, y in zip(losses(forth), losses(back), strict=True))
    assert gap < 1e-6, f"the order moves the loss by {gap:.2g}"


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_order_of_two_stabilizers_does_not_matter(a: Any, b: Any) -> None:
    check_order(a, b)


class Live:
    """Base of the methods below: they are never neutral."""

    touches: ClassVar[tuple[str, ...]] = ()
    neutral: ClassVar[bool] = False


@dataclass(frozen=True)
class NoiseA(Live):
    touches: ClassVar[tuple[str, ...]] = ("noise",)

    def start(self, *_: Any) -> Hooks:
        return Hooks(noise=lambda x, rng: 0.1 * torch.from_numpy(rng.standard_normal(x.shape, "float32")))


@dataclass(frozen=True)
class NoiseB(Live):
    touches: ClassVar[tuple[str, ...]] = ("noise",)

    def start(self, *_: Any) -> Hooks:
        return Hooks(noise=lambda x, rng: torch.from_numpy(rng.uniform(-0.3, 0.3, x.shape).astype("float32")))


@dataclass(frozen=True)
class GradientA(Live):
    """Scales a gradient by its own size: what an earlier method did to it must not be seen."""

    touches: ClassVar[tuple[str, ...]] = ("gradient",)

    def start(self, *_: Any) -> Hooks:
        return Hooks(gradient=lambda name, grad: 1.0 / (1.0 + grad.norm()))


@dataclass(frozen=True)
class GradientB(Live):
    touches: ClassVar[tuple[str, ...]] = ("gradient",)

    def start(self, *_: Any) -> Hooks:
        return Hooks(gradient=lambda name, grad: (grad.abs() > grad.abs().median()).to(grad.dtype))


@dataclass(frozen=True)
class Halving(Live):
    touches: ClassVar[tuple[str, ...]] = ("rate",)

    def start(self, *_: Any) -> Hooks:
        return Hooks(rate=lambda name, progress: 0.5 if "layer.0" in name else 1.0 - 0.5 * progress)


@dataclass(frozen=True)
class Shrinking(Live):
    """Another owner of the weights of a pass."""

    touches: ClassVar[tuple[str, ...]] = ("weights",)

    def start(self, *_: Any) -> Hooks:
        return Hooks(weights=lambda now, rng: {n: 0.9 * w for n, w in now.items()})


@dataclass(frozen=True)
class Counting(Live):
    """Broken: its term is the number of passes made before it was asked."""

    touches: ClassVar[tuple[str, ...]] = ("term",)

    def start(self, *_: Any) -> Hooks:
        return Hooks(term=lambda passes: torch.tensor(float(passes.made)))


@dataclass(frozen=True)
class Meddling(Live):
    """Broken: its term halves a trained weight in place, so that a term that asks for a pass after it sees another model."""

    touches: ClassVar[tuple[str, ...]] = ("term",)

    def start(self, learner: Any, trained: Weights, seed: int) -> Hooks:
        def term(passes: Any) -> torch.Tensor:
            trained["framing.final.weight"].data.mul_(0.5)
            return passes.under({}).only.logits.mean()  # type: ignore[no-any-return]

        return Hooks(term=term)


SOUND = (NoiseA, NoiseB, GradientA, GradientB, Halving)


@pytest.mark.parametrize(("a", "b"), [*combinations(SOUND, 2)])
def test_hooks_that_no_shipped_method_uses_yet_commute_too(a: type, b: type, register: Callable[[str, type], None]) -> None:
    for cls in (a, b):
        register("stabilizer", cls)
    check_order(a(), b())


@pytest.mark.parametrize("method", [m for m in live("stabilizer").values() if "weights" in m.touches])
def test_two_owners_of_the_weights_are_refused(method: Any, register: Callable[[str, type], None]) -> None:
    register("stabilizer", Shrinking)
    assert "replaces the weights of a training pass" in refusal(stage_of(stabilizers=[method, Shrinking()]))
    check_order(method, Shrinking())


@pytest.mark.parametrize("broken", [Counting, Meddling])
def test_the_law_catches(broken: type, register: Callable[[str, type], None]) -> None:
    register("stabilizer", broken)
    with pytest.raises(AssertionError, match="the order moves the loss"):
        check_order(live("stabilizer")["r_drop"], broken())
