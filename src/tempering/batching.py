"""Which rows go through the model together: rows of like length, in random order, so that next to no padding is computed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tempering.errors import MemoryShort

Rows = NDArray[np.int64]
Result = TypeVar("Result")
SPARE, SPARE_ON_DEVICE = 256, 4096  # tokens of padding that cost about as much as another evaluation pass


def length_batches(lengths: Sequence[int], size: int, rng: np.random.Generator | None = None) -> list[Rows]:
    """Batches of ``size`` row numbers of like length.

    With ``rng``, rows of equal length are shuffled before they are cut into batches and the batches come in random order, so
    that each epoch mixes anew; without, the order is fixed (evaluation). The last batch may be smaller.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    order = order[np.argsort(np.asarray(lengths)[order], kind="stable")]
    cuts = [order[i : i + size] for i in range(0, len(order), size)]
    return cuts if rng is None else [cuts[i] for i in rng.permutation(len(cuts))]


def spare_on(device: torch.device) -> int:
    """The ``spare`` of `close_batches` on ``device``."""
    return SPARE if device.type == "cpu" else SPARE_ON_DEVICE


def close_batches(lengths: Sequence[int], size: int, spare: int) -> list[Rows]:
    """Batches of at most ``size`` row numbers in the order of their lengths, cut as well where more than ``spare`` tokens would be padding.

    ``spare`` is what one more pass costs, in tokens: a small split has rows of all lengths, and in one batch most of it would be padding.
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    cuts, begin, waste, last = list[Rows](), 0, 0, 0
    for i, length in enumerate(np.asarray(lengths)[order].tolist()):
        waste += (i - begin) * (length - last)
        last = length
        if i - begin == size or waste > spare:
            cuts.append(order[begin:i])
            begin, waste = i, 0
    return [*cuts, order[begin:]] if len(order) else cuts


def keyed_batches(keys: Sequence[Hashable], lengths: Sequence[int], size: int, spare: int) -> list[Rows]:
    """`close_batches` of the rows of every key by itself, key after key; the key with the longest row comes last."""
    rows: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        rows.setdefault(key, []).append(i)
    alike = sorted(rows.values(), key=lambda mine: max(lengths[i] for i in mine))
    return [np.array(mine)[cut] for mine in alike for cut in close_batches([lengths[i] for i in mine], size, spare)]


def random_batches(count: int, size: int, rng: np.random.Generator) -> list[Rows]:
    """Batches of ``size`` row numbers in plain random order."""
    order = rng.permutation(count)
    return [order[i : i + size] for i in range(0, count, size)]


def even_batches(count: int, size: int, rng: np.random.Generator) -> list[Rows]:
    """As few batches of at most ``size`` rows as there can be, in random order, none more than a row larger than another."""
    return np.array_split(rng.permutation(count), -(-count // size)) if count else []


def out_of_memory(error: RuntimeError) -> bool:
    """Whether ``error`` says that memory ran out, on a GPU or on the CPU."""
    text = str(error).lower()
    known = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in text for words in known)


def free_memory() -> None:
    """Give back what a failed step held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halving(size: int, work: Callable[[int], Result], least: int = 1) -> tuple[Result, int]:
    """``work(size)`` and ``size``; where memory runs out, all of it again with half the size, until it fits, or is smaller than ``least``.

    Again and not onwards, so that the outcome depends on the size that fits alone: batches of another size round otherwise.
    """
    while True:
        try:
            return work(size), size
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if size == 1:
            raise MemoryShort("out of memory with a single row; shorten max_length or take a smaller model")
        if size // 2 < least:
            raise MemoryShort(
                f"out of memory in batches of {size} rows, which cannot be cut here; set a smaller per_device_eval_batch_size"
            )
        free_memory()
        size //= 2
