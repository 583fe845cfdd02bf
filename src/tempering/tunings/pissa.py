"""Low-rank adaptation that starts from the principal part of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Weights
from tempering.restoring import is_restoring
from tempering.tunings.attach import Added, Place, check_free, freeze, plug, refuse_packed, sizes, transposed, unplug, walk
from tempering.tunings.peft_format import carriers, low_rank_config, peft_names, tidy
from tempering.tunings.targets import Targets, targets_of


class Principal(Added):
    """s (B A - B0 A0) of one matrix: A (r, in) and B (out, r) trained from A0 and B0, the principal part, which stays as it is."""

    def __init__(self, weight: Tensor, r: int, alpha: float, niter: int | None) -> None:
        super().__init__()
        self.scaling = alpha / r
        a, b = principal(weight.detach(), r, self.scaling, niter)
        self.A, self.B = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self.register_buffer("A0", a)
        self.register_buffer("B0", b)
        self.setting = (r, alpha)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output. Two equal computations at the start: exactly zero."""
        linear = nn.functional.linear
        moved, fixed = linear(linear(x, self.A), self.B), linear(linear(x, self.get_buffer("A0")), self.get_buffer("B0"))
        return (moved - fixed) * self.scaling

    def product(self) -> Tensor:
        """s (B A - B0 A0), shaped (out, in)."""
        return self.scaling * (self.B @ self.A - self.get_buffer("B0") @ self.get_buffer("A0"))


def principal(weight: Tensor, r: int, scaling: float, niter: int | None) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) with s B A = the r largest singular triplets of ``weight`` (out, in), split evenly."""
    if weight.is_meta or is_restoring():
        return torch.zeros(r, weight.shape[1], device=weight.device), torch.zeros(weight.shape[0], r, device=weight.device)
    if niter is None:
        u, s, vh = torch.linalg.svd(weight.float(), full_matrices=False)
    else:
        u, s, v = torch.svd_lowrank(weight.float(), q=r, niter=niter)
        vh = v.T
    root = (s[:r] / scaling).sqrt()
    return (root[:, None] * vh[:r]).contiguous(), (u[:, :r] * root).contiguous()


def _add(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook: reads the low-rank weights from the layer, so that swapped weights are seen."""
    delta: Tensor = layer.get_submodule("pissa")(args[0])
    return output + delta


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PiSSA:
    """Trains the principal singular part of chosen matrices and leaves the rest of them as it is.

    ``target_modules`` as in `LoRA`. ``niter`` takes a randomized decomposition of that many rounds, much faster on large matrices.

    *Paper*: Meng et al. 2024. *Formula*: W = U S V; A = sqrt(S_r / s) V_r, B = U_r sqrt(S_r / s), y = (W - s B0 A0) x + s B A x with
    s = alpha / r, A (r, in) and B (out, r): r (in + out) numbers a map. *Needs*: as `LoRA`. *Costs*: a decomposition of every target
    at the start; one pass, four thin products a map; none once merged. *Differs*: W itself is not rewritten: the principal part it
    starts from is kept in buffers and taken off, so the start is exact, other methods see the pretrained W, and the saved folder (a
    LoRA of rank 2 r, for PEFT too) fits the base model as published.
    """

    r: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=8.0, gt=0, allow_inf_nan=False)
    target_modules: Targets = ("query", "value")
    niter: int | None = Field(default=None, ge=1)

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and add the principal part of every target. One that a stage before left there is trained on."""
        targets = self._targets(backbone)
        for target in targets:
            check_free(target, "pissa", (self.r, self.lora_alpha))
        freeze(backbone)
        for _, layer in targets:
            weight = layer.get_parameter("weight")
            make = partial(Principal, weight.T if transposed(layer) else weight, self.r, self.lora_alpha, self.niter)
            plug(layer, "pissa", make, _add, weight, first=True)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        """W += s (B A - B0 A0) in every layer that carries it; then take it off."""
        refuse_packed(backbone, "pissa")
        for _, layer in list(walk(backbone.model)):
            added = getattr(layer, "pissa", None)
            if isinstance(added, Principal):
                change = added.product()
                layer.get_parameter("weight").add_(change.T if transposed(layer) else change)
                unplug(layer, "pissa", _add)

    def count(self, backbone: Backbone) -> int:
        """Sum of r (in + out) over the targets."""
        return sum(self.r * sum(sizes(layer)) for _, layer in self._targets(backbone))

    def _targets(self, backbone: Backbone) -> list[Place]:
        return targets_of(backbone, "pissa", self.target_modules, self.r)

    def peft_config(self, backbone: Backbone, task_type: str, modules_to_save: Sequence[str]) -> dict[str, Any]:
        """``adapter_config.json`` of a plain LoRA of twice the rank and the same scale."""
        own = {"r": 2 * self.r, "lora_alpha": tidy(2 * self.lora_alpha), "lora_dropout": 0.0}
        return low_rank_config(self._targets(backbone), backbone, task_type, modules_to_save) | own

    def peft_names(self, backbone: Backbone, prefix: str) -> dict[str, str]:
        """Our names of the trained weights -> PEFT's names on disk, which hold the frozen part too (`to_peft`)."""
        return peft_names(backbone, prefix, "pissa")

    def to_peft(self, backbone: Backbone, prefix: str) -> Weights:
        """PEFT's tensors: [A; A0] and [B, -B0]."""
        state = backbone.state_dict()
        found = {theirs: (state[mine], state[f"{mine}0"]) for mine, theirs in self.peft_names(backbone, prefix).items()}
        return {k: torch.cat((new, old)) if k.endswith("lora_A.weight") else torch.cat((new, -old), 1) for k, (new, old) in found.items()}

    def from_peft(self, stored: Weights, backbone: Backbone, prefix: str) -> Weights:
        """Our state again."""
        found: Weights = {}
        for path in carriers(backbone, "pissa"):
            head = f"base_model.model.{prefix}.{path}" if prefix else f"base_model.model.{path}"
            a, b, here = stored[f"{head}.lora_A.weight"], stored[f"{head}.lora_B.weight"], f"model.{path}.pissa"
            found |= {f"{here}.A": a[: self.r], f"{here}.A0": a[self.r :], f"{here}.B": b[:, : self.r], f"{here}.B0": -b[:, self.r :]}
        return found
