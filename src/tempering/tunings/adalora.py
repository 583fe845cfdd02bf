"""Low-rank adaptation whose rank moves to the matrices that need it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Hooks, Weights
from tempering.learner import Learner
from tempering.passes import Passes
from tempering.tunings.attach import Added, Place, check_free, freeze, plug, refuse_packed, sizes, transposed, unplug, walk
from tempering.tunings.budget import Schedule, Sensitivity, keep
from tempering.tunings.peft_format import carriers, low_rank_config, peft_names, tidy
from tempering.tunings.targets import Targets, targets_of

_EPSILON = 1e-5  # PEFT's own, kept so that its adapters score equal


class Triplets(Added):
    """B diag(E) A of one map, with A (r, in), B (out, r) normal and E (r, 1) zero; ``mask`` (r, 1) tells which values the budget kept."""

    def __init__(self, inputs: int, outputs: int, r: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.A = nn.Parameter(0.02 * torch.randn(r, inputs))
        self.B = nn.Parameter(0.02 * torch.randn(outputs, r))
        self.E = nn.Parameter(torch.zeros(r, 1))
        self.register_buffer("mask", torch.ones(r, 1))
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.scaling = alpha / (r + _EPSILON)
        self.setting = (r, alpha)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        narrow = nn.functional.linear(self.drop(x), self.A * self.E) * self.scaling
        return nn.functional.linear(narrow, self.B)

    def product(self) -> Tensor:
        """s B diag(E) A, shaped (out, in)."""
        return self.scaling * (self.B @ (self.A * self.E))


def _add(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook: reads the triplets from the layer, so that swapped weights are seen."""
    delta: Tensor = layer.get_submodule("adalora")(args[0])
    return output + delta


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AdaLoRA:
    """Adds low-rank matrices in the form of a singular value decomposition and cuts the least important values while training.

    ``target_modules`` as in `LoRA`. Each map starts with ``init_r`` values; over all maps ``target_r`` on average stay. ``tinit`` steps
    pass before the first cut and ``tfinal`` after the last (whole steps, or a share of the run below 1); in between the budget falls by
    a cube, every ``deltaT`` steps.

    *Paper*: Zhang et al. 2023. *Formula*: y = W x + (alpha / init_r) P diag(E) Q x, P (out, r), Q (r, in), E zero at the start, plus
    ``orth_reg_weight`` times the mean over all P and Q of ||P'P - I|| or ||QQ' - I||; a value's score is the sensitivity of E plus the
    means of those of its vectors, sensitivity = mean x spread over steps of |weight x gradient|. init_r (in + out + 1) numbers a map.
    *Needs*: as `LoRA`; more steps than ``tinit`` + ``tfinal``. *Costs*: one pass, two thin products a map, r x r products for the
    penalty, two copies of A, B and E for sensitivities; none once merged. *Differs*: the penalty's norms are not squared and alpha is
    divided by the first rank, both as in PEFT; values cut are set to zero and may come back before the last cut, as there.
    """

    target_r: int = Field(default=8, ge=1)
    init_r: int = Field(default=12, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Targets = ("query", "value")
    tinit: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    tfinal: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    deltaT: int = Field(default=1, ge=1)  # noqa: N815 (PEFT's name)
    beta1: float = Field(default=0.85, gt=0, lt=1)
    beta2: float = Field(default=0.85, gt=0, lt=1)
    orth_reg_weight: float = Field(default=0.5, ge=0, allow_inf_nan=False)

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True
    neutral: ClassVar[bool] = False
    touches: ClassVar[tuple[str, ...]] = ("term", "gradient", "after_step")

    @model_validator(mode="after")
    def _falls(self) -> AdaLoRA:
        """A budget only falls."""
        if self.target_r > self.init_r:
            raise ValueError(f"target_r {self.target_r} is more than init_r {self.init_r}; the rank only falls: raise init_r")
        return self

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and add the triplets to every target. What a stage before left there is trained on."""
        targets = self._targets(backbone)
        for target in targets:
            check_free(target, "adalora", (self.init_r, self.lora_alpha))
        freeze(backbone)
        for _, layer in targets:
            make = partial(Triplets, *sizes(layer), self.init_r, self.lora_alpha, self.lora_dropout)
            plug(layer, "adalora", make, _add, layer.get_parameter("weight"), first=True)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        """W += s P diag(E) Q in every layer that carries it; then take it off."""
        refuse_packed(backbone, "adalora")
        for _, layer in list(walk(backbone.model)):
            added = getattr(layer, "adalora", None)
            if isinstance(added, Triplets):
                change = added.product()
                layer.get_parameter("weight").add_(change.T if transposed(layer) else change)
                unplug(layer, "adalora", _add)

    def count(self, backbone: Backbone) -> int:
        """Sum of init_r (in + out + 1) over the targets."""
        return sum(self.init_r * (sum(sizes(layer)) + 1) for _, layer in self._targets(backbone))

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """The penalty, the sensitivities read from gradients, and the cuts after steps."""
        paths = [f"backbone.model.{path}.adalora" for path in carriers(learner.backbone, "adalora")]
        modules = {path: learner.get_submodule(path) for path in paths}
        first, last = self.init_r * len(paths), self.target_r * len(paths)
        schedule = Schedule.of(first, last, self.tinit, self.tfinal, self.deltaT, learner.steps)
        mine = {name: trained[name] for path in paths for name in (f"{path}.A", f"{path}.B", f"{path}.E")}
        seen = Sensitivity(mine, self.beta1, self.beta2)
        step = torch.zeros((), dtype=torch.int64)

        def gradient(name: str, found: Tensor) -> float:
            if name in mine:
                seen.gradients[name] = found  # read after the step, as clipped
            return 1.0

        @torch.no_grad()
        def after_step(weights: Weights) -> None:
            step.add_(1)
            seen.update(int(step) < schedule.steps - schedule.tfinal)
            budget = schedule.budget(int(step))
            if budget is not None:
                for path, mask in keep({path: seen.triplets(path) for path in paths}, budget).items():
                    modules[path].get_buffer("mask").copy_(mask)
            if budget is not None or int(step) > schedule.steps - schedule.tfinal:
                for path in paths:
                    weights[f"{path}.E"].mul_(modules[path].get_buffer("mask"))

        def restore(state: Weights) -> None:
            step.copy_(state["step"])
            seen.restore(state)

        term = self._penalty(paths, trained) if self.orth_reg_weight else None
        return Hooks(term=term, gradient=gradient, after_step=after_step, save=lambda: seen.state() | {"step": step}, restore=restore)

    def _penalty(self, paths: Sequence[str], trained: Weights) -> Any:
        def term(passes: Passes) -> Tensor:
            grams = [w @ w.T for path in paths for w in (trained[f"{path}.A"], trained[f"{path}.B"].T)]
            gaps = [torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)) for gram in grams]
            return self.orth_reg_weight * torch.stack(gaps).mean()

        return term

    def _targets(self, backbone: Backbone) -> list[Place]:
        return targets_of(backbone, "adalora", self.target_modules, self.init_r)

    def peft_config(self, backbone: Backbone, task_type: str, modules_to_save: Sequence[str]) -> dict[str, Any]:
        """``adapter_config.json``: PEFT's AdaLoRA at its first rank, the values that were cut being zero."""
        shared = low_rank_config(self._targets(backbone), backbone, task_type, modules_to_save)
        own = {"peft_type": "ADALORA", "init_r": self.init_r, "target_r": self.target_r, "lora_alpha": tidy(self.lora_alpha)}
        return {k: v for k, v in shared.items() if k not in ("use_dora", "use_rslora")} | own | {"total_step": 1, "lora_dropout": 0.0}

    def peft_names(self, backbone: Backbone, prefix: str) -> dict[str, str]:
        """Our names of the attached weights -> PEFT's names on disk."""
        return peft_names(backbone, prefix, "adalora", {"A": "lora_A", "B": "lora_B", "E": "lora_E"})
