"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from tempering.contracts import Hooks, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class EMA:
    """Evaluates and keeps an exponential moving average of the trained weights; training itself goes on as without it.

    *Paper*: Polyak and Juditsky 1992 (averaging); the warm-up of the decay is that of TensorFlow's ExponentialMovingAverage.
    *Formula*: a_0 = w_0; a_t = d_t a_{t-1} + (1 - d_t) w_t with d_t = min(decay, (1 + t) / (10 + t)) after step t = 1, 2, ...
    *Needs*: nothing. *Costs*: no pass; one copy of the trained weights.
    *Differs*: nothing known. The mean of low-rank factors is not the mean of their products.
    """

    touches: ClassVar[tuple[str, ...]] = ("after_step", "final")
    decay: float = Field(default=0.999, ge=0, lt=1)

    @property
    def neutral(self) -> bool:
        """With decay 0 the average is the weights themselves."""
        return self.decay == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with the average and the number of steps in it."""
        average = {n: w.detach().clone() for n, w in trained.items()}
        steps = torch.zeros((), dtype=torch.int64)

        def after_step(weights: Weights) -> None:
            steps.add_(1)
            t = int(steps)
            decay = min(self.decay, (1 + t) / (10 + t))
            for name, weight in weights.items():
                average[name].lerp_(weight.detach(), 1.0 - decay)

        def restore(state: Weights) -> None:
            steps.copy_(state["steps"])
            average.update({n: state[f"average/{n}"].to(average[n].device) for n in average})

        def save() -> Weights:
            return {f"average/{n}": w for n, w in average.items()} | {"steps": steps.clone()}

        return Hooks(after_step=after_step, final=lambda: dict(average), save=save, restore=restore)
