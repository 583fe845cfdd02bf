"""SMART: predictions that are smooth around every text, and steps that stay near an average of the past."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Scores, Weights
from tempering.stabilizers.divergence import both_ways
from tempering.stabilizers.noise import Shift, normal, real_tokens

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes

_TINY = 1e-12
_EARLY = 0.1  # share of the run in which the average forgets at rate ``beta``, and at ``late_beta`` afterwards


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SMART:
    """Looks for the small change of the embeddings that moves the prediction most, and makes the prediction hold still there.

    *Paper*: Jiang et al. 2020 (SMART). *Formula*: CE + alpha * d(f(e + delta), f(e)) + mu * d(f(e), f(e; mean)), mean over rows,
    d(p, q) = KL(p || q) + KL(q || p), or the squared difference of values. delta [rows, length, dim] starts as N(0, sigma^2); ``k``
    times delta <- clip(delta + eta * g / max|g|, -radius, radius), g the gradient of d by delta, max over a token's vector.
    ``mu`` > 0 adds the Bregman proximal term (the paper's 1 stands in recipe smart, 0 is the released code): ``mean`` is the exponential
    average of the trained weights, of rate ``beta`` in the first tenth of the steps and ``late_beta`` afterwards.
    *Needs*: nothing. *Costs*: k + 1 more training passes, k of them with gradients by the embeddings alone; with ``mu`` one
    evaluation pass and a copy of the trained weights.
    *Differs*: the released code draws dropout anew in each pass, scales delta or its last step by the largest entry where the paper
    projects, and has no proximal term. Here all passes share the dropout of the clean one, so that only delta is spoken of; with
    MiniLM on eight texts the default radius gave a term of 4e-9, 1e-3 one of 5e-6. Without ``shared_dropout`` the changed passes
    have masks of their own, and the term, 9e-5 there, is about dropout.
    """

    touches: ClassVar[tuple[str, ...]] = ("term", "after_step")
    students: ClassVar[int] = 1
    compares: ClassVar[bool] = True  # whole distributions of two passes
    held: ClassVar[int] = 1
    carries: ClassVar[bool] = True  # a perturbation goes from one pass to the next, token by token
    alpha: float = Field(default=1.0, ge=0)
    k: int = Field(default=1, ge=1)
    eta: float = Field(default=1e-3, gt=0)
    sigma: float = Field(default=1e-5, gt=0)
    radius: float = Field(default=1e-5, gt=0)
    mu: float = Field(default=0.0, ge=0)
    beta: float = Field(default=0.99, ge=0, lt=1)
    late_beta: float = Field(default=0.999, ge=0, lt=1)
    shared_dropout: bool = True

    @property
    def perturbations(self) -> int:
        """Passes with changed embeddings: the k ascent steps, and one where they led."""
        return self.k + 1 if self.alpha else 0

    @property
    def teachers(self) -> int:
        """The pass under the average of the past, where there is a proximal term."""
        return 1 if self.mu else 0

    @property
    def neutral(self) -> bool:
        """Both weights 0 change nothing."""
        return self.alpha == 0.0 and self.mu == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with the smoothness term, and with the proximal term over an average of their own where it is asked for."""
        smooth = self._smooth if self.alpha else None
        return self._proximal(trained, learner.steps, smooth) if self.mu else Hooks(term=smooth)

    def _smooth(self, passes: Passes) -> Tensor:
        clean, rng = passes.student(0), passes.stream("smart")
        shift = Shift(lambda x: self.sigma * normal(x, rng) * real_tokens(passes.batch, x))
        fixed, i = _detached(clean), 0 if self.shared_dropout else 1
        for step in range(self.k):
            distance = passes.perturbed(shift, i=i).fold(fixed, both_ways)
            (gradient,) = torch.autograd.grad(distance, shift.delta)
            del distance  # and with it the graph of the pass
            shift.move(self._project(shift.delta + self.eta * _direction(gradient)), last=step + 1 == self.k)
        return self.alpha * clean.fold(passes.perturbed(shift, i=i), both_ways)

    def _project(self, delta: Tensor) -> Tensor:
        return delta.detach().clamp(-self.radius, self.radius)

    def _proximal(self, trained: Weights, steps: int, smooth: Callable[[Passes], Tensor] | None) -> Hooks:
        mean = {n: w.detach().clone() for n, w in trained.items()}
        seen = torch.zeros((), dtype=torch.int64)

        def term(passes: Passes) -> Tensor:
            near = self.mu * passes.student(0).fold(passes.under(mean), both_ways)
            return near if smooth is None else near + smooth(passes)

        @torch.no_grad()
        def after_step(weights: Weights) -> None:
            rate = self.beta if int(seen) < _EARLY * steps else self.late_beta
            seen.add_(1)
            for name, weight in weights.items():
                mean[name].lerp_(weight, 1 - rate)

        def save() -> Weights:
            return {"seen": seen.clone(), **{f"mean/{n}": w for n, w in mean.items()}}

        def restore(state: Weights) -> None:
            seen.copy_(state["seen"])
            for name, value in mean.items():
                value.copy_(state[f"mean/{name}"])

        return Hooks(term=term, after_step=after_step, save=save, restore=restore)


def _direction(gradient: Tensor) -> Tensor:
    """Every token's gradient divided by its largest entry."""
    return gradient / (gradient.abs().amax(-1, keepdim=True) + _TINY)


def _detached(scores: Scores) -> Scores:
    return scores._replace(slabs=tuple(slab._replace(logits=slab.logits.detach()) for slab in scores.slabs))
