"""Label words chosen by what the untrained model says of the training rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.output_head import language_head, output_matrix
from tempering.framings.verbalizers.base import (
    VerbalizerModule,
    Words,
    classes_of,
    mask_states,
    targets_of,
    token_logits,
    unlabeled,
)
from tempering.framings.verbalizers.manual import ManualModule
from tempering.framings.verbalizers.word_search import (
    Assignment,
    accuracy_of,
    autoprompt_words,
    best_assignments,
    likeliest,
    nearest,
    pearson_of,
    petal_words,
)
from tempering.framings.verbalizers.words import Table, WordCoder, given_words

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner

Method = Literal["lm_bff", "petal", "autoprompt"]
K: dict[Method, int] = {"lm_bff": 100, "petal": 1000, "autoprompt": 3}
SHOWN = 10  # assignments that a saved folder names beside the one it uses


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AutoWords:
    """Chooses the label words before training, from what the untouched model says of the training rows; then reads them as `Manual`.

    ``method``: "lm_bff" takes the ``k`` likeliest words of each class, scores every way to give each class one of them by zero-shot
    accuracy on the training rows, and uses the one at ``rank`` (0: the best) of the ``n`` it keeps: a study that searches over
    ``rank`` chooses among them on the development split, as the paper does. ``neighbors`` first narrows the candidates to those
    nearest the class's given word. "petal" and "petal" with ``score`` "ce" take ``words`` words a class by likelihood ratio, or
    cross entropy, among ``k`` candidates. "autoprompt" takes the ``k`` words whose vectors a trained linear map favors.

    *Paper*: Gao et al. 2021 (LM-BFF, section 5.1); Schick et al. 2020 (PETAL); Shin et al. 2020 (AutoPrompt, section 2.3). *Formula*:
    `tempering.framings.verbalizers.word_search`. *Needs*: labeled rows of every class; one mask; for a value two poles, whose
    candidates come from the rows below and above the median, and which are scored by Pearson's r. *Costs*: a pass over the training
    rows; scoring k^classes assignments, or beyond ``limit`` coordinate ascent. *Differs*: words that begin inside another word,
    punctuation, special and reserved tokens are no candidates whatever the tokenizer; no two classes share a word; PETAL's frequent
    words are those of the training texts; several prompts of a row are averaged; inside demonstrations words are chosen before any
    are shown.
    """

    method: Method = "lm_bff"
    k: int | None = Field(default=None, ge=1)
    n: int = Field(default=100, ge=1)
    rank: int = Field(default=0, ge=0)
    neighbors: int | None = Field(default=None, ge=1)
    limit: int = Field(default=5_000_000, ge=1)
    score: Literal["llr", "ce"] = "llr"
    words: int = Field(default=10, ge=1)
    frequent: int = Field(default=10_000, ge=1)
    epochs: int = Field(default=50, ge=1)

    trains: ClassVar[bool] = False

    @property
    def needs_words(self) -> bool:
        """Whether the given label words are read: labels that are no words need none otherwise."""
        return self.neighbors is not None

    def build(self, task: Any, backbone: Backbone, words: Words) -> AutoWordsModule:
        """The module, with stand-ins until `AutoWordsModule.prepare` has chosen. Given words are read with ``neighbors`` only."""
        labels, coder = classes_of(task, words), WordCoder.of(backbone)
        if self.rank >= self.n:
            raise RecipeError(f"auto_words: rank={self.rank} lies beyond the n={self.n} assignments that are kept; raise n or lower rank")
        if task.kind == "regression" and self.method != "lm_bff":
            raise RecipeError(f"auto_words: method={self.method} tells classes apart, and this task has values; take method lm_bff")
        near: list[int] = []
        if self.neighbors is not None:
            table = coder.table(task, dict(given_words(task, words)))
            near = [row[0][0] for row in table]
        return AutoWordsModule(self, labels, coder, near, task.kind == "regression")

    @property
    def candidates(self) -> int:
        """``k``, or that of the method."""
        return self.k or K[self.method]


class AutoWordsModule(VerbalizerModule):
    """`AutoWords` at run time: the chosen tokens as a manual verbalizer, and the assignments that came close."""

    inner: ManualModule

    def __init__(self, value: AutoWords, labels: tuple[Any, ...], coder: WordCoder, near: list[int], poles: bool) -> None:
        super().__init__()
        self.value, self.labels, self.coder, self.near, self.poles = value, labels, coder, near, poles
        self.found: list[Assignment] = []
        self.chosen = False
        if len(coder.initial) < len(labels):
            raise RecipeError(f"auto_words: the vocabulary of {coder.source} has fewer words than the task has classes; give words by hand")
        self._use([[i] for i in coder.initial[: len(labels)]])

    def _use(self, ids: Sequence[Sequence[int]]) -> None:
        fresh = ManualModule(self.labels, tuple(tuple((i,) for i in row) for row in ids), "mean_logit")
        device = self.inner.owner.device if "inner" in self._modules else fresh.owner.device
        self.inner = fresh.to(device)
        self.ids = fresh.ids

    def forward(self, read: Tensor) -> Tensor:
        """Logits of the chosen tokens [rows, 1, ids] -> class scores [rows, classes]."""
        found: Tensor = self.inner(read)
        return found

    @property
    def table(self) -> Table:
        """The chosen tokens of each class, as a demonstration shows them."""
        return self.inner.table

    @property
    def words(self) -> dict[str, list[str]]:
        """The chosen words of each class."""
        return {str(c): [self.coder.word(word[0]) for word in row] for c, row in zip(self.labels, self.inner.table, strict=True)}

    @torch.no_grad()
    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Choose the words from the training rows and the model as it is."""
        learner = learner.framing.alone(learner)
        targets, rows = self._targets(examples)
        chosen = unlabeled(rows)
        if self.value.method == "lm_bff":
            self.found = self._lm_bff(learner, targets, token_logits(learner, chosen, rng), rows, rng)
            self._use([[i] for i in self.found[min(self.value.rank, len(self.found) - 1)].ids])
        else:
            self._use(self._several(learner, chosen, targets, rng))
        self.chosen = True

    def _targets(self, examples: Sequence[Example]) -> tuple[Tensor, list[Example]]:
        """A class index of each row that counts, and those rows; of values whether they lie above the median."""
        if self.poles:
            rows = [e for e in examples if e.label is not None]
            values = torch.tensor([float(e.label) for e in rows])
            targets = (values > values.median()).long() if len(rows) else torch.zeros(0, dtype=torch.long)
        else:
            found = targets_of(self.labels, examples, "auto_words")
            targets, rows = found.classes, [examples[i] for i in found.rows]
        seen = set(targets.tolist())
        if absent := [str(c) for i, c in enumerate(self.labels) if i not in seen]:
            raise DataError(f"auto_words: {absent[0]!r} has no training row to choose words from; add one, or give its word by hand")
        return targets, rows

    def _lm_bff(self, learner: Learner, targets: Tensor, logits: Tensor, rows: list[Example], rng: np.random.Generator) -> list[Assignment]:
        lists = likeliest(logits, targets, len(self.labels), self.coder.initial, self.value.candidates)
        if self.value.neighbors is not None:
            matrix = output_matrix(language_head(learner.backbone), learner.backbone).cpu()
            lists = [nearest(matrix, token, row, self.value.neighbors) for token, row in zip(self.near, lists, strict=True)]
        score = pearson_of(logits, torch.tensor([float(e.label) for e in rows])) if self.poles else accuracy_of(logits, targets)
        return best_assignments(lists, score, self.value.n, self.value.limit, rng)

    def _several(self, learner: Learner, rows: list[Example], targets: Tensor, rng: np.random.Generator) -> list[list[int]]:
        classes, value = len(self.labels), self.value
        if value.method == "petal":
            chances = token_logits(learner, rows, rng).log_softmax(-1)
            allowed = frequent_words(self.coder, rows, value.frequent)
            found = petal_words(chances, targets, classes, allowed, value.score, value.words, value.candidates)
        else:
            states = mask_states(learner, rows, rng, "states")[:, 0]
            matrix = output_matrix(language_head(learner.backbone), learner.backbone).cpu()
            found = autoprompt_words(states, targets, matrix, classes, self.coder.initial, value.candidates, value.epochs, rng)
        if bare := [str(c) for c, row in zip(self.labels, found, strict=True) if not row]:
            raise RecipeError(f"auto_words: method={value.method} found no word that speaks for {bare[0]!r} first; raise k, or take lm_bff")
        return found

    def keep(self) -> dict[str, Any]:
        """The chosen tokens, their words, and the assignments that did best."""
        shown = [{"score": a.score, "words": [self.coder.word(i) for i in a.ids]} for a in self.found[:SHOWN]]
        ids = [[word[0] for word in row] for row in self.inner.table]
        return {"ids": ids, "words": self.words} | ({"best": shown} if shown else {})

    def recall(self, kept: dict[str, Any]) -> None:
        """Take back the chosen tokens."""
        self._use(kept["ids"])
        self.chosen = True


def frequent_words(coder: WordCoder, examples: Sequence[Example], count: int) -> list[int]:
    """The ``count`` word-initial tokens of two letters or more that the texts hold most often; ties in vocabulary order."""
    texts = " ".join(text for e in examples for text in e.texts)
    lowered = coder.encode("A") == coder.encode("a")  # this tokenizer reads no case
    seen = Counter(re.findall(r"\w+", texts.lower() if lowered else texts))
    known = [(i, coder.word(i)) for i in coder.initial]
    words = [(i, word) for i, word in known if sum(map(str.isalpha, word)) >= 2]
    return [i for i, _ in sorted(words, key=lambda pair: -seen[pair[1]])[:count]]
