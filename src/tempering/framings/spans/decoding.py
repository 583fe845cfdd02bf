"""From chances of tags to tags that make sense together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tempering.tags import Scheme, may_follow, repaired, scheme_of

Decoding = Literal["viterbi", "repair", "free"]
Floats = NDArray[np.float64]
NEVER = -1e30  # the log-chance of what a scheme forbids: finite, so that a text where all is forbidden still has a best way


class Steps:
    """Which of ``labels`` may begin a text, follow each other, and end it: log-chances 0 or `NEVER`."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.scheme: Scheme = scheme_of(labels)
        self.free = self.scheme in ("plain", "IO")
        if not self.free:
            self.begin = np.array([self._cost(None, tag) for tag in labels])
            self.end = np.array([self._cost(tag, None) for tag in labels])
            self.between = np.array([[self._cost(a, b) for b in labels] for a in labels])

    def _cost(self, before: str | None, tag: str | None) -> float:
        return 0.0 if may_follow(before, tag, self.scheme) else NEVER

    def best(self, logs: Floats, decoding: Decoding = "viterbi") -> list[int]:
        """The classes [words] of log-chances [words, classes].

        ``viterbi``: the likeliest sequence that the scheme allows (Viterbi 1967, with no weights of its own). ``repair``: the likeliest
        tag of each word, and what breaks the scheme put right as conlleval reads it. ``free``: the likeliest tag of each word.
        """
        if self.free or decoding == "free" or not len(logs):
            return [int(i) for i in logs.argmax(-1)]
        if decoding == "repair":
            index = {tag: i for i, tag in enumerate(self.labels)}
            return [index[tag] for tag in repaired([self.labels[i] for i in logs.argmax(-1)], self.scheme)]
        return self._viterbi(logs)

    def _viterbi(self, logs: Floats) -> list[int]:
        score, back = self.begin + logs[0], []
        for row in logs[1:]:
            ways = score[:, None] + self.between
            back.append(ways.argmax(0))
            score = ways.max(0) + row
        path = [int((score + self.end).argmax())]
        for step in reversed(back):
            path.append(int(step[path[-1]]))
        return path[::-1]
