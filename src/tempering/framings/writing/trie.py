"""Which tokens may come next when only some texts are allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor


class Allowed(Protocol):
    """What may follow the tokens written so far."""

    def after(self, written: Sequence[int]) -> list[int]:
        """The next tokens; none where ``written`` is complete, or leads nowhere."""


class Trie:
    """Sequences that each end in a token that no other place has (the end of the text), as a tree of tokens."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.root: dict[int, dict] = {}  # type: ignore[type-arg]  # a tree of such
        for sequence in sequences:
            node = self.root
            for token in sequence:
                node = node.setdefault(int(token), {})

    def after(self, written: Sequence[int]) -> list[int]:
        """The children of the node that ``written`` leads to."""
        node = self.root
        for token in written:
            if int(token) not in node:
                return []
            node = node[int(token)]
        return list(node)


class Stretches:
    """Any stretch of ``source``, or one of ``others``, each followed by ``end`` and, where every text ``begins`` so, after that."""

    def __init__(self, source: Sequence[int], others: Sequence[Sequence[int]], end: int, begins: Sequence[int] = ()) -> None:
        self.source = [int(t) for t in source]
        self.others = Trie([[*other, end] for other in others])
        self.end = end
        self.begins = [int(t) for t in begins]

    def after(self, written: Sequence[int]) -> list[int]:
        """The tokens that follow ``written`` somewhere in the source, and the end once something is written."""
        first = len(self.begins)
        if len(written) < first:
            return [self.begins[len(written)]]
        done = [int(t) for t in written[first:]]
        if done and done[-1] == self.end:
            return []
        n = len(done)
        follow = {self.source[i + n] for i in range(len(self.source) - n) if self.source[i : i + n] == done}
        ended = {self.end} if n and any(self.source[i : i + n] == done for i in range(len(self.source) - n + 1)) else set()
        return sorted(follow | ended | set(self.others.after(done)))


def allowing(tries: Sequence[Allowed], begin: int, over: int, each: int = 1) -> Callable[[int, Tensor], list[int]]:
    """transformers' ``prefix_allowed_tokens_fn``: the trie of each row, read from position ``begin``; ``over`` follows what is complete.

    Of ``each`` texts that are drawn for a row transformers counts every one as a row.
    """

    def allowed(row: int, ids: Tensor) -> list[int]:
        return tries[row // each].after(ids[begin:].tolist()) or [over]

    return allowed
