"""Where training runs: device, precision, processes. All of it accelerate's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from tempering.train.settings import Loop


@dataclass(frozen=True)
class Place:
    """Device, autocast context and process numbers of this run."""

    device: torch.device
    autocast: Callable[[], Any]
    rank: int
    world: int

    def total(self, value: float) -> float:
        """The sum of ``value`` over processes."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], device=self.device)
        torch.distributed.all_reduce(shared)
        return float(shared)

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Add gradients over processes, once, in one flat exchange. Nothing is wrapped in DDP (DESIGN, leak 9)."""
        if self.world == 1:
            return
        weights = list(weights)
        flat = torch.cat([(w.grad if w.grad is not None else torch.zeros_like(w)).flatten() for w in weights])
        torch.distributed.all_reduce(flat)
        for w, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            w.grad = part.view_as(w)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with ``count`` threads (None: as it is). A head on cached features is far too small a sum to share between cores."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_large_blocks() -> None:
    """Let glibc keep freed blocks of up to 64 MiB instead of giving them back: the gradient of a small model's embedding table is that
    large, and mapping it anew in every step costs more than filling it. Elsewhere this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(-3, 1 << 26)  # M_MMAP_THRESHOLD
    mallopt(-1, 1 << 27)  # M_TRIM_THRESHOLD


def place(settings: Loop) -> Place:
    """The place accelerate finds: bf16 by default on a GPU that has it, fp32 on a CPU.

    The precision is not accelerate's: it fixes one for the whole process, and stages, runs and trackers of one process may differ.
    """
    from accelerate import Accelerator

    keep_large_blocks()
    on_gpu = torch.cuda.is_available()
    bf16 = settings.bf16 if settings.bf16 is not None else on_gpu and torch.cuda.is_bf16_supported()
    found = Accelerator()
    autocast = partial(torch.autocast, found.device.type, dtype=torch.bfloat16) if bf16 else nullcontext
    return Place(found.device, autocast, found.process_index, found.num_processes)
