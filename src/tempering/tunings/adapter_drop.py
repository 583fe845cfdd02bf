"""AdapterDrop: adapters missing from the lowest layers, from the start, by chance while training, or when used.

*Paper*: Rücklé et al. 2021. *Formula*: no adapter in blocks 1 .. n. Fixed (``drop_layers``): n is given and the adapters are not made;
nothing below block n + 1 is trained, so that the backward pass ends there. Robust (``robust``): n ~ U{0 .. L - 1} for every training
pass, and n = 0 when used, or what `without_lowest` is given. *Costs*: less than the adapters alone; none more.
*Differs*: a second student pass on the same rows draws an n of its own.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.streams import numpy_stream
from tempering.tunings.attach import Added, Hook, unplug, walk

if TYPE_CHECKING:
    from tempering.learner import Learner


class Droppable(Added):
    """Base of modules that AdapterDrop may leave out. ``hook`` acts for it; ``robust`` is (block, blocks) where n is drawn."""

    hook: Hook
    robust: tuple[int, int] | None = None

    def sits_out(self) -> bool:
        """Whether this training pass goes without the module."""
        if self.robust is None or not self.training:
            return False
        block, blocks = self.robust
        return block < lowest(blocks)

    def drop(self) -> bool:
        """Leave out for good; True where nothing of the module remains."""
        return True


class Memory(Droppable):
    """Holds what passed its place until another place of the same block takes it. It has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.held: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies hold nothing: what a recomputed block left behind belongs to its own pass."""
        return self.__dict__ | {"held": None}

    def take(self) -> Tensor:
        """What passed last; it is held no longer."""
        held, self.held = self.held, None
        assert held is not None  # both places lie on every path through a block
        return held


def lowest(blocks: int) -> int:
    """n ~ U{0 .. blocks - 1}, the same for every layer of one pass.

    Every pass seeds torch's generator with a key of its own (`tempering.passes`); n is a function of that seed, not a draw to be
    remembered: all layers, a layer computed again for its gradient, and a resumed run find the same n, and no other draw moves.
    """
    return int(numpy_stream(torch.initial_seed(), "adapter_drop").integers(blocks))


def check_drop(method: str, backbone: Backbone, n: int, robust: bool = False) -> None:
    """Refuse n lowest layers where there are no separate layers, or not so many."""
    layout, blocks = backbone.layout, len(backbone.blocks)
    if (n or robust) and layout.shared_blocks:
        raise ModelError(
            f"{method} cannot drop layers of {backbone.source}: the blocks of the {layout.family} family share one adapter, so there is no"
            " lowest one; take drop_layers=0 and robust=false"
        )
    if n >= blocks:
        raise ModelError(
            f"{method}: drop_layers = {n} leaves no adapter, as {backbone.source} has {blocks} blocks; give at most {blocks - 1}"
        )


def without_lowest(learner: Learner, n: int) -> None:
    """Take the adapters of the ``n`` lowest blocks off a trained learner, in place: faster use, and saved so."""
    tuning: Any = learner.tuning
    parts = getattr(tuning, "tunings", (tuning,))
    having = [part for part in parts if hasattr(part, "drop_layers")]
    if not having:
        raise ModelError(
            f"{type(tuning).__name__} has no adapters to drop; fit with houlsby, pfeiffer, parallel, compacter, fusion or madx"
        )
    for part in having:
        if n < part.drop_layers:
            raise ModelError(f"the adapters of the {part.drop_layers} lowest layers are gone already; give n of at least that, found {n}")
        check_drop(part.method, learner.backbone, n)
    for block in learner.backbone.blocks[:n]:
        for _, module in list(walk(block)):
            for name, added in list(module.named_children()):
                if isinstance(added, Droppable) and added.drop():
                    unplug(module, name, added.hook)
    dropped = tuple(dataclasses.replace(part, drop_layers=n) if part in having else part for part in parts)
    learner.tuning = dropped[0] if tuning in having else dataclasses.replace(tuning, tunings=dropped)
