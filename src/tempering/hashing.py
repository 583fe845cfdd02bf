"""The identity of a pretrained model: a hash of its configuration and its weights."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ASIDE = ("_name_or_path", "transformers_version", "architectures")  # of a configuration: where and by what it was written


class Known(NamedTuple):
    """A hash, and what it was made of at a glance: the configuration and a checksum of every weight."""

    glance: tuple[Any, ...]
    words: str


def hashed(config: Any, weights: Mapping[str, Tensor], known: Known | None) -> Known:
    """The hash of ``config`` and ``weights``; ``known`` itself where nothing has changed since.

    A checksum reads the weights in a fifth of the time of the hash.
    """
    words = json.dumps({k: v for k, v in config.to_dict().items() if k not in _ASIDE}, sort_keys=True, default=str)
    tensors = [(name, _bits(tensor)) for name, tensor in sorted(weights.items())]
    glance = (words, *((name, bits.nbytes, zlib.crc32(bits)) for name, bits in tensors))
    if known is not None and known.glance == glance:
        return known
    digest = hashlib.blake2b(words.encode(), digest_size=16)
    for name, bits in tensors:
        digest.update(name.encode())
        digest.update(bits)
    return Known(glance, digest.hexdigest())


def _bits(tensor: Tensor) -> memoryview:
    """The bytes of ``tensor``, not copied where it lies in one piece in main memory."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
