"""Steps of decoding that transformers 5 has not, or runs only with code from the hub: words that must occur, beams that part, guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

Words = Sequence[Sequence[Sequence[int]]]  # of every text that must occur, the ways to write it in tokens


class MustInclude(LogitsProcessor):
    """No text ends before it holds every one of ``words``.

    ``begin`` is where written tokens start, ``room`` how many there may be. While a text is missing, ``end`` is barred and the next
    token of each missing one gains ``bonus``; once the room left is what the missing ones need (and the end), they are written.
    """

    def __init__(self, words: Words, end: int, begin: int, room: int, bonus: float) -> None:
        self.words = [[tuple(int(t) for t in way) for way in ways if len(way)] for ways in words]
        self.end, self.begin, self.room, self.bonus = end, begin, room, bonus

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, vocabulary] after ``input_ids`` [rows, length]."""
        scores = scores.clone()
        for i, row in enumerate(input_ids[:, self.begin :].tolist()):
            missing = [_best(ways, row) for ways in self.words if not any(_occurs(way, row) for way in ways)]
            if not missing or self.end in row:
                continue
            if self.room - len(row) <= sum(len(way) - done for way, done in missing) + 1:
                way, done = max(missing, key=lambda found: found[1])
                only = scores[i, way[done]].nan_to_num(neginf=0.0).clone()
                scores[i] = -torch.inf
                scores[i, way[done]] = only
                continue
            scores[i, self.end] = -torch.inf
            for way, done in missing:
                scores[i, way[done]] += self.bonus
        return scores


def _occurs(way: tuple[int, ...], row: list[int]) -> bool:
    return any(tuple(row[i : i + len(way)]) == way for i in range(len(row) - len(way) + 1))


def _best(ways: list[tuple[int, ...]], row: list[int]) -> tuple[tuple[int, ...], int]:
    """The way that is furthest begun at the end of ``row``, and how far; of equals the shortest."""
    begun = [(way, max(n for n in range(len(way)) if not n or tuple(row[-n:]) == way[:n])) for way in ways]
    return min(begun, key=lambda found: (-found[1], len(found[0])))


class StopAt(StoppingCriteria):
    """A row is done once the text of what was written since ``begin`` holds one of ``stops``."""

    def __init__(self, stops: Sequence[str], decode: Callable[[list[int]], str], begin: int) -> None:
        self.stops, self.decode, self.begin = tuple(stops), decode, begin

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **_: object) -> Tensor:
        """Which rows are done [rows]."""
        texts = (self.decode(row) for row in input_ids[:, self.begin :].tolist())
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts], device=input_ids.device)


class PartSiblings(LogitsProcessor):
    """The k-th best token after a beam (k = 0, 1 ...) loses k times ``penalty``, for the best 2 ``beams`` of them; the rest lose as many.

    A search then keeps fewer continuations of one and the same beam. The first tokens are no siblings: ``begin`` is where they stand.
    """

    def __init__(self, penalty: float, beams: int, begin: int) -> None:
        self.penalty, self.reach, self.begin = penalty, 2 * beams, begin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, vocabulary]."""
        if input_ids.shape[1] <= self.begin:
            return scores
        reach = min(self.reach, scores.shape[-1])
        best = scores.topk(reach, -1).indices
        lost = torch.full_like(scores, self.penalty * reach)
        lost.scatter_(1, best, self.penalty * torch.arange(reach, device=scores.device, dtype=scores.dtype).expand(len(scores), -1))
        return scores - lost


class Guidance(LogitsProcessor):
    """log P(. | nothing) + ``scale`` (log P(. | source) - log P(. | nothing)).

    ``without`` [rows, length] -> [rows, vocabulary] gives the logits after what is written where the source says nothing; it is computed
    from the start at every step, as beams change places.
    """

    def __init__(self, scale: float, without: Callable[[Tensor], Tensor], begin: int) -> None:
        self.scale, self.without, self.begin = scale, without, begin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, vocabulary]."""
        given = scores.log_softmax(-1)
        nothing = self.without(input_ids[:, self.begin :]).log_softmax(-1)
        return nothing + self.scale * (given - nothing)
