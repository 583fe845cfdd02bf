"""What a task changed in its body, lifted off so that it can act on that task's rows of a shared pass.

Every task keeps a body of its own, a tree of modules in which all tensors that the task did not change *are* the shared backbone's.
What differs at a place (an `Entry`) is hooks with the modules they read, or weights of the place's own, such as biases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tempering.backbone import Backbone
from tempering.mixing.rows import NotByRow
from tempering.tunings.attach import walk
from tempering.tunings.attention_route import ROUTES
from tempering.tunings.peft_layers import Borrowed
from tempering.tunings.sparse import Delta

Hook = tuple[Callable[..., Any], bool]  # a hook, and whether it wants keyword arguments


@dataclass(frozen=True)
class Entry:
    """What one task has at one place: its own ``layer`` there, the hooks on it, and the names of tensors that are not the backbone's."""

    layer: nn.Module
    before: tuple[Hook, ...]
    after: tuple[Hook, ...]
    own: tuple[str, ...]

    @property
    def kind(self) -> tuple[object, ...]:
        """What must agree for entries to be computed together."""
        return self.before, self.after, self.own


Entries = dict[str, Entry]


def lift(base: Backbone, mine: Backbone) -> Entries:
    """Let ``mine`` share every tensor that it did not change with ``base``, and return what differs, by path.

    A body that is built differently, or that has matrices of its own, is a `NotByRow`: it shares what it can, and runs by itself.
    """
    if mine.config._attn_implementation in ROUTES.values():  # prefixes: where there is none, attention is computed as before
        base.model.set_attn_implementation(mine.config._attn_implementation)
    shared, found, matrices, whole = dict(walk(base.model)), {}, [], []
    for path, layer in walk(mine.model):
        there = shared.pop(path, None)
        if there is None or type(there) is not type(layer):
            raise NotByRow(f"{path or 'the body'} is another module than the backbone's")
        own = _share(there, layer)
        matrices += [f"{path}.{name}" for name in own if layer.get_parameter(name).dim() > 1]
        whole += _for_all_rows(path, layer)
        entry = Entry(layer, _hooks(layer, "_forward_pre_hooks"), _hooks(layer, "_forward_hooks"), own)
        if entry.kind != ((), (), ()):
            found[path] = entry
    if shared:
        raise NotByRow(f"{next(iter(shared))} of the backbone is not there")
    if matrices:
        raise NotByRow(f"{matrices[0]} is a matrix of its own")
    if whole:
        raise NotByRow(whole[0])
    return found


def _for_all_rows(path: str, layer: nn.Module) -> list[str]:
    """Why the layer at ``path`` runs under a ``forward`` of its tuning, which knows no rows; empty where it does not."""
    changed = [name for child in layer.children() if isinstance(child, Delta) for name in child.names]
    borrowed = path and any(isinstance(child, Borrowed) for child in layer.children())
    found = [f"it changes {path}.{changed[0]} itself, which the rows of all tasks share"] if changed else []
    return found + ([f"a layer of PEFT computes {path} for all rows of a batch alike"] if borrowed else [])


def _share(there: nn.Module, layer: nn.Module) -> tuple[str, ...]:
    """Put the tensors of ``there`` in the place of equal ones that are not trained; the names of the others."""
    own = []
    for name, weight in layer.named_parameters(recurse=False):
        other = there._parameters.get(name)
        if other is None or weight.requires_grad or weight.shape != other.shape or not torch.equal(weight, other):
            own.append(name)
        else:
            layer._parameters[name] = other
    for name, buffer in layer.named_buffers(recurse=False):
        same = there._buffers.get(name)
        if same is None or buffer.shape != same.shape or not torch.equal(buffer, same):
            raise NotByRow(f"buffer {name} is not the backbone's")
        layer._buffers[name] = same
    return tuple(own)


def _hooks(layer: nn.Module, kind: str) -> tuple[Hook, ...]:
    """The hooks that tunings put there; those by which transformers collects hidden states act on the shared body already."""
    named: Any = getattr(layer, f"{kind}_with_kwargs")
    own = ((key, hook) for key, hook in getattr(layer, kind).items() if not str(hook.__module__).startswith("transformers."))
    return tuple((hook, key in named) for key, hook in own)
