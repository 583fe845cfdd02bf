"""Diff pruning: a sparse change found by gates that are trained along."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Hooks, Probe, Weights
from tempering.tunings.attach import freeze, walk
from tempering.tunings.mask import Mask
from tempering.tunings.sparse import Delta, flat, hang, maskable

if TYPE_CHECKING:
    from tempering.learner import Learner

LOW, HIGH = -1.5, 1.5
GATES = "diff_pruning_gates"


def gate(a: Tensor, random: bool) -> Tensor:
    """Hard-concrete z in [0, 1] for log-odds ``a``: drawn, or at its middle when not ``random`` (Louizos et al. 2018)."""
    if random:
        u = torch.rand_like(a).clamp_(1e-4, 1 - 1e-4)
        a = a + u.log() - torch.log1p(-u)
    return (torch.sigmoid(a) * (HIGH - LOW) + LOW).clamp(0, 1)


def open_chance(a: Tensor) -> Tensor:
    """P(z > 0) = sigmoid(a - log(-low / high))."""
    return torch.sigmoid(a - math.log(-LOW / HIGH))


class Gates(Delta):
    """Of each weight W of a layer: its change w, log-odds a of each entry's gate, and of one gate g for the whole weight.

    The log-odds are vectors: weight decay leaves them alone.
    """

    def __init__(self, shared: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
        super().__init__()
        self.names = tuple(shared)
        for name, made in shared.items():
            for letter, weight in made.items():
                self.register_parameter(f"{name}_{letter}", weight)

    def changed(self, name: str, weight: Tensor) -> Tensor:
        """W + z_group z w."""
        z = gate(self.get_parameter(f"{name}_a"), self.training).view(weight.shape)
        group = self._parameters.get(f"{name}_g")
        z = z if group is None else z * gate(group, self.training)
        return weight + z * self.get_parameter(f"{name}_w")

    def expected(self) -> Tensor:
        """The expected number of entries that are changed: the L0 norm."""
        found = [open_chance(self.get_parameter(f"{n}_a")).sum() * self._group(n) for n in self.names]
        return torch.stack(found).sum()

    def _group(self, name: str) -> Tensor | float:
        group = self._parameters.get(f"{name}_g")
        return 1.0 if group is None else open_chance(group).squeeze()


@final
class Gated:
    """The first run of diff pruning, on a copy of the learner: all changes and all gates are trained. Stands in no recipe."""

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = False
    neutral: ClassVar[bool] = False
    touches: ClassVar[tuple[str, ...]] = ("rate", "term")

    def __init__(self, method: DiffPruning) -> None:
        self.method = method

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and hang changes (zero) and gates (log-odds ``gate_init``) under every layer."""
        freeze(backbone)
        made = {weight: self._parts(weight) for weight in maskable(backbone, self.method.layer_norm).values()}
        for _, layer in list(walk(backbone.model)):
            mine = {n: made[w] for n, w in layer.named_parameters(recurse=False) if w in made}
            if mine:
                hang(layer, GATES, Gates(mine))

    def _parts(self, weight: nn.Parameter) -> dict[str, nn.Parameter]:
        odds = {"a": weight.numel()} | ({"g": 1} if self.method.structured else {})
        gates = {k: nn.Parameter(torch.full((n,), self.method.gate_init, device=weight.device)) for k, n in odds.items()}
        return {"w": nn.Parameter(torch.zeros_like(weight)), **gates}

    def merge(self, backbone: Backbone) -> None:
        """Never asked for: the copy is thrown away."""

    def count(self, backbone: Backbone) -> int:
        """A change and a gate for each maskable number, and a gate for each weight."""
        weights = maskable(backbone, self.method.layer_norm).values()
        return sum(2 * w.numel() + self.method.structured for w in weights)

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Faster gates, and the penalty on the expected number of changed entries."""
        gates = [m for m in learner.modules() if isinstance(m, Gates)]
        odds = {n for n in trained if GATES in n and n.endswith(("_a", "_g"))}
        body = self.method.gated_rate
        return Hooks(
            rate=lambda name, progress: self.method.gate_rate if name in odds else body if GATES in name else 1.0,
            term=lambda passes: torch.stack([m.expected() for m in gates]).sum() * self.method.l0,
        )


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DiffPruning(Mask):
    """Trains a change of all weights under random gates that a penalty closes, keeps the largest share of it, and trains that on.

    ``epochs`` is the length of the gated run (None: that of the stage), ``l0`` the weight of the penalty, ``gate_init`` the gates'
    first log-odds, ``gate_rate`` how many times the stage's rate gates are trained at (the authors' rate 0.1 at a rate of 5e-5), and
    ``gated_rate`` how many times it the change of all weights is: below 1 where the few that are kept want a larger rate.
    ``structured`` gives each weight tensor a gate of its own on top.

    *Paper*: Guo et al. 2021. *Formula*: theta = theta0 + z w; z = clamp(s (r - l) + l, 0, 1), s = sigmoid(log u - log(1 - u) + a),
    u ~ U(0, 1), l = -1.5, r = 1.5, times the group's own z; loss + l0 sum_i P(z_i > 0) P(z_group > 0), P = sigmoid(a - log(-l / r)).
    Then the K = round(density x maskable) largest |z w| are kept, with their values, under a fixed mask for this stage's run.
    *Needs*: any family. *Costs*: before training a run with three times full fine-tuning's memory; then one pass with a copy of the
    weights, Adam's memory for K numbers; none once merged. *Differs*: the authors' code adds the groups' own penalty instead of the
    product of chances. The head of the gated run is thrown away, and trained anew with the fixed mask.
    """

    epochs: float | None = Field(default=3.0, gt=0)
    l0: float = Field(default=1.25e-7, ge=0, allow_inf_nan=False)
    gate_init: float = Field(default=5.0, allow_inf_nan=False)
    gate_rate: float = Field(default=2000.0, gt=0, allow_inf_nan=False)
    gated_rate: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    structured: bool = True

    method: ClassVar[str] = "diff_pruning"

    def prepare(self, learner: Learner, probe: Probe) -> None:
        """The gated run on a copy; its largest changes are where the fixed mask starts."""
        if self.settled(learner.backbone):
            return
        chosen = self.chosen(learner.backbone)
        found = probe.fine_tuned(Gated(self), self.epochs)
        diff = flat({f"backbone.model.{n}": _diff(found, n) for n in chosen}, chosen)
        self.bank(learner.backbone).choose(diff.abs(), start=diff)


def _diff(found: Weights, name: str) -> Tensor:
    """z w of the weight ``name`` with every gate at its middle."""
    path, _, leaf = name.rpartition(".")
    stem = f"backbone.model.{path}.{GATES}.{leaf}"
    change = found[f"{stem}_w"]
    z = gate(found[f"{stem}_a"], random=False).view(change.shape)
    return change * z * (gate(found[f"{stem}_g"], random=False) if f"{stem}_g" in found else 1.0)
