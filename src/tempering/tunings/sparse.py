"""What the sparse tunings share: few entries of the body's own weights are changed, and only they are trained and kept.

The pretrained weights stay frozen where they are, under their names. One `Bank` hangs under the body: the trained changes of K
entries, and where they belong, counted through all maskable weights in one order. A `Slice` under each layer says which weights of
that layer are meant, and the layer's ``forward`` runs under W + change: no further matrix product, one copy of W a pass. So K numbers
have a gradient and optimizer state, weight decay pulls towards the pretrained weights, and all other entries keep their bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Added, body_weights, check_free, freeze, norms, refuse_packed, walk

Changes = dict[str, tuple[Tensor, Tensor]]  # name in the body -> (positions in the flattened weight, what is added there)


class Delta(Added, ABC):
    """Base of an added module that changes weights of the layer it hangs under; ``names`` are those weights."""

    names: tuple[str, ...] = ()

    @abstractmethod
    def changed(self, name: str, weight: Tensor) -> Tensor:
        """The weight ``name`` as the layer shall use it, given what it is without this module."""


class Bank(Added):
    """The changes of K entries: trained ``values`` [1, K] (a matrix, so that weight decay applies) and sorted ``indices`` [K].

    ``sizes`` are those of the maskable weights in their order; an index counts through all of them. Before anything is chosen the
    indices are spread evenly.
    """

    def __init__(self, sizes: Sequence[int], count: int, setting: tuple[object, ...]) -> None:
        super().__init__()
        self.setting = setting
        self.bounds = [0, *accumulate(sizes)]
        spread = torch.arange(count) * self.bounds[-1] // count
        self.values = nn.Parameter(torch.zeros(1, count))
        self.indices: Tensor
        self.register_buffer("indices", spread.to(torch.int32 if self.bounds[-1] < 2**31 else torch.int64))
        self._parts: tuple[Tensor, ...] | None = None
        self._known: tuple[Any, ...] = (None, -1, (), ())

    def choose(self, scores: Tensor, start: Tensor | None = None) -> None:
        """Take the entries with the highest ``scores`` (one for each maskable number), of equal ones the first.

        Their changes start at zero, or where ``start`` (as long as ``scores``) puts them.
        """
        chosen = top(scores, self.indices.numel())
        with torch.no_grad():
            self.indices.copy_(chosen)
            self.values.copy_(torch.zeros_like(self.values) if start is None else start[chosen.to(start.device)][None])

    def open(self) -> None:
        """Cut the values for all layers at once: one node in the backward pass, not one of size K for every layer."""
        counts, _ = self._layout()
        self._parts = self.values[0].split(counts)

    def close(self) -> None:
        """Forget the cut values: the next pass may run under others."""
        self._parts = None

    def part(self, i: int) -> tuple[Tensor, Tensor]:
        """(positions, values) of the ``i``-th maskable weight. Outside of the body's own forward pass the values are cut anew."""
        counts, places = self._layout()
        values = self._parts[i] if self._parts is not None else self.values[0].split(counts)[i]
        return places[i], values

    def _layout(self) -> tuple[list[int], tuple[Tensor, ...]]:
        """Entries of each maskable weight and their positions in it; worked out again when the indices were written to."""
        if self._known[0] is not self.indices or self._known[1] != self.indices._version:
            wide = self.indices.long()
            edges = torch.searchsorted(wide, torch.tensor(self.bounds, device=wide.device)).tolist()
            counts = [b - a for a, b in pairwise(edges)]
            places = tuple(part - low for part, low in zip(wide.split(counts), self.bounds, strict=False))
            self._known = (self.indices, self.indices._version, counts, places)
        return self._known[2], self._known[3]


class Slice(Delta):
    """The weights of one layer among those of a bank: name -> its number there."""

    def __init__(self, bank: Bank, numbers: Mapping[str, int]) -> None:
        super().__init__()
        self.bank = (bank,)  # inside a tuple: as a submodule it would be saved once more under every layer
        self.numbers = dict(numbers)
        self.names = tuple(numbers)

    def changed(self, name: str, weight: Tensor) -> Tensor:
        """W with the bank's values added at the chosen positions."""
        where, values = self.bank[0].part(self.numbers[name])
        if not len(where):
            return weight
        return weight.reshape(-1).index_add(0, where, values.to(weight.dtype)).view(weight.shape)


def _forward(layer: nn.Module, *args: Any, **given: Any) -> Any:
    """The layer's own forward pass under changed weights. What it finds in their place (also swapped ones) is put back."""
    own = dict(layer._parameters)
    banks = [m for m in layer._modules.values() if isinstance(m, Bank)]
    try:
        for bank in banks:
            bank.open()
        for _, delta in sorted((n, m) for n, m in layer._modules.items() if isinstance(m, Delta)):
            for name in delta.names:
                layer._parameters[name] = delta.changed(name, layer._parameters[name])  # type: ignore[arg-type,assignment]
        return type(layer).forward(layer, *args, **given)
    finally:
        layer._parameters.update(own)
        for bank in banks:
            bank.close()


