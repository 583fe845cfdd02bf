"""Training whole rows or columns of matrices, chosen by their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Hooks, Probe, Weights
from tempering.errors import ModelError
from tempering.tunings.attach import Place, check_free, freeze, linear_maps, refuse_packed, sizes, transposed, walk
from tempering.tunings.sparse import Delta, hang, take_off, top

if TYPE_CHECKING:
    from tempering.learner import Learner


class Lines(Delta):
    """Trained changes ``values`` [r, length] of r lines of a matrix; ``lines`` [r] are their numbers along ``dim``."""

    names = ("weight",)

    def __init__(self, shape: torch.Size, r: int, dim: int, setting: tuple[object, ...]) -> None:
        super().__init__()
        self.dim = dim
        self.setting = setting
        self.values = nn.Parameter(torch.zeros(r, shape[1 - dim]))
        self.lines: Tensor
        self.register_buffer("lines", torch.arange(r))

    def changed(self, name: str, weight: Tensor) -> Tensor:
        """W with the changes added to its chosen lines."""
        values = self.values.to(weight.dtype)
        return weight.index_add(self.dim, self.lines, values if self.dim == 0 else values.T)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class GRFT:
    """Trains the ``r`` rows (or columns) of every linear map inside the blocks that the loss depends on most, held near their start.

    *Paper*: after Liu et al. 2025 (GRFT). *Formula*: W = W0 + delta on the r rows i of W (out, in) with the largest
    S_i = sum over batches and j of (d loss / d W_ij)^2, at the pretrained weights with a new head; loss + decay / 2 ||W - W0||^2.
    r in numbers a map for rows, r out for columns. *Needs*: a family in the table of architectures, r of at most the lines there are.
    *Costs*: ``rows`` rows forward and backward before training; then one pass with a copy of the matrices, Adam's memory for the
    lines; none once merged. *Differs*: a reconstruction from the paper's summary: r a matrix, 1,024 rows in batches of 16 and the
    size of ``decay`` are choices made here. Biases stay frozen.
    """

    r: int = Field(default=8, ge=1)
    axis: Literal["rows", "columns"] = "rows"
    decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    rows: int = Field(default=1024, ge=1)
    batch_size: int = Field(default=16, ge=1)

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False  # their change is trained; they stay
    changes_matrices: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True
    touches: ClassVar[tuple[str, ...]] = ("term",)

    @property
    def neutral(self) -> bool:
        """Without a decay nothing is done while training."""
        return self.decay == 0.0

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and train the changes of r lines of every map, which start at zero."""
        found, setting = self._maps(backbone), (self.r, self.axis)
        for place in found:
            check_free(place, "grft", setting)
        freeze(backbone)
        for _, layer in found:
            weight = layer.get_parameter("weight")
            if getattr(layer, "grft", None) is None:
                hang(layer, "grft", Lines(weight.shape, self.r, self._dim(layer), setting).to(weight.device, weight.dtype))
            layer.get_submodule("grft").requires_grad_(True)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        """Add the changes to the weights and take them off."""
        refuse_packed(backbone, "grft")
        for _, layer in list(walk(backbone.model)):
            lines = getattr(layer, "grft", None)
            if isinstance(lines, Lines):
                weight = layer.get_parameter("weight")
                weight.copy_(lines.changed("weight", weight))
                take_off(layer, "grft")

    def count(self, backbone: Backbone) -> int:
        """Sum over the maps of r in (rows) or r out (columns)."""
        return sum(self.r * sizes(layer)[self.axis == "columns"] for _, layer in self._maps(backbone))

    def prepare(self, learner: Learner, probe: Probe) -> None:
        """Measure S for every map and choose its lines; those that an earlier stage has trained stay."""
        maps = {path: layer for path, layer in self._maps(learner.backbone) if not bool(_lines(layer).values.any())}
        total: Weights = {}
        for found in probe.gradients(self.rows, self.batch_size) if maps else ():
            for path, layer in maps.items():
                squares = found[f"backbone.model.{path}.weight"].square().sum(1 - self._dim(layer))
                total[path] = total[path] + squares if path in total else squares
        for path, layer in maps.items():
            _lines(layer).lines.copy_(top(total[path], self.r))

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """The decay towards the pretrained weights."""
        held = [_lines(layer) for _, layer in self._maps(learner.backbone)]
        return Hooks(term=lambda passes: torch.stack([m.values.square().sum() for m in held]).sum() * (self.decay / 2))

    def _dim(self, layer: nn.Module) -> int:
        """The axis of the stored weight that counts the lines."""
        return int((self.axis == "columns") != transposed(layer))

    def _maps(self, backbone: Backbone) -> list[Place]:
        backbone.layout.require("grft", "blocks")
        found = [(path, layer) for path, layer in linear_maps(backbone).items() if backbone.inside(path)]
        path, least = min(((path, sizes(layer)[self.axis == "rows"]) for path, layer in found), key=lambda pair: pair[1])
        if self.r > least:
            raise ModelError(f"grft: r = {self.r} is more than the {least} {self.axis} of {path}; give r of at most {least}")
        return found


def _lines(layer: nn.Module) -> Lines:
    found: Lines = layer.grft  # type: ignore[assignment]
    return found
