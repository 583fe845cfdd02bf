"""Several texts in one row as if each stood alone: attention inside each text only, and positions that start anew with each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Batch, Prompt

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Mask = Callable[["Backbone", Tensor], Any]
TOLERANCE = 1e-5  # of the largest hidden state


def _allowed(backbone: Backbone, segments: Tensor) -> Tensor:
    """Which positions each may look at, [rows, 1, length, length]: those of its own text, and of the past in a decoder.

    Padding is a text of its own: a row of the attention that may look at nothing has no softmax.
    """
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same.tril() if backbone.layout.kind == "decoder" else same


def _added(backbone: Backbone, segments: Tensor) -> Tensor:
    allowed = _allowed(backbone, segments)
    return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, torch.finfo(torch.float32).min)


def _by_layer(backbone: Backbone, segments: Tensor) -> dict[str, Tensor]:
    """For layers that look no further than a window, too."""
    allowed, window = _allowed(backbone, segments), int(backbone.config.sliding_window)
    places = torch.arange(segments.shape[1], device=segments.device)
    near = (places[:, None] - places).abs() <= window
    return {"full_attention": allowed, "sliding_attention": allowed & near}


def _by_layer_added(backbone: Backbone, segments: Tensor) -> dict[str, Tensor]:
    found = _by_layer(backbone, segments)
    return {
        kind: torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, torch.finfo(torch.float32).min)
        for kind, allowed in found.items()
    }


@dataclass(frozen=True)
class Packing:
    """How a backbone is told that a row holds several texts: the form of its mask, which families want in one of a few ways."""

    mask: Mask

    @classmethod
    def of(cls, backbone: Backbone, length: int) -> Packing | None:
        """The first form by which two texts in a row of ``length`` come out as each alone, tried on the spot; None if none does."""
        windowed = getattr(backbone.config, "layer_types", None) and getattr(backbone.config, "sliding_window", None)
        forms: list[Mask] = [_by_layer, _by_layer_added] if windowed else [_allowed, _added]
        table: Any = backbone.embeddings.weight
        if table.device.type == "meta":  # an outline: nothing can be tried, and nothing will be run
            return cls(forms[0])
        return next((cls(form) for form in forms if _gap(backbone, cls(form), length) <= TOLERANCE), None)

    def inputs(self, backbone: Backbone, batch: Batch) -> dict[str, Any]:
        """What the body is given for ``batch``, collated by `segmented`."""
        places = batch.extra["places"] + backbone.layout.position_offset
        return batch.inputs | {"position_ids": places, "attention_mask": self.mask(backbone, batch.extra["segments"])}

    def hidden(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Last hidden states [rows, length, dim]."""
        return backbone.encode(self.inputs(backbone, batch)).last


def unpacked(backbone: Backbone) -> str:
    """What is told where rows cannot be packed."""
    return (
        f"packed rows cannot serve {backbone.source} ({backbone.layout.family}) under this tuning: what it makes of a text depends on its"
        " neighbors in the row; every text has a row of its own instead, beside others of its length"
    )


def segmented(sizes: Sequence[Sequence[int]], length: int) -> dict[str, Tensor]:
    """``segments`` [rows, length], the number of the text each token belongs to (-1: padding), and its ``places`` in that text."""
    segments, places = np.full((len(sizes), length), -1, np.int64), np.zeros((len(sizes), length), np.int64)
    for row, found in enumerate(sizes):
        end = sum(found)
        segments[row, :end] = np.repeat(np.arange(len(found)), found)
        places[row, :end] = np.concatenate([np.arange(size) for size in found])
    return {"segments": torch.from_numpy(segments), "places": torch.from_numpy(places)}


def sizes_of(prompts: Sequence[Prompt]) -> list[Sequence[int]]:
    """The lengths of the texts in each packed row; a prompt that was not packed is one text."""
    return [p.extra or (len(p.input_ids),) for p in prompts]


@torch.no_grad()
def _gap(backbone: Backbone, packing: Packing, length: int) -> float:
    """By how much the states of two texts differ between a row of both, padded by one token, and each alone; infinite where it fails."""
    special = set(backbone.tokenizer.all_special_ids)
    known = [i for i in range(min(len(backbone.tokenizer), 4 * length + len(special))) if i not in special]
    short = max(1, length // 4)
    ids = torch.tensor([known[(7 * i) % len(known)] for i in range(length)])
    texts = [ids[:short], ids[short : max(short + 1, length - 1)]]
    batch = Batch({"input_ids": ids[None]}, extra=segmented([[len(t) for t in texts]], length))
    modes = [(m, m.training) for m in backbone.modules()]
    backbone.eval()
    try:
        alone = torch.cat([backbone.encode({"input_ids": text[None]}).last[0] for text in texts])
        found = packing.hidden(backbone, batch)[0, : len(alone)]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # the family knows no such mask, or a tuning adds to the row
        return float("inf")
    finally:
        for module, mode in modes:
            module.training = mode
    if found.shape != alone.shape:
        return float("inf")
    return float((found - alone).abs().max() / alone.abs().max().clamp(min=1.0))
