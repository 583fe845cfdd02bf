"""Rows of one task cut out of what a layer reads or says, and joined again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils.generic import ModelOutput

from tempering.backbone import Encoded
from tempering.errors import ModelError
from tempering.tunings.attention_route import Front
from tempering.tunings.attention_route import joined as fronts_joined

Kwargs = dict[str, Any]

SHARED_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


class Span(NamedTuple):
    """Rows ``start`` to ``stop`` of a mixed batch belong to task number ``task`` (-1: to none, they see the backbone alone)."""

    task: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class NotByRow(ModelError):
    """A layer reads or says something that is not led by the rows of the batch."""


def cut(value: Any, start: int, stop: int, rows: int) -> Any:
    """Rows ``start`` to ``stop`` of every tensor in ``value``, which is led by ``rows`` rows or by one that stands for all of them."""
    if isinstance(value, Tensor):
        if value.dim() == 0 or value.shape[0] == 1 < rows:
            return value
        if value.shape[0] != rows:
            raise NotByRow(f"expected a tensor led by {rows} rows or by 1, found shape {tuple(value.shape)}")
        return value[start:stop]
    if type(value) in (tuple, list):
        return type(value)(cut(item, start, stop, rows) for item in value)
    if isinstance(value, ModelOutput):
        return type(value)(**{key: cut(item, start, stop, rows) for key, item in value.items()})
    return {key: cut(item, start, stop, rows) for key, item in value.items()} if type(value) is dict else value


def joined(pieces: Sequence[Any], counts: Sequence[int]) -> Any:
    """The pieces of several spans as one, where piece i has ``counts[i]`` rows. Shorter sequences are filled up with zeros."""
    first: Any = next((piece for piece in pieces if piece is not None), None)
    made: Any = type(first)
    if isinstance(first, Front):
        return fronts_joined(pieces, counts)
    if isinstance(first, Tensor):
        return first if first.dim() == 0 or all(piece is first for piece in pieces) else _stacked(pieces, counts)
    if made in (tuple, list):
        return made(joined(items, counts) for items in zip(*pieces, strict=True))
    if not isinstance(first, dict):
        return first
    keys = dict.fromkeys(key for piece in pieces for key in piece)
    found = {key: joined([piece.get(key) for piece in pieces], counts) for key in keys}
    return made(**found) if isinstance(first, ModelOutput) else found


def _stacked(pieces: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Tensors led by ``counts`` rows, or by one that stands for all, as one."""
    if any(piece is None for piece in pieces):
        raise NotByRow("a layer reads or says something for the rows of some tasks only")
    longest = max(piece.shape[1] for piece in pieces) if pieces[0].dim() > 1 else 0
    spread = [p if len(p) == n else p.expand(n, *p.shape[1:]) for p, n in zip(pieces, counts, strict=True)]
    return torch.cat([_longer(p, longest) if p.dim() > 1 else p for p in spread])


def as_embeddings(pieces: Sequence[Kwargs], look_up: Callable[[Tensor], Tensor]) -> list[Kwargs]:
    """The body's keyword arguments where some tasks read embeddings (a prompt before those of the text): then all rows do."""
    if not any("inputs_embeds" in piece for piece in pieces):
        return list(pieces)
    found = []
    for piece in pieces:
        rest = {key: x for key, x in piece.items() if key != "input_ids"}
        mine = rest if "input_ids" not in piece else rest | {"inputs_embeds": look_up(piece["input_ids"])}
        ones = torch.ones(mine["inputs_embeds"].shape[:2], dtype=torch.int64, device=mine["inputs_embeds"].device)
        found.append({"attention_mask": ones} | mine)
    longest = max(int(piece["attention_mask"].sum(1).max()) for piece in found)  # no more: a body has no positions for padding alone
    return [{key: x[:, :longest] if isinstance(x, Tensor) and x.dim() > 1 else x for key, x in piece.items()} for piece in found]


def join_inputs(parts: Sequence[Mapping[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """The inputs of several tasks as those of one batch, padded on the right to the longest text of all."""
    length = max(part["input_ids"].shape[1] for part in parts)
    uneven = any(part["input_ids"].shape[1] < length for part in parts)
    found = {"input_ids": torch.cat([_longer(part["input_ids"], length, pad_id) for part in parts])}
    if uneven or any("attention_mask" in part for part in parts):
        masks = (part.get("attention_mask", torch.ones_like(part["input_ids"])) for part in parts)
        found["attention_mask"] = torch.cat([_longer(mask, length) for mask in masks])
    if any("token_type_ids" in part for part in parts):
        types = (part.get("token_type_ids", torch.zeros_like(part["input_ids"])) for part in parts)
        found["token_type_ids"] = torch.cat([_longer(kind, length) for kind in types])
    return found


def _longer(x: Tensor, length: int, value: int = 0) -> Tensor:
    """x [rows, shorter, ...] -> [rows, length, ...]."""
    return F.pad(x, (0, 0) * (x.dim() - 2) + (0, length - x.shape[1]), value=value) if x.shape[1] < length else x


def part_of(encoded: Encoded, span: Span, length: int) -> Encoded:
    """What the body said of one span, as it would stand in a batch of texts of ``length`` tokens."""

    def mine(states: Tensor) -> Tensor:
        return states[span.start : span.stop, :length]

    layers = None if encoded.layers is None else tuple(mine(states) for states in encoded.layers)
    return Encoded(mine(encoded.last), layers, None if encoded.pooled is None else encoded.pooled[span.start : span.stop])
