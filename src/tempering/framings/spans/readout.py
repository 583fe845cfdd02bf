"""The last layers over single tokens: the family's own, where it has a class for them, or dropout and one linear map."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tempering.framings.family import RATES, before_the_last, folded, named
from tempering.framings.initial import draw, first
from tempering.layouts import HeadSpec


class Readout(nn.Module):
    """dense -> activation -> norm (where ``spec`` has them) -> dropout -> ``final``, over vectors [..., width].

    ``heads`` final maps of ``outputs`` each stand one after the other in ``final``; their mean is one linear map (`folded`).
    """

    def __init__(self, config: Any, spec: HeadSpec | None, width: int, outputs: int, heads: int, dropout: float | None) -> None:
        super().__init__()
        self.heads, self.outputs, self.spec = heads, outputs, spec
        self.dense, self.activation, self.norm = before_the_last(config, spec, width)
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

    def export_state(self) -> dict[str, Tensor] | None:
        """The weights by their names in the family's transformers class, heads folded; None where it has none."""
        return None if self.spec is None else named(self.spec, folded(self.final, self.heads), self.dense, self.norm)
