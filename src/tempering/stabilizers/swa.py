"""Stochastic weight averaging: the mean of the weights from some point of the run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from tempering.contracts import Hooks, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class SWA:
    """Evaluates and keeps the mean of the trained weights over the later part of the run; training itself goes on as without it.

    *Paper*: Izmailov et al. 2018 (SWA); Lu et al. 2022 for pretrained language models: a high constant rate, averaged over steps.
    *Formula*: a = mean of w_t over the steps t = s + 1, s + 1 + ``every``, ... with s = floor(after * steps), kept as a running
    mean; until the first of them the weights themselves. With ``after: 0`` it is the mean over all steps.
    *Needs*: a rate that does not fade (``lr_scheduler_type: constant_with_warmup``), or the mean is little more than the last weights.
    *Costs*: no pass; one copy of the trained weights.
    *Differs*: the rate is a setting of the loop, cycles are not built. The mean of low-rank factors is not the mean of their products.
    """

    touches: ClassVar[tuple[str, ...]] = ("after_step", "final")
    after: float = Field(default=0.5, ge=0, le=1)
    every: int = Field(default=1, ge=1)

    @property
    def neutral(self) -> bool:
        """After the whole run there is nothing left to average."""
        return self.after == 1.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with the running mean, the steps seen and how many of them are in it."""
        mean: Weights = {}
        steps, count = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        first = int(self.after * learner.steps)

        def after_step(weights: Weights) -> None:
            steps.add_(1)
            behind = int(steps) - first - 1
            if behind < 0 or behind % self.every:
                return
            count.add_(1)
            for name, weight in weights.items():
                mean.setdefault(name, weight.detach().clone()).lerp_(weight.detach(), 1 / int(count))

        def restore(state: Weights) -> None:
            steps.copy_(state["steps"])
            count.copy_(state["count"])
            mean.update({n: state[f"mean/{n}"].to(w.device) for n, w in trained.items() if f"mean/{n}" in state})

        def save() -> Weights:
            return {f"mean/{n}": w for n, w in mean.items()} | {"steps": steps.clone(), "count": count.clone()}

        return Hooks(after_step=after_step, final=lambda: dict(mean), save=save, restore=restore)
