"""The order of demonstrations: permutations, and how much one that leaves the model undecided is worth (Lu et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from tempering.framings.asked.prompt_text import Pattern

SEARCHED = ("global_entropy", "local_entropy")  # orders that are searched for
SMOOTHING = 1e-5  # added to the histogram of labels, as in the code of Lu et al.
LEAST_WORDS = 5  # a probe of fewer words is dropped


def orders_of(count: int, most: int) -> int:
    """How many different orders ``count`` things have, counted up to ``most``."""
    found = 1
    for i in range(2, count + 1):
        found *= i
        if found >= most:
            break
    return min(found, most)


def some_permutations(count: int, most: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All orders of ``count`` things, or ``most`` different ones drawn by ``rng``."""
    if orders_of(count, most + 1) <= most:
        return list(permutations(range(count)))
    found: dict[tuple[int, ...], None] = {}
    while len(found) < most:
        found[tuple(int(i) for i in rng.permutation(count))] = None
    return list(found)


def global_entropy(log_probabilities: Tensor) -> float:
    """GlobalE: the entropy, in nats, of the histogram of predicted labels over probes [probes, classes]: high where none is favored."""
    counts = torch.bincount(log_probabilities.argmax(-1), minlength=log_probabilities.shape[-1]).double()
    shares = counts / counts.sum()
    return float(entropy((shares + SMOOTHING) / (shares + SMOOTHING).sum()))


def local_entropy(log_probabilities: Tensor) -> float:
    """LocalE: the mean over probes [probes, classes] of the entropy of the predicted distribution, in nats."""
    return float(entropy(log_probabilities.double().exp()).mean())


def entropy(probabilities: Tensor) -> Tensor:
    """-sum p log p over the last dimension, in nats."""
    parts: Tensor = torch.special.entr(probabilities)
    return parts.sum(-1)


def probes(written: Sequence[str], pattern: Pattern) -> list[tuple[str, ...]]:
    """The texts of examples that a model wrote in the form of ``pattern``: in full sentences, each once. Their answers are not read.

    A text written without its answer counts too: it ends where the model stopped.
    """
    shape = _shape(pattern)
    found: dict[tuple[str, ...], None] = {}
    for text in written:
        match = shape.match(text.strip())
        texts = tuple(part.strip() for part in match.groups() if part is not None) if match else ()
        if len(texts) == 1 + pattern.pair and len(texts[0].split()) >= LEAST_WORDS:
            found[texts] = None
    return list(found)


def _shape(pattern: Pattern) -> re.Pattern[str]:
    """A pattern as a regular expression whose groups are the texts; a text ends with its line where the next literal begins one."""
    parts = []
    for i, (literal, slot) in enumerate(pattern.pieces):
        if slot == "answer" or not slot:
            break
        parts.append(re.escape(literal.strip() if i == 0 else literal).replace("\\ ", r"\s*"))
        parts.append(r"(.+?)" if _more(pattern, i) else r"([^\n]+)")
    return re.compile("".join(parts), re.DOTALL)


def _more(pattern: Pattern, i: int) -> bool:
    """Whether another text follows the ``i``-th slot."""
    return any(slot.startswith("text") for _, slot in pattern.pieces[i + 1 :])
