"""FreeLB: the supervised loss along a few steps of an attack on the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights
from tempering.stabilizers.noise import Shift, real_tokens, uniform

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes

_TINY = 1e-8


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FreeLB:
    """Trains on texts whose embeddings are pushed, step by step, to where the loss is larger.

    *Paper*: Zhu et al. 2020 (FreeLB). *Formula*: loss = mean over t = 1 .. k of L(f(e + delta_t), y), e and delta [rows, length, dim];
    delta_1 = U(-1, 1) * init_mag / sqrt(tokens * dim) on real tokens; delta_(t+1) = P(delta_t + adv_lr * g / ||g||), g the gradient of
    L by delta_t, norms over a whole text, P onto the ball of radius ``max_norm`` where one is given. All k passes have one dropout mask.
    *Needs*: nothing. *Costs*: k training passes in place of one, and a copy of the gradient; the gradient by the weights falls off
    with that by the embeddings, and one pass's activations are held at a time.
    *Differs*: nothing known. Every task has settings of its own in the released scripts; the defaults here are those of SST-2.
    """

    touches: ClassVar[tuple[str, ...]] = ("base",)
    held: ClassVar[int] = 1
    carries: ClassVar[bool] = True  # a perturbation goes from one pass to the next, token by token
    k: int = Field(default=2, ge=1)
    adv_lr: float = Field(default=0.1, ge=0)
    init_mag: float = Field(default=0.6, ge=0)
    max_norm: float | None = Field(default=None, gt=0)

    @property
    def perturbations(self) -> int:
        """One pass for each step of the attack."""
        return self.k

    @property
    def neutral(self) -> bool:
        """An attack that never leaves the text changes nothing."""
        return self.init_mag == 0.0 and (self.k == 1 or self.adv_lr == 0.0)

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks that replace the supervised loss; no state."""
        return Hooks(base=self._attack)

    def _attack(self, passes: Passes) -> Tensor:
        rng, wanted = passes.stream("freelb"), list(passes.trained.values())
        shift = Shift(lambda x: self.init_mag * _spread(uniform(x, rng), real_tokens(passes.batch, x)))
        values: list[Tensor] = []
        mean: list[Tensor | None] = []
        for step in range(self.k):
            last = step + 1 == self.k
            value, (ascent, *found) = _gradients(passes, shift, wanted, self.k)
            values.append(value)
            mean = _owned(found) if step == 0 else [_sum(total, gradient) for total, gradient in zip(mean, found, strict=True)]
            if not last and ascent is not None:
                shift.move(self._project(shift.delta + self.adv_lr * ascent / _norm(ascent).clamp_min(_TINY)), step + 2 == self.k)
        used = [(gradient, weight) for gradient, weight in zip(mean, wanted, strict=True) if gradient is not None]
        return _known(torch.stack(values).sum(), used)

    def _project(self, delta: Tensor) -> Tensor:
        if self.max_norm is None:
            return delta
        return delta * (self.max_norm / _norm(delta).clamp_min(_TINY)).clamp_max(1.0)


class _Known(torch.autograd.Function):
    """A value whose gradients are known already: ``value``, then a gradient for each weight, then the weights."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *tensors: Tensor) -> Tensor:
        ctx.known = tensors[: len(tensors) // 2]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        known, ctx.known = ctx.known, ()  # scaled in place, which goes once
        return (None, *(None for _ in known), *(gradient.mul_(outer) for gradient in known))


def _known(value: Tensor, used: list[tuple[Tensor, Tensor]]) -> Tensor:
    """``value`` as a loss whose gradients are known: pairs of gradient and weight."""
    loss: Tensor = _Known.apply(value, *(g for g, _ in used), *(w for _, w in used))  # type: ignore[no-untyped-call]
    return loss


def _owned(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The same gradients, each in memory of its own: autograd may hand one tensor, or a view that repeats, to several weights."""
    seen: set[int] = set()
    owned: list[Tensor | None] = []
    for g in gradients:
        owned.append(g.clone() if g is not None and (g.data_ptr() in seen or not g.is_contiguous()) else g)
        seen.add(0 if g is None else g.data_ptr())
    return owned


def _sum(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    return total.add_(gradient) if total is not None and gradient is not None else total


def _gradients(passes: Passes, shift: Shift, wanted: list[Tensor], parts: int) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss under ``shift`` over ``parts``, and its gradients: by the shift, where it asks for one, and by every weight."""
    loss = passes.learner.framing.loss(passes.perturbed(shift), passes.batch) / parts
    asked = shift.delta.requires_grad
    # What passes share (replaced weights) must outlive this call; the rest of the graph goes with ``loss``.
    found = torch.autograd.grad(loss, [*([shift.delta] if asked else []), *wanted], retain_graph=True, allow_unused=True)
    return loss.detach(), found if asked else (None, *found)


def _spread(noise: Tensor, real: Tensor) -> Tensor:
    """``noise`` on real tokens, divided by the root of the number of a text's entries."""
    return noise * real / (real.sum(1, keepdim=True) * noise.shape[-1]).sqrt()


def _norm(delta: Tensor) -> Tensor:
    """Euclidean norm of each text's perturbation, [rows, 1, 1]."""
    norm: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2), keepdim=True)
    return norm
