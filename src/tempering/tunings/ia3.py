"""Infused adapter by inhibiting and amplifying inner activations, (IA)3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Weights
from tempering.tunings.attach import Added, Place, freeze, places, plug, refuse_packed, sizes, transposed, unplug, walk
from tempering.tunings.by_row import vectors_by_row
from tempering.tunings.peft_format import carriers


class Scale(Added):
    """One factor an activation, over the last ``size`` of ``width``: the rest (the query in a fused map) is left as it is."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.ones(size))
        self.spared = width - size

    def whole(self) -> Tensor:
        """Factors for the full width."""
        return torch.cat((self.vector.new_ones(self.spared), self.vector)) if self.spared else self.vector

    def forward(self, x: Tensor) -> Tensor:
        """The activations [..., width], scaled."""
        return x * self.whole()

    @classmethod
    def rowwise(cls, modules: Sequence[Scale], x: Tensor, owner: Tensor) -> Tensor:
        """Every row of x by the factors of its owner."""
        return x * vectors_by_row(torch.stack([m.whole() for m in modules]), owner, x.dim())


def _output(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook on keys and values: scales what the layer gives."""
    scaled: Tensor = layer.get_submodule("ia3")(output)
    return scaled


def _input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The hook before the second feed-forward map: scales what it reads, which is what the activation gave."""
    return (layer.get_submodule("ia3_in")(args[0]), *args[1:])


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class IA3:
    """Scales keys, values and the inner feed-forward activations of every block by trained vectors.

    *Paper*: Liu et al. 2022 (T-Few). *Formula*: l_k * (W_k x), l_v * (W_v x), W_2 (l_ff * act(W_1 x)), all vectors one at the start:
    exactly the backbone. L (2 d + f) numbers, L (4 d + f) in a decoder with cross-attention. *Needs*: a family in the table of
    architectures. *Costs*: one pass and a product a number; none once merged. *Differs*: nothing by default. ``before_activation``
    scales W_1 x instead, as the library `adapters` does: another function of the same size. Where a gate multiplies, W_2 (act(W_0 x) *
    W_1 x), that is the place of the authors' code (``wi_1`` of T0) and the paper's function again. PEFT's defaults for BERT scale the
    attention's output map too (64,512 numbers instead of 55,296); what is saved here names the feed-forward map alone.
    """

    before_activation: bool = False

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = True
    shards: ClassVar[bool] = True
    merge_order: ClassVar[int] = 1  # scales what the layer gives with other changes in it: those are folded first

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and add the vectors. Those that a stage before left there are trained on."""
        outputs, inputs = self._outputs(backbone), self._inputs(backbone)
        freeze(backbone)
        for _, layer, size in outputs:
            plug(layer, "ia3", partial(Scale, size, sizes(layer)[1]), _output, layer.get_parameter("weight"))
        for _, layer in inputs:
            weight = layer.get_parameter("weight")
            if getattr(layer, "ia3_in", None) is None:
                layer.add_module("ia3_in", Scale(*[sizes(layer)[0]] * 2).to(weight.device, weight.dtype))
                layer.register_forward_pre_hook(_input)
            layer.get_submodule("ia3_in").requires_grad_(True)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        """Rows of W_k and W_v with their biases, and columns of W_2, are scaled; then the vectors are taken off."""
        refuse_packed(backbone, "ia3")
        for _, layer in list(walk(backbone.model)):
            for name in [n for n, child in layer.named_children() if isinstance(child, Scale)]:
                factors, weight = layer.get_submodule(name).whole(), layer.get_parameter("weight")  # type: ignore[operator]
                rows = name == "ia3"
                weight.mul_(factors[:, None] if rows != transposed(layer) else factors)
                bias = getattr(layer, "bias", None)
                if rows and bias is not None:
                    bias.mul_(factors)
                unplug(layer, name, _output)
                for key in [k for k, hook in layer._forward_pre_hooks.items() if hook is _input]:
                    del layer._forward_pre_hooks[key]

    def count(self, backbone: Backbone) -> int:
        """The sizes of all keys, values and inner feed-forward activations."""
        return sum(size for _, _, size in self._outputs(backbone)) + sum(sizes(layer)[0] for _, layer in self._inputs(backbone))

    def _outputs(self, backbone: Backbone) -> list[tuple[str, nn.Module, int]]:
        """(path, layer, how many of its last outputs) of what is scaled after a map."""
        layout = backbone.layout
        share = 2 / 3 if layout.query == layout.key == layout.value else 1.0  # fused as query, key, value
        found = [(path, layer, round(sizes(layer)[1] * share)) for path, layer in places(backbone, "ia3", ["key", "value"])]
        if self.before_activation:  # of two branches in one map the linear one comes last
            inner = zip(places(backbone, "ia3", ["ffn_in"]), places(backbone, "ia3", ["ffn_out"]), strict=True)
            found += [(path, layer, sizes(after)[0]) for (path, layer), (_, after) in inner]
        return found

    def _inputs(self, backbone: Backbone) -> list[Place]:
        return [] if self.before_activation else places(backbone, "ia3", ["ffn_out"])

    def peft_config(self, backbone: Backbone, task_type: str, modules_to_save: Sequence[str]) -> dict[str, Any]:
        """``adapter_config.json`` with a pattern that means the feed-forward map alone."""
        outputs, inputs = [path for path, *_ in self._outputs(backbone)], [path for path, _ in self._inputs(backbone)]
        return {
            "peft_type": "IA3",
            "task_type": task_type,
            "base_model_name_or_path": None,
            "inference_mode": True,
            "target_modules": _pattern([*outputs, *inputs]),
            "feedforward_modules": _pattern(inputs),
            "modules_to_save": list(modules_to_save) or None,
            "fan_in_fan_out": all(transposed(layer) for _, layer in places(backbone, "ia3", ["key", "value"])),
            "init_ia3_weights": True,
        }

    def peft_names(self, backbone: Backbone, prefix: str) -> dict[str, str]:
        """Our names of the vectors -> PEFT's names on disk."""
        head = f"base_model.model.{prefix}." if prefix else "base_model.model."
        found = [(path, name) for name in ("ia3", "ia3_in") for path in carriers(backbone, name)]
        return {f"model.{path}.{name}.vector": f"{head}{path}.ia3_l" for path, name in found}

    def to_peft(self, backbone: Backbone, prefix: str) -> Weights:
        """PEFT's tensors: (out, 1) after a map, (1, in) before one, ones where a fused map is left as it is."""
        found: Weights = {}
        for mine, theirs in self.peft_names(backbone, prefix).items():
            factors = backbone.get_submodule(mine.removesuffix(".vector")).whole()  # type: ignore[operator]
            found[theirs] = factors[None] if mine.endswith("ia3_in.vector") else factors[:, None]
        return found

    def from_peft(self, stored: Weights, backbone: Backbone, prefix: str) -> Weights:
        """Our state again."""
        names, state = self.peft_names(backbone, prefix), backbone.state_dict()
        return {mine: stored[theirs].flatten()[-len(state[mine]) :] for mine, theirs in names.items()}


def _pattern(paths: Sequence[str]) -> str:
    """A regular expression for exactly ``paths``, under any prefix: numbers of blocks stand for each other."""
    shapes = sorted({re.sub(r"(?<=\.)\d+(?=\.)", "0", path) for path in paths})
    inner = "|".join(re.escape(shape).replace(r"\.0\.", r"\.\d+\.") for shape in shapes)
    return rf"(.*\.)?({inner})" if inner else r"(?!)"
