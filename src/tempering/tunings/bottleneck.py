"""What bottleneck adapters share: the module, the places it hangs under, and how it acts there.

An adapter acts at one of two kinds of place, and one place carries one adapter at most, as two would not commute:

* a sub-layer's result h, just before the residual addition: h becomes h + change(h);
* in families that normalize after the residual addition, the norm after the feed-forward sub-layer, which makes n = LN(s) of the sum
  s = x + h: the adapter reads n, its change joins the sum, and the same norm runs again: LN(s + change(n)).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.adapter_drop import Droppable, check_drop
from tempering.tunings.attach import Added, Hook, Place, check_free, freeze, norms, places, plug
from tempering.tunings.by_row import linear_by_row

M = TypeVar("M", bound=nn.Module)
Activation = Literal["gelu", "relu", "silu", "tanh"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "tanh": nn.functional.tanh,
}


class Adapter(Droppable):
    """Base of modules that read the output of the place they hang under."""


class Narrow(Adapter):
    """The change that a bottleneck makes: h [..., d] -> U act(D h + b_D) + b_U, with D (m, d) and U (d, m)."""

    def __init__(self, d: int, m: int, std: float, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(d, m)
        self.up = nn.Linear(m, d)
        self.activation = ACTIVATIONS[activation]
        for layer in (self.down, self.up):
            draw_near_zero(layer, std)

    def change(self, h: Tensor) -> Tensor:
        """U act(D h + b_D) + b_U."""
        change: Tensor = self.up(self.activation(self.down(h)))
        return change

    def forward(self, h: Tensor) -> Tensor:
        """What is added to the residual sum."""
        return h.new_zeros(()) if self.sits_out() else self.change(h)

    @classmethod
    def rowwise(cls, modules: Sequence[Narrow], x: Tensor, owner: Tensor) -> Tensor | None:
        """Every row's own change: maps gathered by row; every activation keeps the zeros of narrower ones (`Added`)."""
        if len({m.activation for m in modules}) > 1 or any(m.robust for m in modules):
            return None
        downs, ups = [m.down for m in modules], [m.up for m in modules]
        narrow = linear_by_row([m.weight for m in downs], x, owner, [m.bias for m in downs])
        return linear_by_row([m.weight for m in ups], modules[0].activation(narrow), owner, [m.bias for m in ups])


class Bottleneck(Narrow):
    """h [..., d] -> h + U act(D h + b_D) + b_U."""

    def forward(self, h: Tensor) -> Tensor:
        """The sub-layer's output, adapted."""
        return h if self.sits_out() else h + self.change(h)

    @classmethod
    def rowwise(cls, modules: Sequence[Narrow], x: Tensor, owner: Tensor) -> Tensor | None:
        """Every row's own adapter (`Added`)."""
        change = super().rowwise(modules, x, owner)
        return None if change is None else x + change


def draw_near_zero(layer: nn.Linear, std: float) -> None:
    """Weights normal with ``std``, cut at two of them; biases zero."""
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)


