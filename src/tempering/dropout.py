"""Dropout masks from a stream of our own, on the CPU.

Torch draws dropout masks on the CPU one scalar at a time from its global generator, about a tenth of a training step of a small
encoder. Inside `DropoutStream` the same masks (each element kept with probability 1 - p, scaled by 1 / (1 - p)) come from a keyed
counter-free generator, 16 random bits an element: about seven times faster, and separate from every other random stream.
The kept share is p rounded to 1/65,536; the scale uses the rounded value, so the expectation is exact.

Where attention has no dropout, torch's fused kernel takes it, whose backward pass in bfloat16 is two to four times slower on a CPU than in
float32 (heads of 32 and 64, 40 to 128 tokens): then attention alone is computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tempering.streams import numpy_stream, torch_stream

_LEVELS = 65536


def keep_mask(shape: torch.Size, p: float, rng: np.random.Generator) -> Tensor:
    """Float mask of ``shape`` on the CPU: 1 / (1 - p) with probability 1 - p, else 0."""
    count = math.prod(shape)
    cut = round(p * _LEVELS)
    bits = np.asarray(rng.bit_generator.random_raw((count + 3) // 4)).view(np.uint16)[:count]
    kept = torch.from_numpy(bits >= cut).view(shape)
    return kept.to(torch.float32).mul_(_LEVELS / (_LEVELS - cut)) if cut < _LEVELS else torch.zeros(shape)


def _drop(x: Tensor, p: float, rng: np.random.Generator) -> Tensor:
    return x * keep_mask(x.shape, p, rng).to(x.dtype) if p > 0 else x


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, causal: bool, scale: float | None, gqa: bool, rng: np.random.Generator
) -> Tensor:
    """softmax(q k' / sqrt(d) + mask) with dropout, times v: torch's own math path, which it takes on the CPU whenever p > 0.

    As there, a query that may attend to nothing (padding, in a local window) gets zeros.
    """
    if gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    logits = (q * (scale or q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)
    if causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).tril().logical_not(), -torch.inf)
    if mask is None:
        return _drop(logits.softmax(-1), p, rng) @ v
    logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    blind = (~mask if mask.dtype == torch.bool else mask == -torch.inf).all(-1, keepdim=True)
    if not bool(blind.any()):
        return _drop(logits.softmax(-1), p, rng) @ v
    return _drop(logits.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0), p, rng) @ v  # filled before, for the gradient's sake


def _wide(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """Attention of bfloat16 in float32, on the CPU and where a gradient is asked for; any other as it is."""
    attend = torch.nn.functional.scaled_dot_product_attention
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or not torch.is_grad_enabled():
        return attend(query, key, value, attn_mask, *args, **kwargs)
    mask = attn_mask.float() if attn_mask is not None and attn_mask.dtype == torch.bfloat16 else attn_mask
    with torch.autocast("cpu", enabled=False):
        return attend(query.float(), key.float(), value.float(), mask, *args, **kwargs).to(query.dtype)


class WideAttention(TorchFunctionMode):
    """While active, attention of bfloat16 without dropout is computed in float32 on the CPU where a gradient is asked for."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _wide(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class DropoutStream(TorchFunctionMode):
    """While active, functional dropout and the dropout inside scaled-dot-product attention draw from ``rng``."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is torch.nn.functional.scaled_dot_product_attention:
            return (self._sdpa if kwargs.get("dropout_p", 0.0) > 0 else _wide)(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return _drop(input, p, self.rng) if training else input

    def _sdpa(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, self.rng)


@contextmanager
def dropout_stream(*parts: object, device: torch.device, native: bool = False) -> Iterator[None]:
    """Everything random inside a forward pass is keyed by ``parts``: our masks on the CPU, torch's generators for the rest.

    ``native`` leaves dropout to torch, for gradient checkpointing: it draws a pass's masks again from torch's generators alone.
    """
    with torch_stream(*parts, device=device):
        if device.type == "cpu" and not native:
            with DropoutStream(numpy_stream(*parts, "dropout")):
                yield
        else:
            yield
