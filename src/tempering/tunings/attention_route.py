"""Keys and values in front of a layer's own: how a prefix reaches attention in every family that lets its attention be replaced.

A forward pre-hook on an attention layer adds ``prefix=Front(...)`` to the layer's keyword arguments; transformers hands those on to
the attention function, and ours puts the front before the layer's keys and values and widens the mask. So real tokens keep their
own positions, no cache object is needed, gradient checkpointing recomputes the prefix with its layer, and every row may have a front
of its own: `joined` makes one `Front` of several of different length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Place, places

ROUTES = {base: f"tempering_over_{base}" for base in ("sdpa", "eager")}  # the name tells what to go back to, also in a copy of the model


class Front(NamedTuple):
    """Keys and values [rows or 1, key heads, p, head_dim] before those of the text, and which of them a row sees: ``mask`` [rows, p]
    of booleans (None: all).
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    prefix: Front | None = None,
    record: list[tuple[Tensor, Tensor]] | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **options: Any,  # whatever else this release of transformers hands to attention functions
) -> tuple[Tensor, Any]:
    """transformers' attention over ``prefix`` and the layer's own keys; ``record`` collects what the layer gave."""
    if record is not None:
        record.append((key, value))
    if prefix is not None:
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        attention_mask = widened(attention_mask, prefix, query.shape[2], key.shape[2], causal)
        key, value = (torch.cat([_rows(f, own), own], 2) for f, own in ((prefix.keys, key), (prefix.values, value)))
        if position_bias is not None:
            position_bias = nn.functional.pad(position_bias, (prefix.keys.shape[2], 0))  # a prefix stands at no distance
    found: tuple[Tensor, Any] = sdpa_attention_forward(
        module, query, key, value, attention_mask, is_causal=is_causal, position_bias=position_bias, **options
    )
    return found


def widened(mask: Tensor | None, front: Front, queries: int, keys: int, causal: bool) -> Tensor | None:
    """The mask [rows or 1, heads or 1, queries, p + keys] over front and text; None where everyone sees everything."""
    causal = causal and queries > 1
    if mask is None and not causal and front.mask is None:
        return None
    device, p = front.keys.device, front.keys.shape[2]
    if mask is None:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=device)
        mask = (mask.tril(keys - queries) if causal else mask)[None, None]  # the last query sees the last key
    seen = torch.ones(1, p, dtype=torch.bool, device=device) if front.mask is None else front.mask
    seen = seen[:, None, None, :]
    if mask.dtype != torch.bool:
        seen = torch.zeros(seen.shape, dtype=mask.dtype, device=device).masked_fill(~seen, torch.finfo(mask.dtype).min)
    rows = max(len(mask), len(seen))
    return torch.cat([seen.expand(rows, *mask.shape[1:3], p), mask.expand(rows, *mask.shape[1:])], -1)


def joined(fronts: Sequence[Front | None], counts: Sequence[int]) -> Front:
    """One front for the rows of a batch: ``counts[i]`` rows see ``fronts[i]`` (None: nothing). Short ones are filled up out of sight."""
    like = next(front for front in fronts if front is not None)
    longest = max(front.keys.shape[2] for front in fronts if front is not None)
    blank = Front(like.keys[:1, :, :0], like.values[:1, :, :0])
    parts = [_filled(front or blank, rows, longest) for front, rows in zip(fronts, counts, strict=True)]
    keys, values, masks = zip(*parts, strict=True)
    return Front(torch.cat(keys), torch.cat(values), torch.cat(masks))


def _filled(front: Front, rows: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    p = front.keys.shape[2]
    mask = torch.ones(rows, p, dtype=torch.bool, device=front.keys.device) if front.mask is None else front.mask
    pad = nn.functional.pad
    keys, values = (pad(x.expand(rows, -1, -1, -1), (0, 0, 0, longest - p)) for x in (front.keys, front.values))
    return keys, values, pad(mask, (0, longest - p))


def _rows(front: Tensor, own: Tensor) -> Tensor:
    front = front if front.dtype == own.dtype else front.to(own.dtype)
    return front if len(front) == len(own) else front.expand(len(own), -1, -1, -1)


def attention_layers(backbone: Backbone, method: str) -> list[Place]:
    """(path in the body, attention layer) of every block, bottom first: the modules that call the attention function."""
    paths = [path.rpartition(".")[0] for path, _ in places(backbone, method, ["query"])]
    return [(path, backbone.model.get_submodule(path)) for path in paths]


def route(backbone: Backbone, method: str) -> None:
    """Let the body's attention read fronts. Where there is none it is computed as before."""
    now = backbone.config._attn_implementation
    if now in ROUTES.values():
        return
    if now in ROUTES:
        backbone.model.set_attn_implementation(ROUTES[now])
    if backbone.config._attn_implementation not in ROUTES.values():
        raise ModelError(
            f"{method} cannot serve {backbone.source} ({backbone.layout.family}): its attention ({now}) cannot be replaced from outside;"
            " load it with attn_implementation sdpa, or use prompt_tuning or lora"
        )


def unroute(backbone: Backbone) -> None:
    """Give the body back the attention it had before `route`."""
    base = {name: base for base, name in ROUTES.items()}.get(backbone.config._attn_implementation)
    if base is not None:
        backbone.model.set_attn_implementation(base)


@contextmanager
def recording(layers: Sequence[Place]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """While open, collects the keys and values [rows, key heads, length, head_dim] of every call, in the order of the forward pass."""
    seen: list[tuple[Tensor, Tensor]] = []
    with ExitStack() as stack:
        for _, layer in layers:
            handle = layer.register_forward_pre_hook(lambda _m, args, kwargs: (args, {**kwargs, "record": seen}), with_kwargs=True)
            stack.callback(handle.remove)
        yield seen


for _name in ROUTES.values():
    AttentionInterface.register(_name, attend)
    AttentionMaskInterface.register(_name, sdpa_mask)
