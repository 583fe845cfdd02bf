"""First values of new weights, as the family of the backbone draws them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def draw(linear: nn.Linear, config: Any, final: bool = False) -> None:
    """Draw a new linear map from torch's generator: normal(0, ``initializer_range``), zero bias.

    A configuration with ``initializer_cutoff_factor`` asks for its own scheme: truncated normal, with deviation
    initializer_range / sqrt(2 layers), or 1 / sqrt(hidden size) for the ``final`` map to the classes.
    """
    std = getattr(config, "initializer_range", None) or 0.02
    with torch.no_grad():
        if hasattr(config, "initializer_cutoff_factor"):
            std = config.hidden_size**-0.5 if final else std / math.sqrt(2.0 * config.num_hidden_layers)
            cut = (config.initializer_cutoff_factor or 3.0) * std
            nn.init.trunc_normal_(linear.weight, 0.0, std, -cut, cut)
        else:
            nn.init.normal_(linear.weight, 0.0, std)
        if linear.bias is not None:
            linear.bias.zero_()


def first(config: Any, *names: str, default: Any) -> Any:
    """The first of the named configuration fields that is set, else ``default``."""
    return next((v for v in (getattr(config, n, None) for n in names) if v is not None), default)


def layer_norm(width: int, config: Any) -> nn.LayerNorm:
    """A fresh norm over ``width`` with the family's epsilon, and with a bias unless the configuration says no."""
    eps = float(first(config, "layer_norm_eps", "norm_eps", default=1e-12))
    return nn.LayerNorm(width, eps=eps, bias=bool(first(config, "norm_bias", default=True)))


def activation(name: str) -> nn.Module:
    """The activation that transformers knows by ``name``."""
    from transformers.activations import ACT2FN

    module: nn.Module = ACT2FN[name]
    return module
