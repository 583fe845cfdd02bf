"""One beam over token sequences that all training examples share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Aggregate = Literal["mean_logprob", "mean_logits"]
Next = Callable[[tuple[int, ...]], Tensor]  # what was written so far -> log-probabilities of the next token [vocabulary]
NEVER: frozenset[int] = frozenset()


class Hypothesis(NamedTuple):
    """Tokens written, their aggregated log-probability, and how many parts have ended."""

    ids: tuple[int, ...]
    score: float
    parts: int


def aggregated(logits: Tensor, how: Aggregate = "mean_logprob") -> Tensor:
    """Logits of the next token for every example [examples, vocabulary] -> what all of them say together [vocabulary].

    "mean_logprob": mean over examples of log softmax (LM-BFF's paper sums). "mean_logits": log softmax of the mean logits, as its code
    has it: after one prefix the order of tokens is the same, and between prefixes it is not.
    """
    logits = logits.float()
    return logits.log_softmax(-1).mean(0) if how == "mean_logprob" else logits.mean(0).log_softmax(-1)


def shared_beam(
    following: Next,
    ends: Sequence[frozenset[int]],
    banned: frozenset[int] = NEVER,
    stops: frozenset[int] = NEVER,
    beam: int = 100,
    steps: int = 18,
) -> list[Hypothesis]:
    """The ``beam`` best token sequences of at most ``steps`` tokens, best first; no score is divided by length.

    A part ends with a token of ``ends[part]``, and a sequence with its last part. ``banned`` tokens are written only where they end the
    part; no two tokens of ``stops`` follow each other. Each sequence is continued by its ``beam`` + 3 likeliest tokens.
    """
    live = [Hypothesis((), 0.0, 0)]
    for _ in range(steps):
        if all(h.parts == len(ends) for h in live):
            break
        grown = [new for h in live for new in ([h] if h.parts == len(ends) else _continued(h, following, ends, banned, stops, beam))]
        if not grown:
            break
        live = sorted(grown, key=lambda h: -h.score)[:beam]
    return live


def _continued(
    h: Hypothesis, following: Next, ends: Sequence[frozenset[int]], banned: frozenset[int], stops: frozenset[int], beam: int
) -> list[Hypothesis]:
    logs = following(h.ids).clone()
    barred = [i for i in banned - ends[h.parts] if i < len(logs)]
    if h.ids and h.ids[-1] in stops:
        barred += list(stops)
    logs[torch.tensor(barred, dtype=torch.int64)] = -torch.inf
    best = logs.topk(min(beam + 3, len(logs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [Hypothesis((*h.ids, i), h.score + log, h.parts + (i in ends[h.parts])) for i, log in pairs if log > -torch.inf]
