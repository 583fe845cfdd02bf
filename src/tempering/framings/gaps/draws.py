"""Which training examples stand beside a query: those of each class that are most like it, and a draw among them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from tempering.contracts import Example

Rows = np.ndarray[Any, np.dtype[np.int64]]
CHUNK = 256  # queries whose similarities are held at once


def kept(candidates: int, classes: int, share: float) -> int:
    """floor(floor(N / C) share), and at least one: how many of each class the filter lets through (LM-BFF)."""
    return max(1, math.floor(candidates // classes * share + 1e-9))


@dataclass
class Pool:
    """The examples that may be shown, with the class of each; ``vectors`` [examples, dim] of length one where there is a filter."""

    examples: Sequence[Example]
    classes: Sequence[int]
    count: int
    _same: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for i, example in enumerate(self.examples):
            self._same.setdefault(example.texts, []).append(i)
        marks = np.asarray(self.classes, dtype=np.int64)
        self._by_class: list[Rows] = [np.flatnonzero(marks == c) for c in range(self.count)]

    def candidates(self, query: Example) -> list[Rows]:
        """Of each class the examples that do not say what the query says."""
        same = self._same.get(query.texts)
        return self._by_class if same is None else [np.setdiff1d(rows, same) for rows in self._by_class]

    def alike(self, query: Example, likeness: Tensor | None, share: float | None) -> list[Rows]:
        """Of each class the candidates that the filter lets through, by ``likeness`` [examples] to the query."""
        found = self.candidates(query)
        if likeness is None or share is None:
            return found
        most = kept(sum(map(len, found)), self.count, share)
        said = likeness.numpy()
        return [np.sort(rows[np.argsort(-said[rows], kind="stable")[:most]]) for rows in found]

    def draw(self, found: Sequence[Rows], per_class: int, shots: int | None, rng: np.random.Generator) -> list[list[int]]:
        """Examples in rounds: of each class one a round, in the order of the classes; with ``shots`` so many of any class, one a round."""
        if shots is not None:
            every = np.concatenate(list(found))
            return [[int(i)] for i in rng.permutation(every)[:shots]]
        drawn = [rng.permutation(rows)[:per_class] for rows in found]
        return [[int(rows[i]) for rows in drawn if i < len(rows)] for i in range(per_class)]


def likenesses(queries: Tensor, vectors: Tensor) -> Iterator[Tensor]:
    """Cosine of each query with every example [examples], both of length one; never more than those of `CHUNK` queries are held."""
    for part in queries.split(CHUNK):
        yield from part @ vectors.T
