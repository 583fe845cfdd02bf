"""Self-ensemble: the mean of the weights of the last steps."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class SelfEnsemble:
    """Evaluates and keeps the mean of the trained weights of the last ``k`` steps; training itself goes on as without it.

    *Paper*: Xu et al. 2020 (BERT_SE). *Formula*: w = (w_t + ... + w_{t-k+1}) / k after step t; fewer at the start of the run.
    *Needs*: nothing. *Costs*: no pass; k copies of the trained weights in main memory (small with LoRA). For the mean of all steps
    take `SWA` with ``after: 0``, which keeps one copy.
    *Differs*: nothing known. The mean of low-rank factors is not the mean of their products.
    """

    touches: ClassVar[tuple[str, ...]] = ("after_step", "final")
    k: int = Field(default=5, ge=1)

    @property
    def neutral(self) -> bool:
        """The mean of one step is the weights themselves."""
        return self.k == 1

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with a ring of the last k weights."""
        ring: deque[Weights] = deque(maxlen=self.k)

        def after_step(weights: Weights) -> None:
            ring.append({n: _stored(w) for n, w in weights.items()})

        def final() -> Weights:
            return {n: torch.stack([weights[n] for weights in ring]).mean(0) for n in ring[0]} if ring else {}

        def save() -> Weights:
            return {f"{i}/{n}": w for i, weights in enumerate(ring) for n, w in weights.items()}

        def restore(state: Weights) -> None:
            ring.clear()
            for i in range(1 + max(int(key.partition("/")[0]) for key in state)):
                ring.append({n: state[f"{i}/{n}"] for n in trained})

        return Hooks(after_step=after_step, final=final, save=save, restore=restore)


def _stored(weight: Tensor) -> Tensor:
    """A copy in main memory; where only sizes are asked for (`explain`), there is nothing to move."""
    return weight.detach().clone() if weight.is_meta else weight.detach().to("cpu", copy=True)
