"""Label words that a person chose."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.framings.verbalizers.aggregate import PLAIN, Aggregation, Pieces, of_pieces, weighted
from tempering.framings.verbalizers.base import VerbalizerModule, Words, classes_of
from tempering.framings.verbalizers.words import Table, WordCoder

if TYPE_CHECKING:
    from tempering.backbone import Backbone


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Manual:
    """Reads the score of each class from the logits of its label words at the mask.

    ``aggregation`` says how the words of a class are taken together: "mean_logit" of their logits; "sum_prob", log of the sum of
    their probabilities; "mean_logprob_over_words", mean of log probabilities among all label words; "mean_prob", log of the mean
    probability; "weighted", log probabilities by trained shares (equal at the start); "max", the best word. ``pieces``: what to do
    with a word of several tokens at its one mask: refuse it, or take the first piece, the largest or the mean of their logits.

    *Paper*: Schick and Schütze 2021 (PET, mean_logit); Shin et al. 2020 (sum_prob); Gao et al. 2021 (one word a class); after
    OpenPrompt (Ding et al. 2022) mean_logprob_over_words and the handling of pieces; Hu et al. 2022 (mean_prob, weighted).
    *Formula*: with h [rows, words] the words' logits and p = softmax(h) over all label words of all classes: s_y = mean_v h_v,
    log sum_v p_v, mean_v log p_v, log mean_v p_v, sum_v a_v log p_v with a = softmax(w) in the class, max_v log p_v; P(y | x) =
    softmax(s)_y. The logits of other tokens play no part. *Needs*: one mask; different tokens for different classes. *Costs*: one
    pass; only the label words' rows of the output matrix are read. *Differs*: token 0 is a label word as any other (PET's code takes
    it for padding); mean_logit and mean_logprob_over_words give the same probabilities.
    """

    aggregation: Aggregation = "mean_logit"
    pieces: Pieces = "error"

    reads_rows: ClassVar[bool] = False

    @property
    def trains(self) -> bool:
        """Only the shares of "weighted" are trained."""
        return self.aggregation == "weighted"

    def build(self, task: Any, backbone: Backbone, words: Words) -> ManualModule:
        """The module for the label words of each class."""
        coder = WordCoder.of(backbone)
        table = coder.table(task, words, single=self.pieces == "error")
        module = ManualModule(classes_of(task, words), table, self.aggregation, self.pieces)
        if self.pieces == "first":
            warn_of_collisions(module.labels, table, coder)
        return module


class ManualModule(VerbalizerModule):
    """`Manual` at run time, from the pieces of each word of each class; with "weighted" it trains ``weights`` [words]."""

    pick: Tensor
    real: Tensor
    owner: Tensor

    def __init__(self, labels: tuple[Any, ...], table: Table, aggregation: Aggregation, pieces: Pieces = "error") -> None:
        super().__init__()
        self.labels, self.table, self.aggregation, self.pieces = labels, table, aggregation, pieces
        flat = [word for row in table for word in row]
        self.ids = tuple(dict.fromkeys(i for word in flat for i in word))
        place, longest = {i: at for at, i in enumerate(self.ids)}, max(map(len, flat))
        padded = [[place[i] for i in word] + [0] * (longest - len(word)) for word in flat]
        self._state("pick", torch.tensor(padded))
        self._state("real", torch.tensor([[at < len(word) for at in range(longest)] for word in flat]))
        self._state("owner", owner_of([len(row) for row in table]))
        self.weights = nn.Parameter(torch.zeros(len(flat))) if aggregation == "weighted" else None

    def _state(self, name: str, value: Tensor) -> None:
        """What follows from the words: not saved, they make it again."""
        self.register_buffer(name, value, persistent=False)

    def words(self, read: Tensor) -> Tensor:
        """Logits of the ids [rows, 1, ids] -> a logit a word [rows, words], never in half precision."""
        return of_pieces(read[:, 0].float(), self.pick, self.real, self.pieces)

    def forward(self, read: Tensor) -> Tensor:
        """Logits of the ids [rows, 1, ids] -> class scores [rows, classes]."""
        return self.aggregated(self.words(read))

    def aggregated(self, words: Tensor) -> Tensor:
        """Words' logits [rows, words] -> class scores [rows, classes]."""
        if self.weights is not None:
            return weighted(words, self.owner, self.weights)
        return PLAIN[self.aggregation](words, self.owner)


def owner_of(counts: list[int]) -> Tensor:
    """[classes, words]: which words belong to which class, as they stand one class after the other."""
    which = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return which == torch.arange(len(counts)).unsqueeze(1)


def warn_of_collisions(labels: tuple[Any, ...], table: Table, coder: WordCoder) -> None:
    """Words of two classes that begin with the same piece look the same where only first pieces are read."""
    firsts = Counter(piece for row in table for piece in {word[0] for word in row})
    for piece in (p for p, count in firsts.items() if count > 1):
        sharing = [repr(label) for label, row in zip(labels, table, strict=True) if any(word[0] == piece for word in row)]
        warnings.warn(
            f"label words of classes {' and '.join(sharing)} begin with the same piece {coder.tokens[piece]!r}, the only one that"
            " pieces=first reads; take pieces=mean, or the verbalizer multi_mask",
            stacklevel=3,
        )
