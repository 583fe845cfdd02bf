"""The search for label words on logits and states that are at hand: LM-BFF, PETAL and AutoPrompt. Plain functions of tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    import numpy as np

CHUNK = 4096  # assignments scored at once
RESTARTS = 8
SWEEPS = 20  # an ascent ends long before
Score = Callable[[Tensor], Tensor]  # assignments [some, classes] of token ids -> a score each [some]


class Assignment(NamedTuple):
    """A token for each class, in class order, and how well it does on the training rows."""

    score: float
    ids: tuple[int, ...]


def likeliest(logits: Tensor, targets: Tensor, classes: int, allowed: Sequence[int], k: int) -> list[list[int]]:
    """The ``k`` tokens of ``allowed`` with the largest mean logit over the rows of each class, best first.

    Mean logit and mean log probability rank tokens alike: the normalizer of a row is the same for all. ``logits`` [rows, vocabulary].
    """
    ids = torch.tensor(list(allowed))
    means = [logits[targets == c][:, ids].mean(0) for c in range(classes)]
    return [ids[mean.topk(min(k, len(ids))).indices].tolist() for mean in means]


def nearest(matrix: Tensor, token: int, ids: Sequence[int], k: int) -> list[int]:
    """The ``k`` of ``ids`` whose output vectors [vocabulary, width] have the largest cosine to that of ``token``."""
    chosen = torch.tensor(list(ids))
    near = F.cosine_similarity(matrix[chosen].float(), matrix[token].float().unsqueeze(0))
    return chosen[near.topk(min(k, len(chosen))).indices].tolist()


def accuracy_of(logits: Tensor, targets: Tensor) -> Score:
    """Zero-shot accuracy of assignments: the class whose token has the largest logit. One token for two classes scores -1."""

    def score(assignments: Tensor) -> Tensor:
        right = logits[:, assignments].argmax(-1) == targets.unsqueeze(1)
        return torch.where(_distinct(assignments), right.float().mean(0), -1.0)

    return score


def pearson_of(logits: Tensor, values: Tensor) -> Score:
    """Pearson correlation of ``values`` [rows] with p_high = softmax(low, high)_high, of assignments (low, high)."""
    y = values.float() - values.float().mean()

    def score(assignments: Tensor) -> Tensor:
        pair = logits[:, assignments]
        p = (pair[..., 1] - pair[..., 0]).sigmoid()
        p = p - p.mean(0)
        found = (p * y.unsqueeze(1)).sum(0) / (p.norm(dim=0) * y.norm()).clamp(min=1e-12)
        return torch.where(_distinct(assignments), found, -1.0)

    return score


def _distinct(assignments: Tensor) -> Tensor:
    ordered = assignments.sort(-1).values
    return (ordered[:, 1:] != ordered[:, :-1]).all(-1)


def best_assignments(
    candidates: Sequence[Sequence[int]], score: Score, n: int, limit: int = 5_000_000, rng: np.random.Generator | None = None
) -> list[Assignment]:
    """The ``n`` best assignments, best first, ties in the order of the candidates.

    All of the product of the candidates are scored where there are at most ``limit``; beyond that coordinate ascent looks for them.
    """
    if math.prod(map(len, candidates)) > limit:
        return ascent(candidates, score, n, rng)
    found: list[Assignment] = []
    product = itertools.product(*candidates)
    for chunk in iter(lambda: list(itertools.islice(product, CHUNK)), []):
        found = _merged(found, _scored(chunk, score, n), n)
    return found


def _scored(chunk: Sequence[tuple[int, ...]], score: Score, n: int) -> list[Assignment]:
    scores = score(torch.tensor(chunk))
    order = scores.sort(descending=True, stable=True).indices[:n].tolist()
    return [Assignment(float(scores[i]), tuple(chunk[i])) for i in order]


def _merged(a: list[Assignment], b: list[Assignment], n: int) -> list[Assignment]:
    return sorted([*a, *b], key=lambda found: -found.score)[:n]


def ascent(candidates: Sequence[Sequence[int]], score: Score, n: int, rng: np.random.Generator | None) -> list[Assignment]:
    """Coordinate ascent: class by class the best word beside the others' as they are, until nothing changes; from the likeliest words
    and from `RESTARTS` - 1 drawn ones. All that was scored on the way counts.
    """
    found: dict[tuple[int, ...], float] = {}
    for start in _starts(candidates, rng):
        now = start
        for _ in range(SWEEPS):
            before = now
            for c, row in enumerate(candidates):
                tried = [(*now[:c], word, *now[c + 1 :]) for word in row]
                scores = score(torch.tensor(tried)).tolist()
                found |= dict(zip(tried, scores, strict=True))
                best = max(range(len(tried)), key=scores.__getitem__)
                now = tried[best] if scores[best] > found.get(now, -math.inf) else now
            if now == before:
                break
    ranked = sorted(found.items(), key=lambda item: -item[1])
    return [Assignment(value, ids) for ids, value in ranked[:n]]


def _starts(candidates: Sequence[Sequence[int]], rng: np.random.Generator | None) -> Iterator[tuple[int, ...]]:
    taken: list[int] = []
    for row in candidates:
        taken.append(next((word for word in row if word not in taken), row[0]))
    yield tuple(taken)
    for _ in range(RESTARTS - 1 if rng is not None else 0):
        assert rng is not None
        yield tuple(row[int(rng.integers(len(row)))] for row in candidates)


def llr(chances: Tensor, mine: Tensor, normalize: bool = True) -> Tensor:
    """Log-likelihood ratio of each token [tokens], from log probabilities [rows, tokens] and which rows are of the class [rows].

    s sum over its rows of (log p - log(1 - p)) + sum over the others of (log(1 - p) - log p), s = others / its rows if normalized.
    """
    against = log1mexp(chances)
    return _weighed(chances - against, against - chances, mine, normalize)


def ce(chances: Tensor, mine: Tensor, normalize: bool = True) -> Tensor:
    """Cross entropy of each token, as a score: s sum over its rows of log p + sum over the others of log(1 - p)."""
    return _weighed(chances, log1mexp(chances), mine, normalize)


def _weighed(positive: Tensor, negative: Tensor, mine: Tensor, normalize: bool) -> Tensor:
    own = mine.to(positive.dtype).unsqueeze(-1)
    scale = (1 - own).sum() / own.sum() if normalize else 1.0
    return scale * (positive * own).sum(0) + (negative * (1 - own)).sum(0)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, exact near 0 and far below; at 0 it is that of the largest number below 1."""
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    return torch.where(x > -math.log(2), (-torch.expm1(x)).log(), torch.log1p(-x.exp()))


