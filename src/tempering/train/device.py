"""Where training runs: device, precision, processes. All of it accelerate's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from tempering.errors import RecipeError, TemperingError
from tempering.train.settings import Loop

Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """Device, autocast context and process numbers of this run."""

    device: torch.device
    autocast: Callable[[], Any]
    rank: int
    world: int

    def total(self, *values: float) -> tuple[float, ...]:
        """The sum of each value over processes."""
        if self.world == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(shared)
        return tuple(shared.tolist())

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Add gradients over processes, once, in one flat exchange. Nothing is wrapped in DDP (DESIGN, leak 9).

        A weight that no process has a gradient for keeps none: the optimizer would move it by its momentum.
        """
        if self.world == 1:
            return
        weights = list(weights)
        there = torch.tensor([float(w.grad is not None) for w in weights], device=self.device)
        flat = torch.cat([*(torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights), there])
        torch.distributed.all_reduce(flat)
        *parts, there = flat.split([*(w.numel() for w in weights), len(weights)])
        for w, part, count in zip(weights, parts, there.tolist(), strict=True):
            w.grad = part.view_as(w) if count else None


def wait() -> None:
    """Until all processes are here."""
    if _several():
        torch.distributed.barrier()


def on_first(work: Callable[[], Result]) -> Result:
    """What ``work`` gives in the first process, in all of them; what it raises on purpose is raised in all of them too."""
    if not _several():
        return work()
    box: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            box[0] = work()
        except TemperingError as error:
            box[1] = error
    torch.distributed.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    result: Result = box[0]
    return result


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


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


SHARDING = {
    "ACCELERATE_USE_FSDP": "--use_fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
}


def _refuse_sharding() -> None:
    """Every process holds the whole model: a launcher that was told to split it would be told nothing, and then run out of memory."""
    for variable, option in SHARDING.items():
        if os.environ.get(variable, "").lower() in ("true", "1", "yes"):
            raise RecipeError(
                f"{option} of accelerate launch asks to spread the model over processes, and here each holds the whole of it and they share"
                f" the rows; launch without {option} (and unset {variable}), with lora or gradient_checkpointing=true where memory is short"
            )


def place(settings: Loop) -> Place:
    """The place accelerate finds: bf16 by default on a GPU that has it, fp32 on a CPU.

    The precision is not accelerate's: it fixes one for the whole process, and stages, runs and trackers of one process may differ.
    """
    from accelerate import Accelerator

    _refuse_sharding()
    keep_large_blocks()
    on_gpu = torch.cuda.is_available()
    bf16 = settings.bf16 if settings.bf16 is not None else on_gpu and torch.cuda.is_bf16_supported()
    # Without being told so, accelerate leaves processes on CPUs to train each on its own.
    found = Accelerator(cpu=int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available())
    autocast = partial(torch.autocast, found.device.type, dtype=torch.bfloat16) if bf16 else nullcontext
    return Place(found.device, autocast, found.process_index, found.num_processes)
