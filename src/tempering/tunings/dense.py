"""The dense run that some sparse methods look at to choose their entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, final

from tempering.backbone import Backbone
from tempering.contracts import Hooks, Weights
from tempering.tunings.attach import freeze
from tempering.tunings.sparse import maskable

if TYPE_CHECKING:
    from tempering.learner import Learner


@final
class Dense:
    """Trains all maskable weights on a copy of the learner, with hooks that ``watch`` makes of them. Stands in no recipe."""

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True
    neutral: ClassVar[bool] = False
    touches: ClassVar[tuple[str, ...]] = ("gradient", "rate", "term")

    def __init__(self, layer_norm: bool, watch: Callable[[Weights], Hooks]) -> None:
        self.layer_norm = layer_norm
        self.watch = watch

    def attach(self, backbone: Backbone) -> None:
        """Train what may be masked, and nothing else of the backbone."""
        freeze(backbone)
        for weight in maskable(backbone, self.layer_norm).values():
            weight.requires_grad_(True)

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold: the change is in the weights."""

    def count(self, backbone: Backbone) -> int:
        """All maskable numbers."""
        return sum(weight.numel() for weight in maskable(backbone, self.layer_norm).values())

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """The hooks of the method that looks."""
        return self.watch({n: w for n, w in trained.items() if n.startswith("backbone.")})
