"""Parallel adapters: a bottleneck beside the feed-forward sub-layer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.tunings.adapter_drop import Droppable, Memory
from tempering.tunings.attach import Place, check_free, freeze, plug
from tempering.tunings.bottleneck import ACTIVATIONS, Activation, AdapterTuning, replaces, width

INPUT = "parallel_input"


class Beside(Droppable):
    """h [..., d] -> h + s (U act(D x + b_D) + b_U), where x is what the sub-layer read. ``s`` is a number or, learned, a weight."""

    def __init__(self, d: int, m: int, s: float | Literal["learned"], activation: str, memory: Memory) -> None:
        super().__init__()
        self.down = nn.Linear(d, m)
        self.up = nn.Linear(m, d)
        self.activation = ACTIVATIONS[activation]
        self.s = nn.Parameter(torch.ones(1)) if s == "learned" else s
        self.source = (memory,)  # in a tuple: the memory hangs elsewhere, and only there
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, h: Tensor) -> Tensor:
        """The sub-layer's result with the adapter's added."""
        x = self.source[0].take()
        return h if self.sits_out() else h + self.s * self.up(self.activation(self.down(x)))


def _remember(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of the sub-layer's first map: keeps what it read."""
    memory: Any = layer.get_submodule(INPUT)
    memory.held = args[0]
    return output


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Parallel(AdapterTuning):
    """Adds a bottleneck that reads what the feed-forward sub-layer reads and adds to its result, scaled, in every block.

    ``s`` is a fixed scale or ``"learned"``: one weight a block that starts at 1.

    *Paper*: He et al. 2022 (scaled parallel adapter; with prefixes it is MAM). *Formula*: FFN(x) + s (U act(D x + b_D) + b_U), D (m, d)
    Kaiming-uniform, U (d, m) and biases zero: exactly the backbone at the start. L(2md + m + d) numbers, and L with a learned s.
    *Needs*: a family in the table of architectures whose feed-forward sub-layer begins with one map. *Costs*: one pass, two thin
    products a block, also when used: it does not merge. *Differs*: nothing; ``m`` 16 and ``s`` 2 are the authors' for GLUE (512 and 4 for
    sequence to sequence). In families that normalize before a sub-layer, x is normalized.
    """

    m: int = Field(default=16, ge=1)
    s: float | Literal["learned"] = Field(default=2.0)
    activation: Activation = "relu"

    method: ClassVar[str] = "parallel"
    shards: ClassVar[bool] = True
    trains_pretrained: ClassVar[bool] = False
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, add the adapters and train them. Adapters that a stage before left are trained on."""
        found, setting = self.places(backbone), self.setting(backbone)
        for place in found:
            check_free(place, self.method, setting)
        freeze(backbone)
        like = backbone.embeddings.get_parameter("weight")
        for (_, reader), place in zip(self.above(backbone, "ffn_in"), found, strict=True):
            plug(reader, INPUT, Memory, _remember, like)
            memory: Any = reader.get_submodule(INPUT)
            memory.hook = _remember
            make = partial(self.make, backbone, memory)
            self.hang(backbone, place, self.method, make, replaces(self.method), first=True)

    def count(self, backbone: Backbone) -> int:
        """L(2md + m + d), and L with a learned s."""
        d, m = backbone.hidden_size, width(self.method, backbone, self.m)
        return len(self.places(backbone)) * (2 * m * d + m + d + (self.s == "learned"))

    def places(self, backbone: Backbone) -> list[Place]:
        """The feed-forward sub-layer's result in every block that is not dropped."""
        self.above(backbone, "ffn_in")  # refuses where the sub-layer does not begin with one map
        return self.above(backbone, "ffn_output")

    def make(self, backbone: Backbone, memory: Memory | None = None) -> Beside:
        """A new adapter."""
        return Beside(backbone.hidden_size, width(self.method, backbone, self.m), self.s, self.activation, memory or Memory())

    def setting(self, backbone: Backbone) -> tuple[object, ...]:
        """Width, scale and activation."""
        return width(self.method, backbone, self.m), self.s, self.activation
