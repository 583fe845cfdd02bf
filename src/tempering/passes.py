"""The forward passes of one training step, asked for and never made twice.

A method that needs another forward pass asks its `Passes` for it. Two methods that ask for the same pass share it. Every pass has
a random stream of its own, keyed by (seed, step, micro-batch, process, pass), so that what one method asks for never moves what
another one sees: that is what makes the order of stabilizers irrelevant. Nobody else calls the model while training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from tempering.contracts import Batch, Scores, Weights
from tempering.dropout import dropout_stream
from tempering.errors import ModelError
from tempering.streams import numpy_stream

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.learner import Learner

View = Callable[[Weights, np.random.Generator], Weights]
Noise = Callable[[Tensor, np.random.Generator], Tensor]
_LOOKED_INTO: ContextVar[bool] = ContextVar("looked_into", default=False)


@dataclass
class Passes:
    """The passes of one micro-batch. ``view`` replaces the weights of training passes; ``noises``, by method, are added to embeddings.

    ``layered`` passes with gradient also hold what each block put out (`Scores.layers`). ``made`` counts forward passes, so that a test
    can hold `explain` to what really happens.
    """

    learner: Learner
    batch: Batch
    trained: Weights
    key: tuple[Any, ...]
    view: View | None = None
    noises: Mapping[str, Noise] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")
    autocast: Callable[[], Any] = nullcontext
    native_dropout: bool = False
    layered: bool = False
    made: int = 0
    _students: dict[int, Scores] = field(default_factory=dict)
    _views: dict[int, Weights] = field(default_factory=dict)

    def student(self, i: int = 0) -> Scores:
        """The ``i``-th stochastic pass (training mode, its own dropout), with gradient."""
        if i not in self._students:
            with self._noisy(i):
                self._students[i] = self._forward(i)
        return self._students[i]

    def drawn(self) -> list[Scores]:
        """Every student pass anyone asked for (at least one): the supervised loss is averaged over these."""
        self.student(0)
        return [self._students[i] for i in sorted(self._students)]

    def supervised(self) -> Tensor:
        """The supervised loss, averaged over every student pass that any term asked for."""
        losses = [self.learner.framing.loss(scores, self.batch) for scores in self.drawn()]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def perturbed(self, noise: Callable[[Tensor], Tensor], layer: int = 0, i: int = 0) -> Scores:
        """``student(i)`` once more, with the same dropout and weights, ``noise`` applied to embeddings or a layer's input."""
        with altered(self.learner.backbone, noise, layer), self._noisy(i):
            return self._forward(i)

    def stream(self, *purpose: object) -> np.random.Generator:
        """A generator for a method's own draws in this micro-batch, keyed by what they are for: its name first."""
        return numpy_stream(*self.key, *purpose)

    def under(self, weights: Weights) -> Scores:
        """A pass under other ``weights``, in evaluation mode and without gradient: a teacher. Disturbs no random stream."""
        self.made += 1
        modes = [(m, m.training) for m in self.learner.modules()]
        self.learner.eval()
        try:
            with torch.no_grad(), self.autocast():
                scores: Scores = functional_call(self.learner, weights, (self.batch,))
        finally:
            for module, mode in modes:
                module.training = mode
        return scores

    def _forward(self, i: int) -> Scores:
        self.made += 1
        with dropout_stream(*self.key, i, device=self.device, native=self.native_dropout), self.autocast():
            if not self.layered:
                return self._scores(i)
            with watched(self.learner.backbone) as seen:
                return self._scores(i)._replace(layers=tuple(seen))

    def _scores(self, i: int) -> Scores:
        if self.view is None:
            return self.learner(self.batch)  # type: ignore[no-any-return]
        if i not in self._views:
            self._views[i] = self.view(self.trained, numpy_stream(*self.key, i, "weights"))
        return functional_call(self.learner, self._views[i], (self.batch,))  # type: ignore[no-any-return]

    def _noisy(self, i: int) -> Any:
        if not self.noises:
            return nullcontext()

        def add(x: Tensor) -> Tensor:
            extra = [noise(x, numpy_stream(*self.key, i, "noise", name)) for name, noise in self.noises.items()]
            return torch.stack([x, *extra]).sum(0)

        return altered(self.learner.backbone, add)


def looked_into() -> bool:
    """Whether something alters or watches the body's insides right now: a pass must then be one call of the body, with all its rows."""
    return _LOOKED_INTO.get()


@contextmanager
def _looking() -> Iterator[None]:
    before = _LOOKED_INTO.set(True)
    try:
        yield
    finally:
        _LOOKED_INTO.reset(before)


@contextmanager
def altered(backbone: Backbone, change: Callable[[Tensor], Tensor], layer: int = 0) -> Iterator[None]:
    """While open, ``change`` is applied to the token embeddings (layer 0) or to the input of block ``layer`` (1 .. L)."""
    if layer and layer > len(backbone.blocks):
        raise ModelError(f"layer {layer} of {backbone.source}: it has {len(backbone.blocks)} separate blocks; 0 means the embeddings")
    if layer == 0:
        handle = backbone.embeddings.register_forward_hook(lambda _m, _a, out: change(out))
    else:
        handle = backbone.blocks[layer - 1].register_forward_pre_hook(lambda _m, args: (change(args[0]), *args[1:]))
    try:
        with _looking():
            yield
    finally:
        handle.remove()


@contextmanager
def watched(backbone: Backbone) -> Iterator[list[Tensor]]:
    """While open, what every block puts out [rows, length, dim] joins the list, bottom first."""
    with ExitStack() as stack:
        seen: list[Tensor] = []
        for block in backbone.blocks:
            handle = block.register_forward_hook(lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out))
            stack.callback(handle.remove)
        stack.enter_context(_looking())
        yield seen
