"""Self-distillation from the run's own recent weights: from their mean, or from the vote of the models they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Scores, Slab, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes


@dataclass(frozen=True)
class SelfDistillation:
    """Pulls the logits towards those of a teacher that is the mean of the weights of the K steps before, or the vote of their models.

    *Paper*: Xu et al. 2020 (BERT_SDA; with ``teacher: vote`` BERT_SDV). *Formula*: CE + weight * MSE(logits, teacher's logits), in
    evaluation mode, no gradient. Mean: the teacher of the weights w_t is the mean of w_(t-1), ..., w_(t-k), of which there are fewer at
    the start; before the first step it is w_0 itself. Vote: its logits are the mean of the logits of those k models (at the start w_0
    has the votes of the steps that are missing). w_t is not among them: with k = 1 it would teach itself.
    *Needs*: nothing. *Costs*: one evaluation pass a step, with ``vote`` k of them; k + 1 copies of the trained weights (small with LoRA).
    *Differs*: the best-known public code keeps an exponential average instead of a mean of k.
    """

    touches: ClassVar[tuple[str, ...]] = ("term", "after_step")
    students: ClassVar[int] = 1
    compares: ClassVar[bool] = True  # whole distributions of two passes
    weight: float = Field(default=1.0, ge=0)
    k: int = Field(default=1, ge=1)
    teacher: Literal["mean", "vote"] = "mean"

    @property
    def teachers(self) -> int:
        """Evaluation passes a micro-batch."""
        return self.k if self.teacher == "vote" else 1

    @property
    def neutral(self) -> bool:
        """Weight 0 changes nothing."""
        return self.weight == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with a term and a ring of the weights now and of the k steps before."""
        first = 1 + self.k if self.teacher == "vote" else 1
        ring: deque[Weights] = deque([_copy(trained) for _ in range(first)], maxlen=1 + self.k)

        def term(passes: Passes) -> Tensor:
            before = list(ring)[:-1] or list(ring)
            teacher = _vote([passes.under(w) for w in before]) if self.teacher == "vote" else passes.under(_mean(before))
            return self.weight * passes.student(0).fold(teacher, _apart)

        def restore(state: Weights) -> None:
            ring.clear()
            for i in range(1 + max(int(key.partition("/")[0]) for key in state)):
                mine = {k.partition("/")[2]: v for k, v in state.items() if k.startswith(f"{i}/")}
                ring.append({n: v.to(trained[n].device) for n, v in mine.items()})

        def save() -> Weights:
            return {f"{i}/{n}": w for i, weights in enumerate(ring) for n, w in weights.items()}

        return Hooks(term=term, after_step=lambda weights: ring.append(_copy(weights)), save=save, restore=restore)


def _copy(weights: Weights) -> Weights:
    return {n: w.detach().clone() for n, w in weights.items()}


def _mean(models: Sequence[Weights]) -> Weights:
    return models[0] if len(models) == 1 else {n: torch.stack([w[n] for w in models]).mean(0) for n in models[0]}


def _vote(scores: Sequence[Scores]) -> Scores:
    slabs = zip(*(found.slabs for found in scores), strict=True)
    return Scores(tuple(same[0]._replace(logits=torch.stack([slab.logits for slab in same]).mean(0)) for same in slabs))


def _apart(student: Slab, teacher: Slab) -> Tensor:
    return F.mse_loss(student.logits, teacher.logits)
