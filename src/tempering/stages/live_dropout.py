"""Whether dropout is at work in a model, for methods that change nothing without it."""

from __future__ import annotations

from typing import Any

from torch import nn

from tempering.learner import Learner
from tempering.registry import name_of


def dropout_notes(stage: Any, learner: Learner) -> list[str]:
    """A sentence where a method of ``stage`` compares passes that only dropout tells apart, and none is at work in ``learner``."""
    wanting = [name_of(s)[1] for s in stage.live if getattr(s, "needs_dropout", False)]
    otherwise = any({"weights", "noise"} & set(s.touches) for s in stage.live)  # drawn in every pass anew
    if not wanting or otherwise or drops(learner):
        return []
    body = learner.backbone
    note = (
        f"{wanting[0]} compares passes that dropout tells apart, and with tuning {name_of(stage.tuning)[1]} {body.source}"
        f" ({body.layout.family}) trains without any: they come out equal, so that it costs a pass and changes nothing; leave it out, or"
        " take a model whose configuration has dropout, or some of the tuning's or the framing's own (tuning.lora_dropout, framing.dropout)"
    )
    return [note]


def drops(learner: Learner) -> bool:
    """Whether any module of ``learner`` has a rate of dropout and heeds it while training. What it computes is not looked at."""
    modes = [(part, part.training) for part in learner.modules()]
    learner.train()
    try:
        return any(part.training and _rate(part) > 0 for part in learner.modules())
    finally:
        for part, mode in modes:
            part.training = mode


def _rate(part: nn.Module) -> float:
    """The greatest rate a module holds: of a dropout layer ``p``, elsewhere a number by a name such as ``attention_dropout``."""
    named = [rate for name, rate in vars(part).items() if "drop" in name and isinstance(rate, float)]
    return max([*named, float(part.p) if isinstance(part, nn.Dropout) else 0.0])
