"""Biases and norms of several tasks at once: each row gets its own task's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tempering.tunings.by_row import vectors_by_row


def own_vectors(
    layer: nn.Module, layers: Sequence[nn.Module], own: Sequence[str], args: tuple[Any, ...], output: Tensor, owner: Tensor
) -> Tensor | None:
    """What ``layers[owner[i]]`` says of row i, where they differ from ``layer`` in the vectors ``own``; None for other layers.

    A linear map: y + (b_t - b_0). A layer norm: n(x) g_t + b_t, its input normalized once.
    """
    if isinstance(layer, nn.Linear | Conv1D) and tuple(own) == ("bias",):
        change = torch.stack([each.get_parameter("bias") for each in layers]) - layer.get_parameter("bias")
        return output + vectors_by_row(change, owner, output.dim())
    if isinstance(layer, nn.LayerNorm) and len(args) == 1:
        out = F.layer_norm(args[0], layer.normalized_shape, None, None, layer.eps)
        gains = torch.stack([each.get_parameter("weight") for each in layers])
        out = out * vectors_by_row(gains, owner, out.dim())
        if layer.bias is None:
            return out
        return out + vectors_by_row(torch.stack([each.get_parameter("bias") for each in layers]), owner, out.dim())
    return None
