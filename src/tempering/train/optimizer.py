"""AdamW with bias correction or, to show what it is worth, without; its groups, and gradient clipping that does no needless work."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from tempering.contracts import Weights
from tempering.train.hooks import Folded
from tempering.train.settings import Loop
from tempering.train.sharding import gathered

LATE = 2.0**60  # a step count at which 1 - beta^step is 1 to the last bit, whatever beta


def make(trained: Weights, settings: Loop, per_weight: bool, undecayed: Collection[str] = ()) -> torch.optim.AdamW:
    """AdamW over the trained weights. Biases and norms (one-dimensional weights) are not decayed, as in transformers, nor are those
    of the framing that it lists as ``undecayed``.

    ``per_weight`` makes each weight a group of its own, for methods that give weights different rates. A group's ``peak`` is its
    learning rate before schedule and factors, its ``names`` are the weights in it.
    """
    head = settings.head_learning_rate or settings.learning_rate
    spared = {f"framing.{name}" for name in undecayed}
    groups: dict[tuple[object, ...], dict[str, object]] = {}
    for name, weight in trained.items():
        peak = head if name.startswith("framing.") else settings.learning_rate
        decay = settings.weight_decay if weight.ndim > 1 and name not in spared else 0.0
        group = groups.setdefault(
            (peak, decay, name if per_weight else ""), {"params": [], "names": [], "peak": peak, "weight_decay": decay}
        )
        group["params"].append(weight)  # type: ignore[attr-defined]
        group["names"].append(name)  # type: ignore[attr-defined]
    betas = (settings.adam_beta1, settings.adam_beta2)
    optimizer = torch.optim.AdamW(list(groups.values()), lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)
    for weight in () if settings.adam_bias_correction else trained.values():
        optimizer.state[weight] = _uncorrected(weight)
    return optimizer


def _uncorrected(weight: Tensor) -> Weights:
    """Adam's state with empty moments, at a step so late that it corrects nothing: the step of BERT's first code (BertAdam).

    The first step then is (1 - beta1) / sqrt(1 - beta2) times as long as the rate says, 3.16 by default.
    """
    step = torch.tensor(LATE, dtype=torch.float32, device=weight.device)
    return {"step": step, "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}


@torch.no_grad()
def renew(optimizer: torch.optim.Optimizer, name: str, rows: Tensor) -> None:
    """Forget where the entries ``rows`` (a mask) of weight ``name`` were going: they were placed anew.

    The second moment becomes the mean of the others', as the step count is the whole weight's: from zero, so late in a run, the first
    steps would be several times too long.
    """
    for group in optimizer.param_groups:
        for weight in (w for other, w in zip(group["names"], group["params"], strict=True) if other == name):
            moments = optimizer.state.get(weight, {})
            if "exp_avg" in moments:
                moments["exp_avg"][rows] = 0.0
                others = moments["exp_avg_sq"][~rows]
                moments["exp_avg_sq"][rows] = others.mean(0) if len(others) else 0.0


def set_rates(optimizer: torch.optim.AdamW, folded: Folded, scale: float, progress: float) -> None:
    """Set every group's rate for this step, and draw weights where methods pull them at that rate.

    A weight that a method gives factor 0 is frozen: no moment, no decay, no pull.
    """
    for group in optimizer.param_groups:
        factor = folded.rate(group["names"][0], progress) if folded.rates else 1.0
        group["lr"] = group["peak"] * scale * factor
        if factor == 0.0:
            for weight in group["params"]:
                weight.grad = None
        elif folded.pulls:
            _pull(group, folded)


@torch.no_grad()
def _pull(group: dict[str, Any], folded: Folded) -> None:
    for name, weight in zip(group["names"], group["params"], strict=True):
        weight.sub_(folded.pull(name, weight), alpha=group["lr"])


def clip(weights: Iterable[Tensor], limit: float) -> float:
    """Scale gradients to a total norm of at most ``limit``; gradients within it are not touched. Returns the norm before."""
    gradients = [w.grad for w in weights if w.grad is not None]
    if not gradients:
        return 0.0
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    value = float(gathered(norm))
    if limit > 0 and value > limit:
        torch._foreach_mul_(gradients, limit / (value + 1e-6))
    return value
