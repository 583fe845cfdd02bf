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
    sharded: bool = False  # each process holds a part of every weight (`tempering.train.sharding`)

    @property
    def home(self) -> torch.device:
        """Where a whole learner lies: one that is spread over devices may be too large for any of them."""
        return torch.device("cpu") if self.sharded else self.device

    def total(self, *values: float) -> tuple[float, ...]:
        """The sum of each value over processes."""
        if self.world == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(shared)
        return tuple(shared.tolist())

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Add gradients over processes, once, in one flat exchange. Nothing is wrapped in DDP (DESIGN, leak 9).

        A weight that no process has a gradient for keeps none: the optimizer would move it by its momentum. Those of shards are exchanged
        in the backward pass.
        """
        if self.world == 1 or self.sharded:
            return
        weights = list(weights)
        there = torch.tensor([float(w.grad is not None) for w in weights], device=self.device)
        flat = torch.cat([*(torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights), there])
        torch.distributed.all_reduce(flat)
        *parts, there = flat.split([*(w.numel() for w in weights), len(weights)])
        for w, part, count in zip(weights, parts, there.tolist(), strict=True):
            w.grad = part.view_as(w) if count else None

    def backward(self, loss: Tensor) -> None:
        """Gradients of this process's share of the loss. Those of shards come out as means over processes, and sums are wanted."""
        (loss * self.world if self.sharded else loss).backward()

    def once(self, work: Callable[[], Result]) -> Result:
        """`on_first`. Where weights lie in shards every process works, as each pass needs all of them; the first's result counts."""
        if not self.sharded:
            return on_first(work)
        found = work()
        return on_first(lambda: found)


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


def _told(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1", "yes")


def launched() -> int:
    """How many processes a launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_launched(what: str) -> None:
    """Refuse several processes where each would do all of ``what`` by itself."""
    if launched() > 1:
        raise RecipeError(f"{what} in one process, found {launched()}; start it without a launcher")


def shards_asked() -> bool:
    """Whether ``accelerate launch --use_fsdp`` started several processes: then weights are to lie in shards."""
    return _told("ACCELERATE_USE_FSDP") and launched() > 1


def _refuse_sharding(served: bool) -> None:
    """A launcher that was told to split the model would be told nothing, and then run out of memory."""
    for variable, option in SHARDING.items():
        if _told(variable) and not (served and option == "--use_fsdp"):
            raise RecipeError(
                f"{option} of accelerate launch asks to spread the model over processes, and here each holds the whole of it and they share"
                f" the rows; launch without {option} (and unset {variable}), with lora or gradient_checkpointing=true where memory is short"
            )


def place(settings: Loop, sharded: bool = False) -> Place:
    """The place accelerate finds: bf16 by default on a GPU that has it, fp32 on a CPU. ``sharded``: weights are to lie in shards there.

    The precision is not accelerate's: it fixes one for the whole process, and stages, runs and trackers of one process may differ.
    """
    from accelerate import PartialState

    _refuse_sharding(served=sharded or not shards_asked())
    keep_large_blocks()
    on_gpu = torch.cuda.is_available()
    bf16 = settings.bf16 if settings.bf16 is not None else on_gpu and torch.cuda.is_bf16_supported()
    # Without being told so, accelerate leaves processes on CPUs to train each on its own. Its Accelerator shards on nothing but GPUs.
    found = PartialState(cpu=launched() > 1 and not torch.accelerator.is_available())
    # A cache of weights in bf16 would hold all those that shards are let go to save; without it the numbers are the same.
    autocast = partial(torch.autocast, found.device.type, dtype=torch.bfloat16, cache_enabled=not sharded) if bf16 else nullcontext
    return Place(found.device, autocast, found.process_index, found.num_processes, sharded)
