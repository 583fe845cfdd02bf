"""Stretches of words that may be an entity: all up to a length, a sample of those that are none, and which of them stay together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tempering.contracts import Prompt
from tempering.framings.made import Made
from tempering.framings.spans.windows import Range

Stretch = tuple[int, int]  # words first .. last (not included) of a text
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sentence:
    """A text to find entities in: its ``words`` in characters, the ``tokens`` of each word of ``total``, its row in the data.

    ``entities`` are the stretches that are one, with their class (1 .. types); None where the text is not labelled.
    """

    text: str
    words: tuple[Range, ...]
    tokens: tuple[Range, ...]
    total: int
    row: int
    entities: Mapping[Stretch, int] | None = field(default=None, hash=False)

    def says(self, stretch: Stretch) -> str:
        """The text of a stretch."""
        first, last = stretch
        return self.text[self.words[first][0] : self.words[last - 1][1]]

    def size(self, stretch: Stretch) -> int:
        """The tokens of a stretch."""
        first, last = stretch
        return self.tokens[last - 1][1] - self.tokens[first][0]

    def around(self, stretch: Stretch, room: int) -> str:
        """The text; where its tokens are more than ``room``, as many words on both sides of ``stretch`` as fit."""
        if self.total <= room:
            return self.text
        first, last = stretch
        begin, end = self.tokens[first][0], self.tokens[last - 1][1]
        low = min(max(0, begin - max(0, room - (end - begin)) // 2), max(0, self.total - room))
        inside = [w for w, (a, b) in enumerate(self.tokens) if a >= low and b <= low + room]
        return self.says((min([first, *inside]), max([last, *(w + 1 for w in inside)])))


def stretches(words: int, most: int) -> list[Stretch]:
    """All stretches of 1 to ``most`` of so many words, by where they begin, the shorter first."""
    return [(i, j) for i in range(words) for j in range(i + 1, min(i + most, words) + 1)]


def how_many(words: int, most: int) -> int:
    """How many `stretches` gives: n k - k (k - 1) / 2 with k = min(most, n)."""
    k = min(most, words)
    return words * k - k * (k - 1) // 2


class SpanWalk(Made[Prompt]):
    """What an epoch goes through: every entity of at most ``most`` words, and ``negatives`` times as many stretches that are none.

    Those are drawn over all texts together, each stretch as likely as another and none twice, anew for every epoch (`draw`). Prompts
    are made by ``lay`` as they are asked for; ``size`` says how long one is, without making it.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        lay: Callable[[Sentence, Stretch], Prompt],
        size: Callable[[Sentence, Stretch], int],
        most: int,
        negatives: float,
    ) -> None:
        self._sentences, self._lay, self._size, self._most = sentences, lay, size, most
        self.true = [(s, x) for s in sentences for x in sorted(s.entities or {}) if x[1] - x[0] <= most]
        known = [sum(x[1] - x[0] <= most for x in s.entities or {}) for s in sentences]
        self._ends = np.cumsum([how_many(len(s.words), most) - n for s, n in zip(sentences, known, strict=True)], dtype=np.int64)
        self.others = int(self._ends[-1]) if len(self._ends) else 0
        self.share = min(self.others, round(negatives * len(self.true)))
        self._drawn = np.zeros(0, np.int64)
        self.draw(np.random.default_rng(0))

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the stretches that are no entity anew."""
        self.__dict__.pop("lengths", None)
        if self.share:
            self._drawn = rng.choice(self.others, self.share, replace=False)

    def __len__(self) -> int:
        return len(self.true) + self.share

    def at(self, index: int) -> tuple[Sentence, Stretch]:
        """The text and the stretch of a number: first the entities, then those drawn."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index < len(self.true):
            return self.true[index]
        number = int(self._drawn[index - len(self.true)])
        place = int(np.searchsorted(self._ends, number, side="right"))
        sentence = self._sentences[place]
        none = [x for x in stretches(len(sentence.words), self._most) if x not in (sentence.entities or {})]
        return sentence, none[number - (int(self._ends[place - 1]) if place else 0)]

    def make(self, index: int) -> Prompt:
        """The prompt of a number."""
        return self._lay(*self.at(index))

    @cached_property
    def lengths(self) -> list[int]:
        """What each prompt is grouped by."""
        return [self._size(*self.at(i)) for i in range(len(self))]


def apart(found: Sequence[Stretch], chances: Floats) -> list[int]:
    """Which of ``found`` are entities: those whose likeliest class in ``chances`` [stretches, 1 + types] is a type, the surest first, but
    none that shares a word with one taken before. Of equally sure ones the earlier is taken, of those the longer. In order of the text.
    """
    best = chances.max(-1)
    named = [i for i in range(len(found)) if chances[i].argmax() > 0]
    taken: list[int] = []
    for i in sorted(named, key=lambda i: (-best[i], found[i][0], -found[i][1])):
        if all(disjoint(found[i], found[j]) for j in taken):
            taken.append(i)
    return sorted(taken, key=lambda i: found[i])


def disjoint(a: Stretch, b: Stretch) -> bool:
    """Whether two stretches share no word."""
    return a[1] <= b[0] or b[1] <= a[0]


def speaks_for(words: int, found: Sequence[Stretch], chances: Floats, taken: Sequence[int]) -> list[int]:
    """For each word the stretch that tells what it is: the entity it belongs to; for the other words, of those stretches over it that
    meet no entity, the one that is likeliest to be something.
    """
    chosen = [-1] * words
    free = [i for i in range(len(found)) if all(disjoint(found[i], found[j]) for j in taken)]
    for i in [*taken, *sorted(free, key=lambda i: (chances[i, 0], found[i]))]:
        for word in range(*found[i]):
            chosen[word] = i if chosen[word] < 0 else chosen[word]
    return chosen
