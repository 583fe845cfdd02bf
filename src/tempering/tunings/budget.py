"""AdaLoRA's budget: how many singular values may stay at a step, and which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tempering.contracts import Weights
from tempering.errors import RecipeError


class Schedule(NamedTuple):
    """From ``first`` singular values in all to ``last``: untouched for ``tinit`` steps, then down by a cube, ``tfinal`` steps fixed."""

    first: int
    last: int
    tinit: int
    tfinal: int
    delta: int
    steps: int

    @classmethod
    def of(cls, first: int, last: int, tinit: float, tfinal: float, delta: int, steps: int) -> Schedule:
        """``tinit`` and ``tfinal`` are steps, or a share of ``steps`` below 1; no step left between them is a `RecipeError`."""
        begin, end = (round(t * steps) if t < 1 else round(t) for t in (tinit, tfinal))
        if steps and begin >= steps - end:
            raise RecipeError(
                f"adalora: tinit {begin} and tfinal {end} leave none of the run's {steps} steps for cutting the rank; lower one, give"
                " shares below 1, or train longer"
            )
        return cls(first, last, begin, end, delta, steps)

    def budget(self, step: int) -> int | None:
        """How many may stay after optimizer step ``step`` (from 1); None where nothing is cut then."""
        if step == self.steps - self.tfinal:
            return self.last
        if step <= self.tinit or step > self.steps - self.tfinal or step % self.delta:
            return None
        left = 1 - (step - self.tinit) / (self.steps - self.tfinal - self.tinit)
        return int((self.first - self.last) * left**3 + self.last)


class Sensitivity:
    """How much the loss depends on every number: mean and spread over steps of |weight * gradient| (AdaLoRA, eq. 8 to 11)."""

    def __init__(self, weights: Mapping[str, Tensor], beta1: float, beta2: float) -> None:
        self.weights = weights
        self.beta1, self.beta2 = beta1, beta2
        self.gradients: Weights = {}
        self.mean = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.spread = {name: torch.zeros_like(w) for name, w in weights.items()}

    @torch.no_grad()
    def update(self, still: bool) -> None:
        """Take in the step just made, if cuts are ``still`` to come. Weights are those after it, as in the authors' code."""
        for name, gradient in self.gradients.items() if still else ():
            now, mean = (self.weights[name] * gradient).abs(), self.mean[name]
            mean.lerp_(now, 1 - self.beta1)
            self.spread[name].lerp_((now - mean).abs(), 1 - self.beta2)
        self.gradients = {}

    def triplets(self, path: str) -> Tensor:
        """The score of each singular value [r] of the map ``path`` with its two vectors: its own, plus the means of theirs."""
        a, b, e = (self.mean[f"{path}.{n}"] * self.spread[f"{path}.{n}"] for n in ("A", "B", "E"))
        return e.view(-1) + a.mean(1) + b.mean(0)

    def state(self) -> Weights:
        """What a checkpoint holds."""
        return {f"mean/{n}": t for n, t in self.mean.items()} | {f"spread/{n}": t for n, t in self.spread.items()}

    def restore(self, state: Weights) -> None:
        """As it was."""
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            if kind in ("mean", "spread"):
                getattr(self, kind)[name].copy_(tensor)


def keep(scores: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
    """Masks [r, 1] of what stays: the ``budget`` highest scores over all maps; equal ones at the border go together."""
    ranked = torch.cat(list(scores.values()))
    cut = len(ranked) - budget
    if cut < 1:
        return {path: torch.ones_like(found).unsqueeze(1) for path, found in scores.items()}
    border = torch.kthvalue(ranked, cut).values
    return {path: (found > border).to(found.dtype).unsqueeze(1) for path, found in scores.items()}
