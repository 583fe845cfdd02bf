"""A prefix inside a body: the modules that hold its keys and values, the hooks that hand them to attention, and its self-test."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Added, Place
from tempering.tunings.attention_route import Front, recording, route, unroute
from tempering.tunings.reach import check_arrives, made_up, same, states, still, unreached

NAME = "prefix"


class Shape(NamedTuple):
    """How often a forward pass runs a layer, its key heads, the prefix's length and the width of a head."""

    calls: int
    heads: int
    p: int
    head_dim: int

    @classmethod
    def of(cls, backbone: Backbone, p: int) -> Shape:
        """That of every attention layer of ``backbone``."""
        config = backbone.config
        heads, head_dim = (getattr(config, name, None) for name in ("num_key_value_heads", "head_dim"))
        head_dim = head_dim or getattr(config, "d_kv", None) or backbone.hidden_size // config.num_attention_heads
        calls = int(config.num_hidden_layers) if backbone.layout.shared_blocks else 1
        return cls(calls, int(heads or config.num_attention_heads), p, int(head_dim))

    @property
    def width(self) -> int:
        """Numbers a layer needs for each of the p positions: a key and a value at every call."""
        return self.calls * 2 * self.heads * self.head_dim


class Trunk(Added):
    """What the layers' maps read where a prefix is reparametrized: tanh(E W^T + b) [p, m], with E (p, d) and W (m, d)."""

    def __init__(self, p: int, d: int, m: int, std: float) -> None:
        super().__init__()
        self.E = nn.Parameter(std * torch.randn(p, d))
        self.down = nn.Linear(d, m)

    def forward(self) -> Tensor:
        """[p, m]."""
        return torch.tanh(self.down(self.E))


class Prefix(Added):
    """The prefix of one attention layer: ``weight`` [calls, 2, heads, p, head_dim], or a map ``up`` from a `Trunk` to as many numbers.

    ``call`` counts the calls of a layer that blocks share; ``hidden`` keeps the prefix out of sight.
    """

    def __init__(self, shape: Shape, std: float, drop: float, trunk: Trunk | None) -> None:
        super().__init__()
        self.shape = shape
        self.setting = (shape.p,)
        self.trunk: tuple[Trunk, ...] = () if trunk is None else (trunk,)  # a tuple: the trunk is the body's module, not this one's
        if trunk is None:
            self.weight = nn.Parameter(std * torch.randn(shape.calls, 2, shape.heads, shape.p, shape.head_dim))
        else:
            self.up = nn.Linear(trunk.down.out_features, shape.width)
        self.drop = nn.Dropout(drop)
        self.call, self.hidden = 0, False

    def forward(self) -> Tensor:
        """All calls' keys and values [calls, 2, heads, p, head_dim]."""
        if not self.trunk:
            return self.weight
        calls, heads, p, head_dim = self.shape
        flat: Tensor = self.up(self.trunk[0]())
        return flat.view(p, calls, 2, heads, head_dim).permute(1, 2, 3, 0, 4)

    def front(self, rows: int) -> Front:
        """This call's front for ``rows`` rows: one for all of them, unless dropout makes each row's its own."""
        whole = self()
        keys, values = whole[self.call % len(whole)].unsqueeze(1).unbind()
        self.call += 1
        if self.drop.p and self.training:
            keys, values = (self.drop(x.expand(rows, -1, -1, -1)) for x in (keys, values))
        unseen = torch.zeros(rows, self.shape.p, dtype=torch.bool, device=keys.device) if self.hidden else None
        return Front(keys, values, unseen)

    @torch.no_grad()
    def flatten(self) -> None:
        """Keep what the reparametrization gives now, and drop it."""
        if self.trunk:
            self.weight = nn.Parameter(self().contiguous().clone(), requires_grad=self.up.weight.requires_grad)
            self.trunk = ()
            del self.up


