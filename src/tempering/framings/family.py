"""The layers of a family's own head, and what they are called in its transformers class."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tempering.framings.initial import activation, draw, first, layer_norm
from tempering.layouts import HeadSpec

RATES = ("classifier_dropout", "hidden_dropout_prob", "dropout_rate", "dropout", "resid_pdrop")  # names of the rate in configurations


def before_the_last(config: Any, spec: HeadSpec | None, width: int) -> tuple[nn.Linear | None, nn.Module | None, nn.Module | None]:
    """The dense layer, the activation and the norm that come before the last linear map, where ``spec`` has them."""
    if spec is None or spec.dense is None:
        return None, None, None
    dense = nn.Linear(width, width, bias=spec.norm is None or bool(first(config, "classifier_bias", default=True)))
    act = activation(first(config, "classifier_activation", "pooler_hidden_act", default=spec.activation))
    norm = layer_norm(width, config) if spec.norm is not None else None
    draw(dense, config)
    return dense, act, norm


def folded(final: nn.Linear, heads: int) -> tuple[Tensor, Tensor | None]:
    """The mean of ``heads`` linear maps that stand one after the other in ``final``: weight [outputs, width], bias [outputs] or None."""
    weight = final.weight.detach().unflatten(0, (heads, -1)).mean(0)
    return weight, None if final.bias is None else final.bias.detach().unflatten(0, (heads, -1)).mean(0)


def named(spec: HeadSpec, last: tuple[Tensor, Tensor | None], dense: nn.Module | None, norm: nn.Module | None) -> dict[str, Tensor]:
    """Copies of the weights by their names in the family's transformers class; ``last`` are weight and bias of the last linear map."""
    weight, bias = last
    state = {f"{spec.final}.weight": weight} | ({} if bias is None else {f"{spec.final}.bias": bias})
    for name, module in ((spec.dense, dense), (spec.norm, norm)):
        if name is not None and module is not None:
            state |= {f"{name}.{key}": value.detach() for key, value in module.named_parameters()}
    return {name: value.clone().contiguous() for name, value in state.items()}
