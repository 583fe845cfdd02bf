"""Several tunings of one backbone."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, Literal

from pydantic import ConfigDict, field_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import attach_all, body_weights
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full

CLOSENESS = ("exact", "near", "no")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Together:
    """Trains what any of several tunings trains, all on one backbone. In a recipe it is a list: ``tuning: [lora, prefix_tuning]``.

    *Paper*: combinations such as MAM (He et al. 2022) and UniPELT (Mao et al. 2022). *Formula*: that of every part; each part acts on
    the same frozen body, so their order changes nothing. *Needs*: parts of different kinds, each able to serve the model.
    *Costs*: the sum of the parts. *Differs*: parts have no rates of their own beyond what each brings along.
    """

    tunings: tuple[Any, ...]

    @field_validator("tunings")
    @classmethod
    def _several(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """At least two parts, and none twice."""
        kinds = [_name(part) for part in given]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if len(given) < 2:
            raise ValueError("a list of tunings needs at least two; write one alone without the list")
        if twice:
            raise ValueError(f"{twice[0]} stands in the list twice; give it once, with a larger size")
        if any(getattr(part, "alone", False) for part in given):
            raise ValueError("truncate drops blocks and holds the tuning of those that are left; write the others inside it, as its tuning")
        if any(isinstance(part, Full | Frozen) for part in given):
            raise ValueError("full trains everything and frozen nothing, so neither combines with another tuning; leave it out")
        return given

    @property
    def trunk_eval(self) -> bool:
        """Only where every part asks for it."""
        return all(part.trunk_eval for part in self.tunings)

    @property
    def trains_pretrained(self) -> bool:
        """Where any part does."""
        return any(part.trains_pretrained for part in self.tunings)

    @property
    def trains_matrices(self) -> bool:
        """Where any part trains pretrained matrices."""
        return any(getattr(part, "trains_matrices", part.trains_pretrained) for part in self.tunings)

    @property
    def trains_backbone(self) -> bool:
        """Where any part does."""
        return any(part.trains_backbone for part in self.tunings)

    @property
    def identity(self) -> Literal["exact", "near", "no"]:
        """That of the part which starts furthest off."""
        return max((part.identity for part in self.tunings), key=CLOSENESS.index)

    @property
    def merges(self) -> bool:
        """Only where every part does: half a merge would be neither."""
        return all(part.merges for part in self.tunings)

    def attach(self, backbone: Backbone) -> None:
        """Attach every part; trained is what any of them trains."""
        attach_all(self.tunings, backbone)

    def merge(self, backbone: Backbone) -> None:
        """Merge every part."""
        fixed = [_name(part) for part in self.tunings if not part.merges]
        if fixed:
            raise ModelError(f"{' and '.join(fixed)} cannot be merged into the weights, so nothing is; save without --merge")
        for part in sorted(self.tunings, key=lambda p: getattr(p, "merge_order", 0)):  # what replaces W first, what scales it last
            part.merge(backbone)

    def count(self, backbone: Backbone) -> int:
        """The parts' counts, a pretrained weight that several of them train counted once."""
        return int(sum(part.count(backbone) for part in self.tunings)) - self._shared(backbone)

    def _shared(self, backbone: Backbone) -> int:
        """The size of the body's own weights that are counted more than once."""
        claiming = [part for part in self.tunings if part.trains_pretrained]
        if len(claiming) < 2:
            return 0
        sizes, claims = {name: w.numel() for name, w in body_weights(backbone).items()}, Counter[str]()
        for part in claiming:
            trial = copy.deepcopy(backbone)
            part.attach(trial)
            claims.update(name for name, w in body_weights(trial).items() if w.requires_grad)
        return sum((times - 1) * sizes[name] for name, times in claims.items())


def _name(tuning: object) -> str:
    inner = getattr(tuning, "tuning", None)
    return type(tuning).__name__ + (f" {type(inner).__name__}" if inner is not None else "")
