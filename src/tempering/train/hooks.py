"""Folding the hooks of several stabilizers into one: sums, products, and at most one where order would matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Hooks, Stabilizer, Weights
from tempering.errors import RecipeError
from tempering.streams import key_of

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes

SINGLE = {
    "weights": "replaces the weights of a training pass",
    "base": "replaces the supervised loss",
    "final": "chooses the final weights",
}


def at_most_one(field: str, owners: Sequence[str]) -> None:
    """Refuse two owners of a hook whose fold does not commute."""
    if len(owners) > 1:
        raise RecipeError(f"{' and '.join(owners)} each {SINGLE[field]}, and the order of two such would matter; keep one of them")


@dataclass
class Folded:
    """All hooks of a run as one."""

    hooks: list[tuple[str, Hooks]]
    layered: bool = False  # some method reads what the blocks put out

    def __post_init__(self) -> None:
        for field in SINGLE:
            at_most_one(field, [name for name, h in self.hooks if getattr(h, field) is not None])

    def _all(self, field: str) -> list[Any]:
        return [getattr(h, field) for _, h in self.hooks if getattr(h, field) is not None]

    def _one(self, field: str) -> Any:
        return next(iter(self._all(field)), None)

    @property
    def rates(self) -> bool:
        """Whether any method scales learning rates."""
        return bool(self._all("rate"))

    def rate(self, name: str, progress: float) -> float:
        """Factor on the learning rate of weight ``name``."""
        return float(prod(h(name, progress) for h in self._all("rate")))

    @property
    def pulls(self) -> bool:
        """Whether any method draws weights somewhere beside their gradient."""
        return bool(self._all("pull"))

    def pull(self, name: str, weight: Tensor) -> Tensor:
        """What the rate times this is taken off ``weight``. Every method sees the weight as it was."""
        return torch.stack([h(name, weight) for h in self._all("pull")]).sum(0)

    def scale_gradients(self, trained: Weights) -> None:
        """Multiply each gradient by the methods' factors, in place. Every method sees the gradient as it was: order does not matter."""
        factors = self._all("gradient")
        for name, weight in trained.items() if factors else ():
            if weight.grad is not None:
                for factor in [hook(name, weight.grad) for hook in factors]:
                    weight.grad.mul_(factor)

    def loss(self, passes: Passes, supervised: Callable[[Passes], Tensor]) -> Tensor:
        """Terms plus the supervised loss. Terms go first: the passes they ask for take part in the supervised mean."""
        terms = [term(passes) for term in self._all("term")]
        base = self._one("base")
        total = base(passes) if base is not None else supervised(passes)
        return torch.stack([total, *terms]).sum() if terms else total

    @property
    def view(self) -> Callable[[Weights, np.random.Generator], Weights] | None:
        """The one replacement of weights."""
        return self._one("weights")  # type: ignore[no-any-return]

    @property
    def noises(self) -> dict[str, Any]:
        """All embedding noises by their method's name, which keys their random streams."""
        return {name: h.noise for name, h in self.hooks if h.noise is not None}

    def after_step(self, trained: Weights) -> None:
        """Let each method update its own state."""
        for hook in self._all("after_step"):
            hook(trained)

    @property
    def final(self) -> Callable[[], Weights] | None:
        """The one choice of the weights that are evaluated and saved."""
        return self._one("final")  # type: ignore[no-any-return]

    def save(self) -> Weights:
        """Every method's state for a checkpoint, prefixed by its name."""
        return {f"{name}/{k}": v for name, h in self.hooks if h.save for k, v in h.save().items()}

    def restore(self, state: Weights) -> None:
        """Give every method its state back, if ``state`` holds any of it."""
        for name, h in self.hooks:
            mine = {k.removeprefix(f"{name}/"): v for k, v in state.items() if k.startswith(f"{name}/")}
            if h.restore and mine:
                h.restore(mine)

    def renew(self, name: str, trained: Weights, rows: Tensor) -> None:
        """Entries ``rows`` (a mask) of weight ``name`` were placed anew: copies of it in the methods' states become what it is there.

        A state holds a copy under the weight's name, or under a name that ends in "/" and it; a mask over the weight is no copy.
        """
        for _, h in self.hooks:
            state = {k: v.clone() for k, v in h.save().items()} if h.save and h.restore else {}
            named = [v for k, v in state.items() if k == name or k.endswith(f"/{name}")]
            copies = [v for v in named if v.shape == trained[name].shape and v.is_floating_point()]
            for copy in copies:
                copy[rows.to(copy.device)] = trained[name].detach()[rows].to(copy)
            if copies and h.restore:
                h.restore(state)


def start(
    stabilizers: Sequence[tuple[str, Stabilizer]], learner: Learner, trained: Weights, seed: int, prepared: Weights | None = None
) -> Folded:
    """Start every stabilizer that is not at its neutral setting, each with a seed of its own, and with what it has ``prepared``."""
    live = [(name, s) for name, s in stabilizers if not s.neutral]
    started = [(name, s.start(learner, trained, key_of(seed, "stabilizer", name))) for name, s in live]
    folded = Folded(started, layered=any(getattr(s, "reads_layers", False) for _, s in live))
    folded.restore(prepared or {})
    return folded
