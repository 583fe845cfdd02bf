"""Decay towards the pretrained weights instead of towards zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes


@dataclass(frozen=True)
class L2SP:
    """Draws trained weights back to where they started, and new ones to zero.

    *Paper*: Li et al. 2018 (L2-SP). *Formula*: loss + alpha / 2 |w - w0|^2 + beta / 2 |v|^2, sums over all pretrained trained weights w
    and all new ones v; w0 are the weights at the start of the stage, after any re-initialization. ``decoupled``: not in the loss, but
    w <- w - rate * alpha * (w - w0) and v <- v - rate * beta * v before each step, past Adam's scaling (Zhang et al. 2021, "pre-trained
    weight decay", alpha 1e-3; the same for new weights).
    *Needs*: a tuning that trains pretrained weights in place. *Costs*: no pass; a copy of those weights.
    *Differs*: with Adam the term is scaled like any gradient, which the decoupled form is not. The released code of Zhang et al. draws
    the head to its first values, against its own comment. Where others take the mean of squares, their weight is not this one.
    """

    needs_pretrained: ClassVar[bool] = True
    alpha: float = Field(default=0.01, ge=0)
    beta: float = Field(default=0.01, ge=0)
    decoupled: bool = False

    @property
    def touches(self) -> tuple[str, ...]:
        """The loss, or the weights beside it."""
        return ("pull",) if self.decoupled else ("term",)

    @property
    def neutral(self) -> bool:
        """Both weights 0: nothing is drawn anywhere."""
        return self.alpha == 0.0 and self.beta == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with a term or a pull; the start weights travel with checkpoints."""
        origin = {n: w.detach().clone() for n, w in trained.items() if learner.pretrained(n)}

        def pull(name: str, weight: Tensor) -> Tensor:
            return self.alpha * (weight - origin[name]) if name in origin else self.beta * weight

        def term(passes: Passes) -> Tensor:
            old = [(w - origin[n]).square().sum() for n, w in passes.trained.items() if n in origin]
            new = [w.square().sum() for n, w in passes.trained.items() if n not in origin]
            parts = [weight / 2 * torch.stack(sums).sum() for weight, sums in ((self.alpha, old), (self.beta, new)) if weight and sums]
            return torch.stack(parts).sum() if parts else next(iter(passes.trained.values())).new_zeros(())

        def restore(state: Weights) -> None:
            origin.update({n: w.to(origin[n].device) for n, w in state.items()})

        kept = Hooks(save=lambda: dict(origin), restore=restore)
        return kept._replace(pull=pull) if self.decoupled else kept._replace(term=term)
