"""Pairs of rows by number: any of the n (n + 1) / 2 is found from its number, so that none has to be listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tempering.contracts import Prompt
from tempering.framings.made import Made

Strategy = Literal["oversampling", "undersampling", "unique"]
Numbers = NDArray[np.int64]
ROUNDS = 6  # of the permutation below
_MIX = np.uint64(0x9E3779B97F4A7C15)


def permuted(numbers: Numbers, size: int, key: int) -> Numbers:
    """Where a permutation of 0 .. size - 1, chosen by ``key``, takes ``numbers``: a Feistel network, which needs no memory.

    It permutes the next power of four; what lands outside is sent on until it lies inside (cycle walking), fewer than 4 times on average.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    keys = np.random.Generator(np.random.SFC64(key)).integers(0, 1 << 63, ROUNDS, dtype=np.uint64)
    found = numbers.astype(np.uint64)
    outside = np.ones(len(found), bool)
    while outside.any():
        x = found[outside]
        left, right = x >> shift, x & mask
        for k in keys:
            mixed = (right + k) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        found[outside] = (left << shift) | right
        outside = found >= size
    return found.astype(np.int64)


class PairNumbers:
    """Positive pairs (i <= j, of one class, a row with itself among them) and negative ones (of two classes) of rows with ``classes``.

    Rows are laid out class by class. The row at place p of a class that ends before place e is the first of e - p positive pairs, with the
    places p .. e - 1, and of n - e negative ones, with the places e .. n - 1: two running sums of n numbers find any pair.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        known = np.asarray(classes, dtype=np.int64)
        self._rows: Numbers = np.argsort(known, kind="stable").astype(np.int64)
        self._ends: Numbers = np.searchsorted(known[self._rows], known[self._rows], side="right").astype(np.int64)
        places = np.arange(len(known))
        self._positive = np.cumsum(self._ends - places)
        self._negative = np.cumsum(len(known) - self._ends)
        self.positives, self.negatives = (int(x[-1]) if len(x) else 0 for x in (self._positive, self._negative))

    def positive(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """The rows of positive pairs 0 .. ``positives`` - 1."""
        place, offset = _found(self._positive, numbers)
        return self._rows[place], self._rows[place + offset]

    def negative(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """The rows of negative pairs 0 .. ``negatives`` - 1."""
        place, offset = _found(self._negative, numbers)
        return self._rows[place], self._rows[self._ends[place] + offset]


def _found(sums: Numbers, numbers: Numbers) -> tuple[Numbers, Numbers]:
    """(place whose pairs hold each number, which of them it is)."""
    place = np.searchsorted(sums, numbers, side="right")
    return place, numbers - np.where(place > 0, sums[place - 1], 0)


class PairWalk(Made[Prompt]):
    """The pairs of an epoch as prompts, made as they are asked for: ``prompts`` are the rows, with their class as target.

    Number k below ``share`` is a positive pair, the others are negative. ``extra`` of a prompt is the prompt of its second text.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        strategy: Strategy = "oversampling",
        num_iterations: int | None = None,
        max_pairs: int | None = None,
        positives_only: bool = False,
    ) -> None:
        self._prompts = prompts
        self.pairs = PairNumbers([p.target for p in prompts])
        self._keys = (0, 0)
        p, n = self.pairs.positives, 0 if positives_only else self.pairs.negatives
        if num_iterations is not None:
            share, rest = num_iterations * len(prompts), num_iterations * len(prompts) * (n > 0)
        elif strategy == "unique" or n == 0:
            share, rest = p, n
        else:
            share = rest = max(p, n) if strategy == "oversampling" else min(p, n)
        if max_pairs is not None and share + rest > max_pairs:
            share = max(1, round(max_pairs * share / (share + rest)))
            rest = min(rest, max_pairs - share)
        self.share, self._size = share, share + rest

    def __len__(self) -> int:
        return self._size

    def rows(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """The two rows of each pair. A kind with fewer pairs than its share goes round."""
        first, second = np.empty_like(numbers), np.empty_like(numbers)
        kinds = (self.pairs.positive, self.pairs.positives, numbers < self.share), (self.pairs.negative, self.pairs.negatives, None)
        for (rows_of, count, mine), key, start in zip(kinds, self._keys, (0, self.share), strict=True):
            chosen = numbers >= self.share if mine is None else mine
            if chosen.any():
                first[chosen], second[chosen] = rows_of(permuted((numbers[chosen] - start) % count, count, key))
        return first, second

    def make(self, index: int) -> Prompt:
        """The pair of a number, as a prompt."""
        first, second = self.rows(np.array([index]))
        return replace(self._prompts[int(first[0])], extra=self._prompts[int(second[0])])

    def batches(self, size: int, rng: np.random.Generator) -> Batches:
        """All pairs in batches of ``size`` numbers, in an order of this epoch's own; the choice among pairs is drawn anew, too."""
        order, *keys = (int(k) for k in rng.integers(0, 1 << 62, 3))
        self._keys = (keys[0], keys[1])
        return Batches(len(self), size, order)


class Batches(Made[Numbers]):
    """Numbers 0 .. ``total`` - 1, shuffled by ``key`` and cut into batches of ``size``, each made as it is asked for."""

    def __init__(self, total: int, size: int, key: int) -> None:
        self.total, self.size, self.key = total, size, key

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def make(self, index: int) -> Numbers:
        """The numbers of a batch."""
        start = index * self.size
        return permuted(np.arange(start, min(start + self.size, self.total)), self.total, self.key)
