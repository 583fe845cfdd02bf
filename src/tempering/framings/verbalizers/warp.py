"""The class vectors of WARP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

from tempering.framings.initial import first
from tempering.framings.verbalizers.base import Words, classes_of
from tempering.framings.verbalizers.soft import ClassVectors, from_words
from tempering.framings.verbalizers.words import WordCoder

if TYPE_CHECKING:
    from tempering.backbone import Backbone


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WARP:
    """Trains one vector and one bias a class over the frozen language-model head; with trained slots in the template it is WARP.

    ``init``: "words" begins at the output vectors and biases of the label words (few rows), "random" at drawn vectors and no bias.

    *Paper*: Hambardzumyan et al. 2021. *Formula*: x [rows, width] = what the output matrix reads at the mask; s = x V^T + c, V
    [classes, width], c [classes]; P(y | x) = softmax(s)_y. *Needs*: one mask; a frozen body in evaluation mode (tuning frozen) and
    slots in the template that are trained. *Costs*: one pass; classes (width + 1) trained numbers beside the slots. *Differs*: from
    `Soft` in the bias and in that it may begin anywhere; regression by one output is left to the two poles of the cloze framing.
    """

    init: Literal["words", "random"] = "words"

    trains: ClassVar[bool] = True

    @property
    def works_untrained(self) -> bool:
        """Drawn vectors mean nothing until they are trained."""
        return self.init == "words"

    def build(self, task: Any, backbone: Backbone, words: Words) -> ClassVectors:
        """The module; drawn vectors come from torch's generator."""
        weight, bias = from_words(backbone, WordCoder.of(backbone).table(task, words, single=False), 1)
        if self.init == "random":
            nn.init.normal_(weight, 0.0, float(first(backbone.config, "initializer_range", default=0.02)))
            bias = torch.zeros_like(bias)
        return ClassVectors(classes_of(task, words), weight, bias)