def petal_words(
    chances: Tensor, targets: Tensor, classes: int, allowed: Sequence[int], score: Literal["llr", "ce"], words: int, candidates: int
) -> list[list[int]]:
    """The ``words`` best tokens of each class among the ``candidates`` with the largest summed log probability on its rows.

    A token that is best for several classes goes to the one where its score is largest. ``chances``: log probabilities [rows, vocabulary].
    """
    ids = torch.tensor(list(allowed))
    mine = chances[:, ids]
    ranks = torch.full((classes, len(ids)), -torch.inf)
    for c in range(classes):
        own = targets == c
        kept = mine[own].sum(0).topk(min(candidates, len(ids))).indices
        ranks[c, kept] = (llr if score == "llr" else ce)(mine[:, kept], own)
    return apart(ranks, ids, words)


def autoprompt_words(
    states: Tensor, targets: Tensor, matrix: Tensor, classes: int, allowed: Sequence[int], words: int, epochs: int, rng: np.random.Generator
) -> list[list[int]]:
    """The ``words`` tokens of each class to which a linear map of the states, trained to tell the classes, gives the largest share.

    ``states`` [rows, width] as the output matrix [vocabulary, width] reads them; the map is trained by Adam at 3e-4 in batches of 32.
    """
    linear = torch.nn.Linear(states.shape[1], classes)
    with torch.no_grad():
        bound = states.shape[1] ** -0.5
        for weight in linear.parameters():
            weight.copy_(torch.from_numpy(rng.uniform(-bound, bound, tuple(weight.shape))))
    optimizer = torch.optim.Adam(linear.parameters(), lr=3e-4)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.from_numpy(rng.permutation(len(states))).split(32):
                optimizer.zero_grad()
                F.cross_entropy(linear(states[rows]), targets[rows]).backward()
                optimizer.step()
    ids = torch.tensor(list(allowed))
    shares = (linear.weight.detach() @ matrix[ids].float().T).softmax(0)
    return apart(shares, ids, words)


def apart(ranks: Tensor, ids: Tensor, words: int) -> list[list[int]]:
    """The ``words`` ids of each class with the largest rank [classes, ids]; each id serves only the class that ranks it highest."""
    mine = ranks.argmax(0) == torch.arange(len(ranks)).unsqueeze(1)
    own = ranks.masked_fill(~mine, -torch.inf)
    best = own.topk(min(words, len(ids)))
    return [ids[i[s > -torch.inf]].tolist() for s, i in zip(best.values, best.indices, strict=True)]
