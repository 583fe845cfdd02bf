"""Which training rows are most like a query: by the words they share, or by the nearness of their embeddings (KATE)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
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
CHUNK = 256  # queries whose nearness to the pool is held at once
K1, B = 1.5, 0.75  # Robertson and Zaragoza 2009


def joined(example: Example) -> str:
    """The text that stands for an example: a pair's two texts with a space between them (LM-BFF's code)."""
    return " ".join(example.texts)


class BM25:
    """Okapi BM25 over the words of a pool of texts. Of each word only the texts that hold it are kept, with what it adds to their score."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(text.lower().split()) for text in texts]
        lengths = np.array([sum(found.values()) for found in counts], dtype=np.float64)
        self.total = len(texts)
        self.columns: dict[str, int] = {}
        for word in chain.from_iterable(counts):
            self.columns.setdefault(word, len(self.columns))
        held = np.fromiter(map(len, counts), np.int64, self.total)
        rows = np.repeat(np.arange(self.total), held)
        columns = np.fromiter((self.columns[word] for found in counts for word in found), np.int64, len(rows))
        often = np.fromiter(chain.from_iterable(found.values() for found in counts), np.float64, len(rows))
        holding = np.bincount(columns, minlength=len(self.columns))
        idf = np.log(1 + (self.total - holding + 0.5) / (holding + 0.5))
        weight = K1 * (1 - B + B * lengths / max(float(lengths.mean()), 1.0))
        added = idf[columns] * often * (K1 + 1) / (often + weight[rows])
        order = np.argsort(columns, kind="stable")
        self.rows, self.added = rows[order], added[order]
        self.ends = np.concatenate([[0], np.cumsum(holding)])

    def scores(self, query: str) -> np.ndarray:
        """sum over the query's words w of idf(w) f (k1 + 1) / (f + k1 (1 - b + b length / mean length)): [texts]."""
        found = np.zeros(self.total)
        for column in (self.columns[word] for word in query.lower().split() if word in self.columns):
            its = slice(self.ends[column], self.ends[column + 1])
            found[self.rows[its]] += self.added[its]  # a text holds a word once, so that no row comes twice
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


def nearest(scores: np.ndarray, k: int, classes: np.ndarray, excluded: Sequence[int], per_class: bool) -> list[int]:
    """The ``k`` rows of highest score (of each of ``classes`` [rows], with ``per_class``), nearest first, ties by number; ``excluded``
    rows aside.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isin(order, excluded)] if len(excluded) else order
    if per_class:
        ordered = classes[order]
        order = order[np.sort(np.concatenate([np.flatnonzero(ordered == c)[:k] for c in np.unique(classes)]))]
    return [int(i) for i in (order if per_class else order[:k])]


class Neighbors:
    """Demonstrations for each query: the rows of ``pool`` most like it, by BM25, or by embeddings where there is an ``embedder``."""

    def __init__(
        self, pool: Sequence[Example], labels: Sequence[Any], k: int, per_class: bool, metric: Metric, embedder: tuple[Backbone, ...]
    ) -> None:
        self.pool, self.labels, self.k, self.per_class, self.metric = pool, labels, k, per_class, metric
        self.embedder = embedder
        number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        self._classes = np.array([number[label] for label in labels], dtype=np.int64)
        self._same: dict[tuple[str, ...], list[int]] = {}
        for i, row in enumerate(pool):
            self._same.setdefault(row.texts, []).append(i)
        self.words = None if embedder else BM25([joined(e) for e in pool])

    @property
    def most(self) -> int:
        """How many rows are found for a query that is none of them."""
        return sum(min(self.k, count) for count in Counter(self.labels).values()) if self.per_class else min(self.k, len(self.pool))

    def of(self, examples: Sequence[Example], embeddings: Tensor | None) -> Iterator[tuple[int, ...]]:
        """Numbers of the rows for each of ``examples``, nearest first. A row with the query's own texts is never among them."""
        for example, scores in zip(examples, self._scores([joined(e) for e in examples], embeddings), strict=True):
            yield tuple(nearest(scores, self.k, self._classes, self._same.get(example.texts, []), self.per_class))

    def _scores(self, texts: Sequence[str], embeddings: Tensor | None) -> Iterator[np.ndarray]:
        """How near the pool is to each of ``texts``: [pool] each, of some at a time."""
        if self.words is not None:
            yield from map(self.words.scores, texts)
        elif texts:
            assert embeddings is not None  # of the pool, measured before anything was asked
            pool = embeddings.cpu()
            for queries in embedded(self.embedder[0], texts).split(CHUNK):
                yield from nearness(pool, queries, self.metric).numpy()
