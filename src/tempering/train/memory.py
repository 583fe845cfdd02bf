"""Out of memory: halve the micro-batch, do the step again, go on, and say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tempering.batching import free_memory
from tempering.contracts import Stabilizer, Weights
from tempering.errors import MemoryShort, RecipeError
from tempering.train.progress import Listener
from tempering.train.settings import Loop


def refuse_back_off(stabilizers: Sequence[tuple[str, Stabilizer]], feed: Any, split: int) -> None:
    """Refuse to cut micro-batches where a loss couples their rows, or where they are single rows already."""
    coupling = coupling_of(stabilizers)
    parts = [getattr(one, "framing", None) for one in (feed.feeds.values() if hasattr(feed, "feeds") else (feed,))]
    coupling += [type(part).__name__.removesuffix("Module").lower() for part in parts if getattr(part, "couples_rows", False)]
    size = feed.settings.per_device_train_batch_size
    if coupling:
        raise MemoryShort(
            f"out of memory at {size} rows, and {coupling[0]} couples the rows of a batch, so cutting it would change the loss;"
            " set a smaller per_device_train_batch_size"
        )
    if split >= size:
        raise MemoryShort("out of memory with a single row; shorten max_length or take a smaller model")


def coupling_of(stabilizers: Sequence[tuple[str, Stabilizer]]) -> list[str]:
    """Names of the live stabilizers whose loss compares the rows of a batch."""
    return [name for name, s in stabilizers if getattr(s, "couples_rows", False) and not s.neutral]


def refuse_shared(stabilizers: Sequence[tuple[str, Stabilizer]], world: int) -> None:
    """Refuse to share the rows of a batch between processes where a stabilizer compares them: each would see its own share alone."""
    if world > 1 and (coupling := coupling_of(stabilizers)):
        raise RecipeError(f"{coupling[0]} compares the rows of a batch, so that processes cannot share it; run it in one process")


def refuse_alone(settings: Loop, sharded: bool) -> None:
    """Refuse to do a step again where weights lie in shards: the other processes are in the middle of it, and wait for this one."""
    if sharded:
        raise MemoryShort(
            f"out of memory at {settings.per_device_train_batch_size} rows, and with weights in shards (--use_fsdp) a step cannot be done"
            " again in smaller parts; set a smaller per_device_train_batch_size with more gradient_accumulation_steps, or"
            " gradient_checkpointing=true"
        )


def backed_off(split: int, trained: Weights, listener: Listener) -> int:
    """Free what the failed step held and return the doubled number of parts."""
    for weight in trained.values():
        weight.grad = None
    free_memory()
    listener(
        {
            "event": "note",
            "text": f"out of memory: micro-batches cut into {split * 2} parts, accumulated over {split * 2} times as many steps",
        }
    )
    return split * 2
