"""Trained class vectors in the place of label words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from tempering.framings.output_head import language_head
from tempering.framings.verbalizers.base import VerbalizerModule, Words, classes_of, output_rows
from tempering.framings.verbalizers.words import Table, WordCoder

if TYPE_CHECKING:
    from tempering.backbone import Backbone


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Soft:
    """Trains one vector a class in the place of the output matrix, beginning at the vectors of the label words.

    ``words``: the "first" word of each class makes its vector, or the "mean" over all of them. ``bias`` adds a trained bias, beginning
    at that of the words.

    *Paper*: Hambardzumyan et al. 2021, as OpenPrompt (Ding et al. 2022) has it. *Formula*: x [rows, width] = what the output matrix
    reads at the mask (after the language-model head's transform); s = x V^T + c, V [classes, width], V_y = mean over the pieces of its
    word of the rows of the output matrix; P(y | x) = softmax(s)_y. *Needs*: one mask; label words of any number of pieces. *Costs*: one
    pass; classes (width + 1) trained numbers, at the rate ``head_learning_rate``. *Differs*: with ``bias`` it starts as the manual
    verbalizer (mean_logit, pieces: mean), exactly; OpenPrompt has no bias and reads the first word.
    """

    words: Literal["first", "mean"] = "first"
    bias: bool = False

    trains: ClassVar[bool] = True

    def build(self, task: Any, backbone: Backbone, words: Words) -> ClassVectors:
        """The module, its vectors at those of the label words."""
        table = WordCoder.of(backbone).table(task, words, single=False)
        weight, bias = from_words(backbone, table, 1 if self.words == "first" else None)
        return ClassVectors(classes_of(task, words), weight, bias if self.bias else None)


class ClassVectors(VerbalizerModule):
    """One vector a class: ``weight`` [classes, width], and ``bias`` [classes] where there is one."""

    wants = "states"

    def __init__(self, labels: tuple[Any, ...], weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.labels = labels
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, read: Tensor) -> Tensor:
        """States [rows, 1, width] -> class scores [rows, classes]."""
        return F.linear(read[:, 0].to(self.weight.dtype), self.weight, self.bias)


@torch.no_grad()
def from_words(backbone: Backbone, table: Table, words: int | None) -> tuple[Tensor, Tensor]:
    """Vectors [classes, width] and biases [classes]: the mean over the first ``words`` words (None: all) of the mean over their pieces."""
    found = [[output_rows(language_head(backbone), backbone, piece) for piece in row[:words]] for row in table]
    weight = torch.stack([torch.stack([rows.mean(0) for rows, _ in row]).mean(0) for row in found])
    bias = torch.stack([torch.stack([added.mean() for _, added in row]).mean() for row in found])
    return weight.clone(), bias.clone()
