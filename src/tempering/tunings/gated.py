"""A gate on what another tuning adds: the model decides, text by text, how much of it to take."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Tuning
from tempering.errors import ModelError
from tempering.tunings.attach import Added, sizes, walk
from tempering.tunings.bottleneck import Bottleneck, Narrow
from tempering.tunings.deep_prefix import NAME as PREFIX
from tempering.tunings.deep_prefix import Prefix
from tempering.tunings.lora import LowRank

NAME = "gate"


class Gate(Added):
    """x [..., d] -> sigmoid(w x + b) [..., 1]. With w and b zero at the start every gate is half open."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.map = nn.Linear(d, 1)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor) -> Tensor:
        """How far the gate stands open, between 0 and 1."""
        return torch.sigmoid(self.map(x))


def _opened(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The hook of what adds a change to each token: the change times the gate at that token."""
    return output * module.get_submodule(NAME)(args[0]) if output.dim() else output


def _led(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The hook of an attention layer after its prefix was handed over: keys and values times the gate at the row's first token."""
    first = (args[0] if args else kwargs["hidden_states"])[:, 0]
    open_ = layer.get_submodule(PREFIX).get_submodule(NAME)(first)[:, :, None, None]  # [rows, 1, 1, 1]
    front = kwargs["prefix"]
    return args, {**kwargs, "prefix": front._replace(keys=open_ * front.keys, values=open_ * front.values)}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Gated:
    """Puts a trained gate on everything that another tuning adds, read from what the changed place reads. Several make UniPELT.

    *Paper*: Mao et al. 2022 (UniPELT). *Formula*: g = sigmoid(w x + b), w [d], zero at the start (g = 1/2). LoRA: y = W x + g(x) s B A x;
    an adapter: its change times g of what it reads; a prefix: keys and values times g of the layer's input at the first token. d + 1
    numbers a place. *Needs*: lora, pfeiffer or prefix_tuning inside. *Costs*: a product with one vector a place; it does not merge.
    *Differs*: the authors average a gate over the tokens of a text, which with padding would depend on the other rows of a batch; here
    changes of tokens have a gate each, and the prefix one a text.
    """

    tuning: Any

    merges: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    trains_pretrained: ClassVar[bool] = False
    trunk_eval: ClassVar[bool] = False

    @field_validator("tuning")
    @classmethod
    def _adds(cls, given: Any) -> Any:
        """What stands behind the gate must be a tuning that adds a change and does nothing else."""
        if isinstance(given, type) or not isinstance(given, Tuning):
            raise ValueError("expected a tuning behind the gate, such as LoRA()")
        if given.trains_pretrained or not getattr(given, "neutral", True) or hasattr(given, "prepare"):
            raise ValueError(
                "only a tuning that adds a change and trains nothing else can stand behind a gate: lora, pfeiffer, prefix_tuning"
            )
        return given

    @property
    def identity(self) -> Literal["exact", "near", "no"]:
        """As the tuning behind the gate."""
        found: Literal["exact", "near", "no"] = self.tuning.identity
        return found

    def attach(self, backbone: Backbone) -> None:
        """Attach the tuning, and hang a gate under everything that it added. Gates that a stage before left are trained on."""
        before = {id(m) for m in _added(backbone).values() if getattr(m, NAME, None) is None}
        self.tuning.attach(backbone)
        mine = {path: m for path, m in _added(backbone).items() if id(m) not in before and any(p.requires_grad for p in m.parameters())}
        wrong = [m for m in mine.values() if not isinstance(m, LowRank | Narrow | Prefix) or isinstance(m, Bottleneck)]
        if wrong or not mine:
            raise ModelError(
                f"gated cannot open and close what {type(self.tuning).__name__} adds to {backbone.source} ({backbone.layout.family}); use"
                " lora, pfeiffer (in a family that normalizes after the addition) or prefix_tuning behind the gate"
            )
        for path, module in mine.items():
            self._hang(backbone.model.get_submodule(path.rpartition(".")[0]), module, backbone)

    def _hang(self, layer: nn.Module, module: nn.Module, backbone: Backbone) -> None:
        like = next(module.parameters())
        if getattr(module, NAME, None) is None:
            module.add_module(NAME, Gate(self._width(layer, module, backbone)).to(like.device, like.dtype))
            if isinstance(module, Prefix):
                layer.register_forward_pre_hook(_led, with_kwargs=True)
            else:
                module.register_forward_hook(_opened)
        module.get_submodule(NAME).requires_grad_(True)

    def _width(self, layer: nn.Module, module: nn.Module, backbone: Backbone) -> int:
        """How wide what the gate reads is."""
        return sizes(layer)[0] if isinstance(module, LowRank) else backbone.hidden_size

    def merge(self, backbone: Backbone) -> None:
        """Refused: how far a gate stands open depends on the text."""
        raise ModelError("gated cannot be merged: how far a gate stands open depends on the text; keep it attached, or use lora")

    def eject(self, backbone: Backbone) -> None:
        """What the tuning behind the gate drops after training."""
        if hasattr(self.tuning, "eject"):
            self.tuning.eject(backbone)

    def count(self, backbone: Backbone) -> int:
        """The tuning's own, and d + 1 a place."""
        import copy

        trial = copy.deepcopy(backbone)
        self.attach(trial)
        gates = sum(p.numel() for m in trial.model.modules() if isinstance(m, Gate) for p in m.parameters())
        return int(self.tuning.count(backbone)) + gates


def _added(backbone: Backbone) -> dict[str, nn.Module]:
    """What tunings hung directly under layers of the body, by path; the parts of it are left out."""
    found: dict[str, nn.Module] = {}
    for path, module in walk(backbone.model):
        for name, child in module.named_children():
            if isinstance(child, Added) and not (name == PREFIX and not isinstance(child, Prefix)):
                found[f"{path}.{name}" if path else name] = child
    return found