def _lead(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The hook of an attention layer: hands its prefix to the attention function. Read from the layer: swapped weights are seen."""
    rows = len(args[0] if args else kwargs["hidden_states"])
    prefix: Any = layer.get_submodule(NAME)
    return args, {**kwargs, "prefix": prefix.front(rows)}


def _begin(layer: nn.Module, _: Any) -> None:
    """The hook of a stack of shared blocks: a forward pass begins, their calls are counted anew."""
    for module in layer.modules():
        if isinstance(module, Prefix):
            module.call = 0


def hang(backbone: Backbone, layers: Sequence[Place], p: int, m: int | None, std: float, drop: float) -> None:
    """A new prefix under every layer, drawn on the CPU; with ``m`` made by maps of that width from one `Trunk` under the body."""
    like, body, trunk = backbone.embeddings.get_parameter("weight"), backbone.model, None
    if m is not None:
        trunk = Trunk(p, backbone.hidden_size, m, std).to(like.device, like.dtype)
        body.add_module(NAME, trunk)
    make = partial(Prefix, Shape.of(backbone, p), std, drop, trunk)
    for _, layer in layers:
        layer.add_module(NAME, make().to(like.device, like.dtype))
        layer.register_forward_pre_hook(_lead, with_kwargs=True)
    if backbone.layout.shared_blocks:
        body.register_forward_pre_hook(_begin)


def added(body: nn.Module) -> dict[str, Prefix | Trunk]:
    """What `hang` added, by its path in the body."""
    return {path: module for path, module in body.named_modules() if isinstance(module, Prefix | Trunk)}


@torch.no_grad()
def start_from(backbone: Backbone, layers: Sequence[Place], text: str) -> None:
    """Give the prefix the keys and values that the body computes for ``text``, repeated to its length."""
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    prefixes = [module for module in added(backbone.model).values() if isinstance(module, Prefix)]
    p = prefixes[0].shape.p
    rows = torch.tensor([(ids * p)[:p]], device=prefixes[0].weight.device)
    with recording(layers) as seen, still(backbone.model):
        for prefix in prefixes:
            prefix.hidden = True
        states(backbone, {"input_ids": rows, "attention_mask": torch.ones_like(rows)})
        for prefix in prefixes:
            prefix.hidden = False
    pairs = torch.stack([torch.cat(pair) for pair in seen])  # [layers * calls, 2, heads, p, head_dim]
    for prefix, mine in zip(prefixes, pairs.split(prefixes[0].shape.calls), strict=True):
        prefix.weight.copy_(mine)


def check(backbone: Backbone, inputs: dict[str, Tensor], before: Tensor) -> None:
    """Out of sight the prefix changes nothing; in sight it changes the output, and every weight of it gets a gradient."""
    there = added(backbone.model)
    prefixes = [module for module in there.values() if isinstance(module, Prefix)]
    for prefix in prefixes:
        prefix.hidden = True
    hidden = states(backbone, inputs)
    for prefix in prefixes:
        prefix.hidden = False
    if not same(before, hidden):
        raise unreached(backbone, "prefix_tuning", "out of sight it still changes the output")
    names = [f"{path}.{name}" for path, module in there.items() for name, _ in module.named_parameters()]
    check_arrives(backbone, "prefix_tuning", names, inputs, before)


def remove(backbone: Backbone) -> None:
    """Take the prefix off again, and give the body its own attention back."""
    for module in list(backbone.model.modules()):
        if isinstance(getattr(module, NAME, None), Added):
            delattr(module, NAME)
        for key in [k for k, hook in module._forward_pre_hooks.items() if hook in (_lead, _begin)]:
            del module._forward_pre_hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
    unroute(backbone)


def install(backbone: Backbone, layers: Sequence[Place], p: int, m: int | None, std: float, drop: float, text: str) -> None:
    """`hang` a prefix, let it start from ``text`` where there is one, and `check` it; a model that it does not reach is left as it was."""
    real = not backbone.embeddings.get_parameter("weight").is_meta
    inputs = made_up(backbone, 4) if real else {}
    before = states(backbone, inputs) if real else None
    route(backbone, "prefix_tuning")
    hang(backbone, layers, p, m, std, drop)
    if before is None:
        return
    try:
        check(backbone, inputs, before)
    except ModelError:
        remove(backbone)
        raise
    if text:
        start_from(backbone, layers, text)
