"""Law 3. Weights that are not declared trained are bitwise unchanged by training, and what is declared does move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.stages.train import Train
from tempering.tunings.frozen import Frozen
from tempering.tunings.lora import LoRA
from tests.laws.bench import bits, differing, refusal, run, stage_of, tier, untrained
from tests.laws.settings import live

STEADIED: list[tuple[str, tuple[Any, ...]]] = [("none", ()), *((name, (value,)) for name, value in live("stabilizer").items())]
PAIRS = [
    pytest.param(tuning, found, id=f"{t}-{s}", marks=tier((t, s), ("full", "none")))
    for t, tuning in live("tuning").items()
    for s, found in STEADIED
]


def check_frozen(stage: Train) -> None:
    """Only declared weights move, and the tuning's own words about what it trains are true."""
    learner = untrained(stage)
    declared, before = set(learner.kept()), bits(learner)
    body = {n for n in learner.trained() if n.startswith("backbone.")}
    assert stage.tuning.trains_backbone == bool(body)
    assert stage.tuning.trains_pretrained == any(learner.pretrained(n) for n in body)
    moved = set(differing(before, bits(run(stage))))
    assert moved <= declared, f"moved, though not declared: {sorted(moved - declared)[:3]}"
    assert moved & body or not body, "nothing of the backbone moved, though the tuning trains it"
    assert any(n.startswith("framing.") for n in moved)


@pytest.mark.parametrize(("tuning", "stabilizers"), PAIRS)
def test_frozen_weights_keep_their_bits(tuning: Any, stabilizers: tuple[Any, ...]) -> None:
    stage = stage_of(tuning, stabilizers)
    if refusal(stage):
        assert "none of those" in refusal(stage)  # a method over pretrained weights, where none is trained
    else:
        check_frozen(stage)


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_thresholds_and_scales_are_no_weights(kind: str) -> None:
    stage = stage_of(Frozen())
    before, after = bits(untrained(stage, kind=kind)), bits(run(stage, kind=kind))
    buffers = {n for n in differing(before, after) if n not in dict(untrained(stage, kind=kind).named_parameters())}
    assert buffers <= {"framing.thresholds"}


@dataclass(frozen=True)
class Drifting(Frozen):
    """Broken: each forward pass of the embeddings moves them, though nothing there is trained."""

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        backbone.embeddings.register_forward_hook(lambda module, *_: _nudge(module.weight))


@dataclass(frozen=True)
class Secretive(LoRA):
    """Broken: trains the biases along and does not say so."""

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        for name, weight in backbone.named_parameters():
            weight.requires_grad_(weight.requires_grad or name.endswith("dense.bias"))


def _nudge(weight: torch.Tensor) -> None:
    weight.data.add_(1e-6)


@pytest.mark.parametrize(("broken", "seen"), [(Drifting, "though not declared"), (Secretive, "trains_pretrained")])
def test_the_law_catches(broken: type, seen: str, register: Callable[[str, type], None]) -> None:
    register("tuning", broken)
    with pytest.raises(AssertionError, match=seen):
        check_frozen(stage_of(broken()))
