"""The last layers over single tokens: the family's own, where it has a class for them, or dropout and one linear map."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tempering.framings.initial import activation, draw, first, layer_norm
from tempering.layouts import HeadSpec

RATES = ("classifier_dropout", "hidden_dropout_prob", "dropout_rate", "dropout", "resid_pdrop")


class Readout(nn.Module):
    """dense -> activation -> norm (where ``spec`` has them) -> dropout -> ``final``, over vectors [..., width].

    ``heads`` final maps of ``outputs`` each stand one after the other in ``final``; their mean is one linear map (`fold`).
    """

    def __init__(self, config: Any, spec: HeadSpec | None, width: int, outputs: int, heads: int, dropout: float | None) -> None:
        super().__init__()
        self.heads, self.outputs, self.spec = heads, outputs, spec
        self.dense: nn.Linear | None = None
        self.activation: nn.Module | None = None
        self.norm: nn.Module | None = None
        if spec is not None and spec.dense is not None:
            self.dense = nn.Linear(width, width, bias=spec.norm is None or bool(first(config, "classifier_bias", default=True)))
            self.activation = activation(first(config, "classifier_activation", "pooler_hidden_act", default=spec.activation))
            self.norm = layer_norm(width, config) if spec.norm is not None else None
            draw(self.dense, config)
        rates = RATES if spec is None else spec.dropout
        usual = first(config, *rates, default=0.1 if rates else 0.0)
        self.dropout = nn.Dropout(float(usual if dropout is None else dropout))
        self.final = nn.Linear(width, heads * outputs)
        draw(self.final, config, final=True)

    def features(self, x: Tensor) -> Tensor:
        """What the final maps read, of the same shape as ``x``."""
        if self.dense is not None and self.activation is not None:
            x = self.activation(self.dense(x))
        if self.norm is not None:
            x = self.norm(x)
        out: Tensor = self.dropout(x)
        return out

    def logits(self, features: Tensor) -> Tensor:
        """[rows, width] -> [heads, rows, outputs]."""
        out: Tensor = self.final(features).view(len(features), self.heads, self.outputs).transpose(0, 1)
        return out

    def fold(self) -> tuple[Tensor, Tensor]:
        """The one linear map equal to the mean of the heads: weight [outputs, width] and bias [outputs]."""
        weight = self.final.weight.detach().view(self.heads, self.outputs, -1).mean(0)
        return weight, self.final.bias.detach().view(self.heads, self.outputs).mean(0)

    def export_state(self) -> dict[str, Tensor] | None:
        """The weights by their names in the family's transformers class, heads folded; None where it has none."""
        if self.spec is None:
            return None
        weight, bias = self.fold()
        state = {f"{self.spec.final}.weight": weight, f"{self.spec.final}.bias": bias}
        for name, module in ((self.spec.dense, self.dense), (self.spec.norm, self.norm)):
            if name is not None and module is not None:
                state |= {f"{name}.{key}": value.detach() for key, value in module.named_parameters()}
        return {name: value.clone().contiguous() for name, value in state.items()}
