"""Which training rows are most like a query: by the words they share, or by the nearness of their embeddings (KATE)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Example
from tempering.framings.asked.left_to_right import padded
from tempering.framings.asked.scoring import encoded
from tempering.framings.wrapping import Wrapping

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Retrieval = Literal["none", "knn", "bm25"]
Metric = Literal["cosine", "euclidean"]
K1, B = 1.5, 0.75  # Robertson and Zaragoza 2009


def joined(example: Example) -> str:
    """The text that stands for an example: a pair's two texts with a space between them (LM-BFF's code)."""
    return " ".join(example.texts)


class BM25:
    """Okapi BM25 over the words of a pool of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.counts = [Counter(text.lower().split()) for text in texts]
        self.lengths = np.array([sum(found.values()) for found in self.counts], dtype=np.float64)
        self.held = Counter(word for found in self.counts for word in found)

    def scores(self, query: str) -> np.ndarray:
        """sum over the query's words w of idf(w) f (k1 + 1) / (f + k1 (1 - b + b length / mean length)): [texts]."""
        total = len(self.counts)
        weight = K1 * (1 - B + B * self.lengths / max(float(self.lengths.mean()), 1.0))
        found = np.zeros(total)
        for word in query.lower().split():
            idf = np.log(1 + (total - self.held[word] + 0.5) / (self.held[word] + 0.5))
            often = np.array([counts[word] for counts in self.counts], dtype=np.float64)
            found += idf * often * (K1 + 1) / (often + weight)
        return found


@torch.no_grad()
def embedded(backbone: Backbone, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """The mean of the last states over each text's tokens [texts, dim], in evaluation mode and main memory."""
    modes = [(module, module.training) for module in backbone.modules()]  # a body may be in another mode than what holds it
    backbone.eval()
    wrapping, length = Wrapping.of(backbone.tokenizer), backbone.max_length
    rows = [[*wrapping.before, *ids, *wrapping.after][:length] or [0] for ids in encoded(backbone.tokenizer, texts)]
    found = torch.zeros(len(texts), backbone.hidden_size)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for batch in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
        ids, mask = padded([rows[i] for i in batch], next(backbone.model.parameters()).device)
        states = backbone.encode({"input_ids": ids, "attention_mask": mask}).last
        found[batch] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).float().cpu()
    for module, mode in modes:
        module.training = mode
    return found


def nearness(pool: Tensor, queries: Tensor, metric: Metric) -> Tensor:
    """Cosine, or minus the euclidean distance: [queries, pool], the more the nearer."""
    if metric == "cosine":
        return torch.nn.functional.normalize(queries, dim=-1) @ torch.nn.functional.normalize(pool, dim=-1).T
    return -torch.cdist(queries, pool)


def nearest(scores: np.ndarray, k: int, labels: Sequence[Any], excluded: Sequence[int], per_class: bool) -> list[int]:
    """The ``k`` rows of highest score (of each class, with ``per_class``), nearest first, ties by number; ``excluded`` rows aside."""
    order = [int(i) for i in np.argsort(-scores, kind="stable") if int(i) not in set(excluded)]
    if not per_class:
        return order[:k]
    taken: Counter[Any] = Counter()
    found = []
    for i in order:
        if taken[labels[i]] < k:
            taken[labels[i]] += 1
            found.append(i)
    return found


class Neighbors:
    """Demonstrations for each query: the rows of ``pool`` most like it, by BM25, or by embeddings where there is an ``embedder``."""

    def __init__(
        self, pool: Sequence[Example], labels: Sequence[Any], k: int, per_class: bool, metric: Metric, embedder: tuple[Backbone, ...]
    ) -> None:
        self.pool, self.labels, self.k, self.per_class, self.metric = pool, labels, k, per_class, metric
        self.embedder = embedder
        self.words = None if embedder else BM25([joined(e) for e in pool])

    @property
    def most(self) -> int:
        """How many rows are found for a query that is none of them."""
        return sum(min(self.k, count) for count in Counter(self.labels).values()) if self.per_class else min(self.k, len(self.pool))

    def of(self, examples: Sequence[Example], embeddings: Tensor | None) -> Iterator[tuple[int, ...]]:
        """Numbers of the rows for each of ``examples``, nearest first. A row with the query's own texts is never among them."""
        texts = [joined(e) for e in examples]
        if self.words is None and examples:
            assert embeddings is not None  # of the pool, measured before anything was asked
            found = nearness(embeddings.cpu(), embedded(self.embedder[0], texts), self.metric).numpy()
        for i, example in enumerate(examples):
            scores = found[i] if self.words is None else self.words.scores(texts[i])
            same = [j for j, row in enumerate(self.pool) if row.texts == example.texts]
            yield tuple(nearest(scores, self.k, self.labels, same, self.per_class))
