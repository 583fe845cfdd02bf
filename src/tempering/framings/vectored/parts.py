"""Texts that are drawn together, whatever their lengths, and are read apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tempering.batching import Rows, close_batches, spare_on
from tempering.contracts import Batch
from tempering.passes import looked_into


def in_parts(read: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """``read`` of ``batch``, which gives a vector for each row, in parts of like length: next to no padding is computed.

    A row's vector does not hang on the others, but for rounding and for what dropout draws. All rows stay together where something looks
    into the pass, which must see them at once, and among several processes, which must call the body equally often.
    """
    mask = batch.inputs.get("attention_mask")
    if mask is None or looked_into() or (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return read(batch)
    lengths: list[int] = mask.sum(1).tolist()
    cuts = close_batches(lengths, len(lengths), spare_on(mask.device))
    if len(cuts) == 1:
        return read(batch)
    vectors = torch.cat([read(_part(batch, cut, [lengths[i] for i in cut])) for cut in cuts])
    return vectors[torch.from_numpy(np.argsort(np.concatenate(cuts))).to(vectors.device)]


def _part(batch: Batch, rows: Rows, lengths: list[int]) -> Batch:
    """These rows, up to the longest of them; without a mask where none is padded, as they would be collated alone."""
    longest, where = max(lengths), torch.from_numpy(rows).to(batch.inputs["attention_mask"].device)
    padded = min(lengths) < longest
    return Batch({name: x[where, :longest] for name, x in batch.inputs.items() if padded or name != "attention_mask"})
