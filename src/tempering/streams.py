"""Random streams: one for each purpose, keyed by what they are for, never the global generators.

`numpy_stream` gives a generator for draws of our own. `torch_stream` lends torch's global generators (which ``nn.Dropout`` and
weight initialization read) for the length of a ``with`` block and puts them back as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tempering.values import Seeds

if TYPE_CHECKING:
    import torch


def key_of(*parts: object) -> int:
    """A 63-bit seed from any printable parts: the same parts give the same seed on every machine."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seeds_before(seeds: Seeds, stage: int) -> Seeds:
    """The ``seeds`` of a recipe for its stage number ``stage``, which is not the last one: its new weights are draws of their own.

    Else a later stage would begin with the very head and tuning that the body was trained under, and call them new.
    """
    return replace(seeds, init=key_of(seeds.init, "stage", stage))


def numpy_stream(*parts: object) -> np.random.Generator:
    """A generator keyed by ``parts``."""
    return np.random.Generator(np.random.SFC64(key_of(*parts)))


@contextmanager
def torch_stream(*parts: object, device: torch.device | None = None) -> Iterator[None]:
    """Torch's generators seeded by ``parts`` inside the block, restored after it."""
    import torch

    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        seed = key_of(*parts)
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