def hang(layer: nn.Module, name: str, module: Delta | Bank) -> None:
    """Put ``module`` under ``layer`` and let the layer run under it. A bound method, so that copies of the body are bound to themselves."""
    layer.add_module(name, module)
    vars(layer)["forward"] = MethodType(_forward, layer)


def take_off(layer: nn.Module, name: str) -> None:
    """Undo `hang`; the layer's own forward is back once nothing else changes it."""
    delattr(layer, name)
    if not any(isinstance(m, Delta | Bank) for m in layer._modules.values()):
        vars(layer).pop("forward", None)


def maskable(backbone: Backbone, layer_norm: bool) -> dict[str, nn.Parameter]:
    """The body's own weights of which entries may be chosen, in their order; without ``layer_norm`` those of norms are left out.

    Left out as well is what a family reads without calling the module that holds it.
    """
    left = set() if layer_norm else {f"{path}.{n}" for path, norm in norms(backbone).items() for n, _ in norm.named_parameters()}
    left |= set(backbone.layout.read_aside)
    return {n: w for n, w in body_weights(backbone).items() if n not in left and w.is_floating_point() and "." in n}


def entries(backbone: Backbone, method: str, density: float, chosen: Mapping[str, nn.Parameter]) -> int:
    """K = round(density x maskable numbers); a density that leaves nothing is a `ModelError`."""
    total = sum(w.numel() for w in chosen.values())
    if not round(density * total):
        raise ModelError(
            f"{method}: density {density:g} of the {total:,} maskable weights of {backbone.source} ({backbone.layout.family}) is less than"
            f" one entry; give a density of at least {1 / max(total, 1):.1e}"
        )
    return round(density * total)


def plug_bank(backbone: Backbone, method: str, chosen: Mapping[str, nn.Parameter], count: int, setting: tuple[object, ...]) -> bool:
    """Freeze the backbone and train a bank of ``count`` entries under the name ``method``; whether it is a new one.

    One that an earlier stage left there is trained on with the entries it has.
    """
    body = backbone.model
    check_free((backbone.source, body), method, setting)
    freeze(backbone)
    fresh = getattr(body, method, None) is None
    if fresh:
        like = backbone.embeddings.get_parameter("weight")
        bank = Bank([w.numel() for w in chosen.values()], count, setting).to(like.device, like.dtype)
        number = {weight: i for i, weight in enumerate(chosen.values())}
        for _, layer in list(walk(body)):
            mine = {n: number[w] for n, w in layer.named_parameters(recurse=False) if w in number}
            if mine:
                hang(layer, method, Slice(bank, mine))
        hang(body, method, bank)
    getattr(body, method).requires_grad_(True)
    return fresh


def changes(backbone: Backbone, method: str, chosen: Mapping[str, nn.Parameter]) -> Changes:
    """What the bank of ``method`` adds to the weights: the positions and values of each weight that has any."""
    bank = getattr(backbone.model, method)
    found = {name: bank.part(i) for i, name in enumerate(chosen)}
    return {name: (where, values.detach()) for name, (where, values) in found.items() if len(where)}


@torch.no_grad()
def add(backbone: Backbone, found: Changes) -> None:
    """Add changes to the body's own weights in place. Several may be added, one after the other: theta0 + delta + delta."""
    own = body_weights(backbone)
    for name, (where, values) in found.items():
        own[name].view(-1).index_add_(0, where, values.to(own[name].dtype))


def merge_bank(backbone: Backbone, method: str, chosen: Mapping[str, nn.Parameter]) -> None:
    """Add the bank's changes to the weights and take it off. No-op where there is none."""
    if not isinstance(getattr(backbone.model, method, None), Bank):
        return
    refuse_packed(backbone, method)
    add(backbone, changes(backbone, method, chosen))
    for _, layer in list(walk(backbone.model)):
        if isinstance(getattr(layer, method, None), Slice | Bank):
            take_off(layer, method)


def top(scores: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` highest scores, ascending: exactly k, and of equal scores at the edge the first ones."""
    if not bool(scores.isfinite().all()):
        raise ModelError("the scores that choose what is trained are not finite; lower learning_rate, or check the model's weights")
    least = scores.topk(k, sorted=False).values.min()
    above = (scores > least).nonzero().flatten()
    level = (scores == least).nonzero().flatten()[: k - len(above)]
    return torch.cat([above, level]).sort().values


def flat(weights: Mapping[str, Tensor], chosen: Mapping[str, nn.Parameter], prefix: str = "backbone.model.") -> Tensor:
    """The ``weights`` of the maskable names as one vector in their order; a name that is missing counts as zero."""
    return torch.cat(
        [weights[prefix + n].reshape(-1) if prefix + n in weights else torch.zeros_like(w).view(-1) for n, w in chosen.items()]
    )


def add_each(total: Tensor, found: Mapping[str, Tensor], chosen: Mapping[str, nn.Parameter]) -> None:
    """Add the tensors of ``found`` (names of the learner) to their parts of ``total``, which is laid out as `flat` does."""
    for name, part in zip(chosen, total.split([w.numel() for w in chosen.values()]), strict=True):
        if f"backbone.model.{name}" in found:
            part.add_(found[f"backbone.model.{name}"].reshape(-1))
