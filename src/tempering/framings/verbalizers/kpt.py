"""Wide sets of label words from a source of related words, refined on the texts at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.errors import DataError, RecipeError
from tempering.framings.verbalizers.aggregate import PLAIN, Pieces, weighted
from tempering.framings.verbalizers.base import Words, classes_of, token_logits, unlabeled
from tempering.framings.verbalizers.manual import ManualModule
from tempering.framings.verbalizers.related import candidates, read_words, relevance
from tempering.framings.verbalizers.words import Table, WordCoder

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Knowledgeable:
    """Reads each class from many related words: cleans them up on unlabeled texts, evens out their priors, and may train their shares.

    ``file`` adds related words to those given, which come first: JSON or YAML (class: words), or a text file with a line a class, in
    the order of the classes, words between commas. Before training, up to ``rows`` training texts (labels are not read) decide:
    ``frequency`` drops words whose mean logit lies in that lowest share of the vocabulary; ``relevance`` drops words with R below
    ``least``; ``calibrate`` divides each word's probability by its mean over the texts. ``aggregation``: "mean_prob" (zero shot),
    "mean_logprob_over_words", or "weighted", whose shares are trained (few shots; ``temperature`` multiplies their logits in use).

    *Paper*: after Hu et al. 2022 (KPT). *Formula*: P~(v | x) prop. to P(v | x) / P_D(v) over the label words, P_D(v) = mean over the
    texts of P(v | x); mean_prob: s_y = log mean_v P~(v | x); weighted: s_y = sum_v a_v log P~(v | x), a = softmax(w) in the class, w = 0 at
    the start. Relevance, with r(v, c) the cosine over the texts of word v and the first word of class c: "ratio": R = r(v, own) / M, M
    the p-mean of |r(v, other)| with p = 1 + 10 / (classes - 2 + 0.01), r of logits less their mean, as the authors' code; "log":
    R = r(v, own) log((classes - 1) / sum over others of r(v, c)), r of probabilities, as the paper's. *Needs*: one mask; a class
    without words left is refused. *Costs*: a pass over the texts before training; a number a word where shares are trained, at about
    rate 5e-2 (``head_learning_rate``). *Differs*: the code's "ratio" cuts every class at the share that brings R nearest to 1, here R
    itself is held against ``least``; the code takes P_D from mean logits; first words stay under "ratio" by construction (R >= 1).
    """

    file: str | None = None
    frequency: float = Field(default=0.5, ge=0, lt=1)
    relevance: Literal["none", "ratio", "log"] = "ratio"
    least: float = 1.0
    calibrate: bool = True
    aggregation: Literal["mean_prob", "mean_logprob_over_words", "weighted"] = "mean_prob"
    temperature: float = Field(default=1.0, gt=0)
    pieces: Literal["first", "max", "mean"] = "mean"
    max_pieces: int | None = Field(default=1, ge=1)
    rows: int = Field(default=200, ge=2)

    @property
    def trains(self) -> bool:
        """Only the shares of "weighted" are trained."""
        return self.aggregation == "weighted"

    def build(self, task: Any, backbone: Backbone, words: Words) -> KnowledgeableModule:
        """The module for all candidate words; `prepare` refines them. A folder that is loaded holds its words: the file is not needed."""
        labels = classes_of(task, words)
        loading = not len(task.train)
        related = read_words(self.file, labels, absent_is_empty=loading) if self.file else {}
        table = candidates(WordCoder.of(backbone), task, words, related, self.max_pieces)
        return KnowledgeableModule(self, labels, table, WordCoder.of(backbone))


class KnowledgeableModule(ManualModule):
    """`Knowledgeable` at run time: ``kept`` [words] tells which candidates stay, ``log_prior`` [words] is log P_D."""

    kept: Tensor
    log_prior: Tensor

    def __init__(self, value: Knowledgeable, labels: tuple[Any, ...], table: Table, coder: WordCoder) -> None:
        pieces: Pieces = value.pieces
        super().__init__(labels, table, value.aggregation, pieces)
        self.value, self.coder = value, coder
        count = int(self.owner.shape[1])
        self.register_buffer("kept", torch.ones(count, dtype=torch.bool))
        self.register_buffer("log_prior", torch.zeros(count))

    def aggregated(self, words: Tensor) -> Tensor:
        """Words' logits [rows, words] -> class scores [rows, classes], of the words that stay and with their priors taken off."""
        chances = (words.log_softmax(-1) - self.log_prior)[:, self.kept]
        owner = self.owner[:, self.kept]
        if self.weights is not None:
            shares = self.weights[self.kept]
            return weighted(chances, owner, shares if self.training else shares * self.value.temperature)
        return PLAIN[self.aggregation](chances, owner)

    @torch.no_grad()
    def prepare(self, learner: Learner, examples: Sequence[Any], rng: np.random.Generator) -> None:
        """Refine the words and take their priors, from the texts of up to ``rows`` training rows and the model as it is."""
        asks = "knowledgeable verbalizer"
        if len(examples) < 2:
            raise DataError(f"{asks}: its words are refined on training texts; it needs at least 2, found {len(examples)}")
        chosen = [examples[i] for i in rng.permutation(len(examples))[: self.value.rows]]
        logits = token_logits(learner, unlabeled(chosen), rng)
        device = self.kept.device
        read = self.words(logits[:, None, list(self.ids or ())].to(device)).cpu()
        chances = read - logits.logsumexp(-1, keepdim=True)
        kept = self._frequent(logits.mean(0)) & self._relevant(read, chances)
        self._refuse_empty(kept)
        self.kept.copy_(kept)
        if self.value.calibrate:
            self.log_prior.copy_(chances.logsumexp(0) - math.log(len(chances)))

    def _frequent(self, mean: Tensor) -> Tensor:
        """[words]: whose prior is not among the lowest of the vocabulary; ``mean`` [vocabulary] logits."""
        least = mean.sort().values[min(len(mean) - 1, int(self.value.frequency * len(mean)))]
        mine = self.words(mean[list(self.ids or ())][None, None].to(self.kept.device))[0].cpu()
        return mine >= least if self.value.frequency else torch.ones_like(mine, dtype=torch.bool)

    def _relevant(self, logits: Tensor, chances: Tensor) -> Tensor:
        if self.value.relevance == "none" or len(self.labels) < 2:
            return torch.ones(logits.shape[1], dtype=torch.bool)
        shown = logits - logits.mean(0) if self.value.relevance == "ratio" else chances.exp()
        return relevance(shown, self.owner.cpu(), self.value.relevance) >= self.value.least

    def _refuse_empty(self, kept: Tensor) -> None:
        left = (self.owner.cpu() & kept).sum(-1).tolist()
        for label, count, row in zip(self.labels, left, self.table, strict=True):
            if not count:
                raise RecipeError(
                    f"knowledgeable verbalizer: frequency={self.value.frequency:g} and relevance={self.value.relevance} leave none of the"
                    f" {len(row)} words of class {label!r}; lower frequency or least, or give it more words"
                )

    def staying(self) -> dict[str, list[str]]:
        """The words of each class that stay."""
        words, stays = [self.coder.pieces(w) for row in self.table for w in row], self.kept.tolist()
        owner = self.owner.tolist()
        return {str(label): [w for w, s, o in zip(words, stays, owner[c], strict=True) if s and o] for c, label in enumerate(self.labels)}

    def keep(self) -> dict[str, Any]:
        """The candidates, so that the file is not asked for again, and the words that stay, for the reader."""
        return {"candidates": [[list(word) for word in row] for row in self.table], "words": self.staying()}

    def recall(self, kept: dict[str, Any]) -> None:
        """Take back the candidates; which of them stay is in the state dict."""
        table = tuple(tuple(tuple(word) for word in row) for row in kept["candidates"])
        fresh = KnowledgeableModule(self.value, self.labels, table, self.coder)
        self.table, self.ids = table, fresh.ids
        for name, value in fresh.named_buffers():
            setattr(self, name, value.to(self.kept.device))
        if fresh.weights is not None:
            self.weights = nn.Parameter(fresh.weights.data.to(self.kept.device))
