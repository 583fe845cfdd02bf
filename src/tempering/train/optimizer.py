"""AdamW with bias correction, its groups, and gradient clipping that does no needless work."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tempering.contracts import Weights
from tempering.train.hooks import Folded
from tempering.train.settings import Loop


def make(trained: Weights, settings: Loop, per_weight: bool) -> torch.optim.AdamW:
    """AdamW over the trained weights. Biases and norms (one-dimensional weights) are not decayed, as in transformers.

    ``per_weight`` makes each weight a group of its own, for methods that give weights different rates. A group's ``peak`` is its
    learning rate before schedule and factors, its ``names`` are the weights in it.
    """
    head = settings.head_learning_rate or settings.learning_rate
    groups: dict[tuple[object, ...], dict[str, object]] = {}
    for name, weight in trained.items():
        peak = head if name.startswith("framing.") else settings.learning_rate
        decay = settings.weight_decay if weight.ndim > 1 else 0.0
        group = groups.setdefault(
            (peak, decay, name if per_weight else ""), {"params": [], "names": [], "peak": peak, "weight_decay": decay}
        )
        group["params"].append(weight)  # type: ignore[attr-defined]
        group["names"].append(name)  # type: ignore[attr-defined]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return torch.optim.AdamW(list(groups.values()), lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)


def set_rates(optimizer: torch.optim.AdamW, folded: Folded, scale: float, progress: float) -> None:
    """Set every group's rate for this step. A weight that a method gives factor 0 is frozen: no moment, no decay."""
    for group in optimizer.param_groups:
        factor = folded.rate(group["names"][0], progress) if folded.rates else 1.0
        group["lr"] = group["peak"] * scale * factor
        if factor == 0.0:
            for weight in group["params"]:
                weight.grad = None


def clip(weights: Iterable[Tensor], limit: float) -> float:
    """Scale gradients to a total norm of at most ``limit``; gradients within it are not touched. Returns the norm before."""
    gradients = [w.grad for w in weights if w.grad is not None]
    if not gradients:
        return 0.0
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    value = float(norm)
    if limit > 0 and value > limit:
        torch._foreach_mul_(gradients, limit / (value + 1e-6))
    return value
