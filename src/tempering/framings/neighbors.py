"""Sentences drawn from plain texts: one and the next, another of the same text, those of other texts."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING

from tempering.framings.sentence_order import parts_of

if TYPE_CHECKING:
    import numpy as np

RELATIONS = ("no", "maybe", "yes")  # of another text; of the same text, but not the next one; the next one
TRIES = 32  # draws for a sentence of another text before one that was seen, or a copy of the same text, has to do


class Pool:
    """Texts that sentences of other texts are drawn from; each is cut into sentences when it is first drawn."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self._parts: dict[int, list[str]] = {}

    def draw(self, text: str, count: int, rng: np.random.Generator) -> list[str]:
        """``count`` sentences of texts other than ``text``, all different as long as there are enough. Copies of ``text`` count as it."""
        known: dict[int, str] = {}
        for _ in range(TRIES * count):
            if len(known) == count:
                break
            at = int(rng.integers(len(self.texts)))
            if at not in known and self.texts[at] != text:
                known[at] = self._sentence(at, rng)
        rest = list(known) or range(len(self.texts))
        return [*known.values(), *(self._sentence(rest[int(rng.integers(len(rest)))], rng) for _ in range(count - len(known)))]

    def _sentence(self, at: int, rng: np.random.Generator) -> str:
        parts = self._parts.setdefault(at, parts_of(self.texts[at]))
        return parts[int(rng.integers(len(parts)))]


def related(text: str, pool: Pool, rng: np.random.Generator) -> tuple[tuple[str, str], str]:
    """(two sentences, the first of them of ``text``; how the second stands to it), all three relations with the same chance."""
    parts = parts_of(text)
    label, n = RELATIONS[int(rng.integers(len(RELATIONS)))], len(parts)
    if label == "no" and len(pool.texts) == 1:  # a single text that is evaluated
        label = "maybe"
    if label == "no":
        return (parts[int(rng.integers(n))], pool.draw(text, 1, rng)[0]), label
    if label == "yes":
        at = int(rng.integers(n - 1))
        return (parts[at], parts[at + 1]), label
    i, j = other_pair(int(rng.integers((n - 1) ** 2)), n)
    return (parts[i], parts[j]), label


def other_pair(k: int, n: int) -> tuple[int, int]:
    """The ``k``-th of the (n - 1)^2 pairs (i, j) of numbers below ``n`` with j neither i nor i + 1."""
    if k >= (n - 1) * (n - 2):
        return n - 1, k - (n - 1) * (n - 2)
    i, j = divmod(k, n - 2)
    return i, j + 2 * (j >= i)


def chosen(text: str, pool: Pool, count: int, rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    """(a sentence of ``text`` and ``count`` others in a drawn order; the letter of the one that follows it)."""
    parts = parts_of(text)
    at = int(rng.integers(len(parts) - 1))
    near = [i for i in range(len(parts)) if i not in (at, at + 1)]
    same = [parts[near[int(rng.integers(len(near)))]]] if near and count > 2 else []
    listed = [parts[at + 1], *same, *pool.draw(text, count - 1 - len(same), rng)]
    order = rng.permutation(count).tolist()
    return (parts[at], *(listed[i] for i in order)), ascii_uppercase[order.index(0)]
