"""What a prompt makes a model say whatever it is asked, taken off its answers. All in log space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Calibration = Literal["none", "contextual", "additive", "domain", "batch"]
SAMPLES = 20  # Fei et al. 2023: texts of random in-domain words
CANDIDATES = 100  # tokens that may begin an answer, as in the code of Zhao et al. 2021
ROWS = 256  # training texts whose answers batch calibration averages


def content_free(log_probabilities: Tensor, how: Literal["mean", "min"] = "mean") -> Tensor:
    """log p_cf [classes] from those of content-free inputs [inputs, classes].

    Formula: p_cf = mean over inputs (Zhao et al. 2021), or their minimum (its form for generation), normalized to sum to 1.
    """
    floor = torch.finfo(log_probabilities.dtype).min / 4  # a class never said: its log-probability may be -inf
    given = log_probabilities.clamp_min(floor)
    found = given.logsumexp(0) - np.log(len(given)) if how == "mean" else given.amin(0)
    return found.log_softmax(-1)


def diagonal(log_probabilities: Tensor, prior: Tensor) -> Tensor:
    """W = diag(p_cf)^-1, b = 0: q = p / p_cf, normalized. [rows, classes] -> [rows, classes] in logs."""
    return (log_probabilities - prior).log_softmax(-1)


def additive(log_probabilities: Tensor, prior: Tensor) -> Tensor:
    """W = I, b = -p_cf: q = p - p_cf, as logits: the decision is that of q, which may be negative and so is no probability."""
    return log_probabilities.exp() - prior.exp()


def remaining(log_probabilities: Tensor, prior: Tensor, k: int = CANDIDATES) -> Tensor:
    """log max(p - p_cf, 0) [rows, vocabulary]: the decision of `additive`, to choose or draw a token by.

    Only the ``k`` likeliest tokens of a row are candidates, and both p and p_cf sum to 1 over them: over a whole vocabulary hardly any of
    p_cf falls on what a row may say, and nothing would be taken off. A row that is nowhere above p_cf is left as it is.
    """
    p, ids = log_probabilities.topk(min(k, log_probabilities.shape[-1]))
    anyway = prior.expand_as(log_probabilities).gather(-1, ids)
    left = additive(p.log_softmax(-1), anyway.log_softmax(-1)).clamp_min(0)
    spread = torch.full_like(log_probabilities, -torch.inf).scatter(-1, ids, left.log())
    return torch.where((left > 0).any(-1, keepdim=True), spread, log_probabilities)


def random_texts(texts: Sequence[str], rng: np.random.Generator, count: int = SAMPLES) -> list[str]:
    """Texts of words drawn at random from ``texts``, as many words each as ``texts`` have on average (Fei et al. 2023)."""
    words = [word for text in texts for word in text.split()]
    if not words:
        return [""] * count
    length = max(1, round(len(words) / len(texts)))
    return [" ".join(words[i] for i in rng.integers(len(words), size=length)) for _ in range(count)]
