"""PEFT's own layers, hung under the pretrained ones instead of replacing them.

PEFT wraps a layer: names of pretrained weights change, and what hung on the layer is lost from sight. Here the pretrained layer keeps
its place and its weights; PEFT's layer becomes an added module of it and reads those very weights.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from types import MethodType
from typing import Any

from torch import nn

from tempering.backbone import Backbone
from tempering.errors import ModelError, RecipeError
from tempering.tunings.attach import Added, walk

ADAPTER = "default"


class Borrowed(Added):
    """What PEFT made for one layer (``inner``), or keeps once for all of them; ``trains`` names its trained weights."""

    def __init__(self, setting: tuple[object, ...]) -> None:
        super().__init__()
        self.setting = setting
        self.trains: frozenset[str] = frozenset()

    def train_own(self) -> None:
        """Train what PEFT trains of it."""
        for name, weight in self.named_parameters():
            weight.requires_grad_(name in self.trains)

    def seal(self) -> Borrowed:
        """Remember what is trained now."""
        self.trains = frozenset(name for name, weight in self.named_parameters() if weight.requires_grad)
        return self


def _through(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The ``forward`` of a layer under which PEFT's hangs."""
    return layer.get_submodule("peft.inner")(*args, **kwargs)


def _bare(layer: nn.Module) -> nn.Module:
    """The pretrained layer without what hangs on it: the very same weights, also after copies, moves and swapped weights."""
    bare = copy.copy(layer)
    bare.__dict__ |= {"_modules": {}, "_forward_hooks": OrderedDict(), "_forward_pre_hooks": OrderedDict()}
    return bare


def inject(backbone: Backbone, config: Any, setting: tuple[object, ...]) -> None:
    """Let PEFT change the body by ``config``, then hang its layers under the pretrained ones."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    body: Any = backbone.model
    before = _places_in_memory(body)
    meta = next(body.parameters()).is_meta
    mode = body.training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on saving and on its own defaults
        tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](body, {ADAPTER: config}, ADAPTER, low_cpu_mem_usage=meta)
    shared = {name: child for name, child in tuner.named_children() if name != "model"}
    for name, child in shared.items():
        if not hasattr(body, "peft"):
            body.add_module("peft", Borrowed(setting))
        body.get_submodule("peft").add_module(name, child)
    if hasattr(body, "peft"):
        body.get_submodule("peft").seal()
    for path, layer in [(p, m) for p, m in walk(body) if isinstance(m, BaseTunerLayer)]:
        _rehang(body, path, layer, {id(c) for c in shared.values()}, setting)
    del body.peft_config
    body.train(mode)
    if not meta and _places_in_memory(body) != before:
        raise RecipeError(
            f"peft: this setting of {setting[0]} rewrites the pretrained weights at the start, so that the saved change would not fit the"
            " base model; choose another initialization, or tuning pissa"
        )


def _places_in_memory(body: nn.Module) -> dict[str, tuple[int, int]]:
    found = {f"{path}.{name}": weight for path, m in walk(body) for name, weight in m.named_parameters(recurse=False)}
    return {name: (weight.data_ptr(), weight._version) for name, weight in found.items()}


def _rehang(body: nn.Module, path: str, inner: Any, shared: set[int], setting: tuple[object, ...]) -> None:
    """Put the pretrained layer back to ``path`` with ``inner`` under it."""
    layer = inner.get_base_layer()
    del inner._modules["base_layer"]
    inner.__dict__["base_layer"] = _bare(layer)  # no child: it would be listed, moved and saved a second time
    for name in [n for n, child in inner._modules.items() if id(child) in shared]:
        inner.__dict__[name] = inner._modules.pop(name)
    parent, _, last = path.rpartition(".")
    body.get_submodule(parent)._modules[last] = layer
    borrowed = Borrowed(setting)
    borrowed.add_module("inner", inner)
    layer.add_module("peft", borrowed.seal())
    layer.forward = MethodType(_through, layer)


def carried(backbone: Backbone) -> list[tuple[str, nn.Module, Borrowed]]:
    """(path, module, what of PEFT hangs under it), the shared part of the body first."""
    found = ((path, module, getattr(module, "peft", None)) for path, module in walk(backbone.model))
    return [(path, module, hung) for path, module, hung in found if isinstance(hung, Borrowed)]


def fold(backbone: Backbone, method: str) -> None:
    """Let every layer of PEFT merge itself, and take all of it off."""
    for path, module, hung in carried(backbone):
        if path:
            inner: Any = hung.inner
            try:
                inner.merge()
            except (NotImplementedError, AttributeError, ValueError) as error:
                raise ModelError(f"peft: {method} cannot be merged: {error}; keep it attached") from None
            del module.__dict__["forward"]
        delattr(module, "peft")