def as_buffers(module: M) -> M:
    """``module`` with buffers of zeros for weights: to be filled, never trained, held by checkpoints and saved folders."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, torch.zeros_like(weight))
    return module


@cache
def replaces(name: str) -> Hook:
    """The forward hook of a module ``name`` that makes a new output of the output; found by its place, so that swapped weights are seen."""

    def hook(sublayer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        adapted: Tensor = sublayer.get_submodule(name)(output)
        return adapted

    return hook


@cache
def adds(name: str) -> Hook:
    """The forward hook of a module ``name`` whose result is added to the output, before the residual addition."""

    def hook(sublayer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        change: Tensor = sublayer.get_submodule(name)(output)
        return output + change

    return hook


@cache
def norms_again(name: str) -> Hook:
    """The forward hook of a module ``name`` under a norm after the residual addition: LN(s + change(LN(s)))."""

    def hook(norm: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        change = norm.get_submodule(name)(output)
        return nn.functional.layer_norm(args[0] + change, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    return hook


def check_alone(place: Place, name: str) -> None:
    """Refuse where ``place`` carries an adapter of another method: each would read what the other made."""
    path, module = place
    others = [other for other, child in module.named_children() if isinstance(child, Adapter) and not other.startswith(name)]
    if others:
        raise ModelError(
            f"{name} and {others[0]} both put an adapter at {path}, and the result would depend on which came first; keep one of them,"
            " or add parallel or lora instead, which take any company"
        )


def width(method: str, backbone: Backbone, m: int | None, reduction: int = 1) -> int:
    """The bottleneck's width: ``m``, or the hidden size over ``reduction``. One wider than the hidden size is refused."""
    d = backbone.hidden_size
    found = d // reduction if m is None else m
    if not 1 <= found <= d:
        given = f"reduction = {reduction} makes it {found}" if m is None else f"m = {m}"
        raise ModelError(
            f"{method}: {given}, but a bottleneck in {backbone.source} has 1 to {d} units (its hidden size);"
            f" give m of at most {d}, such as {max(1, d // 16)}"
        )
    return found


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class AdapterTuning(ABC):
    """Base of tunings that add adapters to the blocks. ``method`` is the registered name and that of the added modules."""

    drop_layers: int = Field(default=0, ge=0, kw_only=True)
    robust: bool = Field(default=False, kw_only=True)

    method: ClassVar[str]
    trunk_eval: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    trains_matrices: ClassVar[bool] = False
    merges: ClassVar[bool] = False

    @abstractmethod
    def places(self, backbone: Backbone) -> list[Place]:
        """Where adapters go, bottom first; refusals are `ModelError`."""

    @abstractmethod
    def make(self, backbone: Backbone) -> Added:
        """A new adapter."""

    @abstractmethod
    def setting(self, backbone: Backbone) -> tuple[object, ...]:
        """What must agree for a later stage to train the same adapters on."""

    def hook(self, backbone: Backbone) -> Hook:
        """How the adapters act."""
        return replaces(self.method)

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, add the adapters and train them. Adapters that a stage before left are trained on."""
        found, setting = self.places(backbone), self.setting(backbone)
        for place in found:
            check_free(place, self.method, setting)
            check_alone(place, self.method)
        freeze(backbone)
        for place in found:
            self.hang(backbone, place, self.method, partial(self.make, backbone), self.hook(backbone))

    def hang(self, backbone: Backbone, place: Place, name: str, make: Callable[[], Added], hook: Hook, first: bool = False) -> None:
        """Plug ``make()`` in at ``place``, with what AdapterDrop wants to know of it."""
        path, module = place
        plug(module, name, make, hook, backbone.embeddings.get_parameter("weight"), first=first)
        added: Any = getattr(module, name)
        added.setting, added.hook = self.setting(backbone), hook
        added.robust = (backbone.depth(path) - 1, len(backbone.blocks)) if self.robust else None

    def merge(self, backbone: Backbone) -> None:
        """Refused: a non-linear map cannot be folded into a linear one."""
        raise ModelError(
            f"{self.method} cannot be merged: an adapter is a non-linear map of its own, which no pretrained weight can take in;"
            " keep it attached (then: keep), or use lora where one set of weights is wanted"
        )

    def above(self, backbone: Backbone, *names: str) -> list[Place]:
        """The layout's places ``names`` in all blocks but the dropped ones."""
        found = places(backbone, self.method, names)
        check_drop(self.method, backbone, self.drop_layers, self.robust)
        return [(path, module) for path, module in found if backbone.depth(path) > self.drop_layers]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FeedForwardTuning(AdapterTuning, ABC):
    """Base of tunings with one adapter a block, after the feed-forward sub-layer (see `norms_again`; where norms come first, `adds`)."""

    def places(self, backbone: Backbone) -> list[Place]:
        """The norm after the feed-forward sub-layer, or the sub-layer's result, in every block that is not dropped."""
        return self.above(backbone, "ffn_norm" if backbone.layout.ffn_norm else "ffn_output")

    def hook(self, backbone: Backbone) -> Hook:
        """How the adapters act."""
        return norms_again(self.method) if backbone.layout.ffn_norm else adds(self.method)


def trained_norms(backbone: Backbone, drop_layers: int) -> list[nn.Parameter]:
    """Weights of all norms; of those above the lowest ``drop_layers`` blocks where some are dropped."""
    kept = [norm for path, norm in norms(backbone).items() if not drop_layers or backbone.depth(path) > drop_layers]
    return [weight for norm in kept for weight in norm.parameters(recurse=False)]
