"""Out of memory: halve the micro-batch, do the step again, go on, and say so."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch

from tempering.contracts import Stabilizer, Weights
from tempering.errors import TemperingError
from tempering.train.progress import Listener


class MemoryShort(TemperingError):
    """A step needs more memory than there is and cannot be cut any smaller."""


def out_of_memory(error: RuntimeError) -> bool:
    """Whether ``error`` says that memory ran out, on a GPU or on the CPU."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


def refuse_back_off(stabilizers: Sequence[tuple[str, Stabilizer]], feed: Any, split: int) -> None:
    """Refuse to cut micro-batches where a loss couples their rows, or where they are single rows already."""
    coupling = [name for name, s in stabilizers if getattr(s, "couples_rows", False) and not s.neutral]
    size = feed.settings.per_device_train_batch_size
    if coupling:
        raise MemoryShort(
            f"out of memory at {size} rows, and {coupling[0]} couples the rows of a batch, so cutting it would change the loss;"
            " set a smaller per_device_train_batch_size"
        )
    if split >= size:
        raise MemoryShort("out of memory with a single row; shorten max_length or take a smaller model")


def backed_off(split: int, trained: Weights, listener: Listener) -> int:
    """Free what the failed step held and return the doubled number of parts."""
    for weight in trained.values():
        weight.grad = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    listener(
        {
            "event": "note",
            "text": f"out of memory: micro-batches cut into {split * 2} parts, accumulated over {split * 2} times as many steps",
        }
    )
    return split * 2
