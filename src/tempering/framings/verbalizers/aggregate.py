"""From the logits of label words to class scores: the ways to take several words, and several pieces of a word, together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["mean_logit", "sum_prob", "mean_logprob_over_words", "mean_prob", "weighted", "max"]
Pieces = Literal["error", "first", "max", "mean"]


def of_pieces(logits: Tensor, pick: Tensor, real: Tensor, how: Pieces) -> Tensor:
    """Logits [rows, ids] -> a logit a word [rows, words].

    ``pick`` [words, pieces] are positions among the ids, ``real`` [words, pieces] tells pieces from padding.
    """
    each = logits[:, pick]
    if how == "max":
        return each.masked_fill(~real, -torch.inf).amax(-1)
    if how == "mean":
        return (each * real).sum(-1) / real.sum(-1)
    return each[..., 0]


def mean_logit(words: Tensor, owner: Tensor) -> Tensor:
    """Mean of the words' logits in each class [rows, classes]; ``words`` [rows, words], ``owner`` [classes, words] bool."""
    share = owner.to(words.dtype)
    return words @ (share / share.sum(-1, keepdim=True)).T


def sum_prob(words: Tensor, owner: Tensor) -> Tensor:
    """log of the sum of the words' probabilities, over all label words: the vocabulary's normalizer is the same for every class."""
    return _gathered(words.log_softmax(-1), owner).logsumexp(-1)


def mean_logprob_over_words(words: Tensor, owner: Tensor) -> Tensor:
    """Mean in each class of the words' log probabilities among all label words."""
    return mean_logit(words.log_softmax(-1), owner)


def mean_prob(words: Tensor, owner: Tensor) -> Tensor:
    """log of the mean of the words' probabilities among all label words."""
    return sum_prob(words, owner) - owner.sum(-1).to(words.dtype).log()


def largest(words: Tensor, owner: Tensor) -> Tensor:
    """The best word's log probability among all label words."""
    return _gathered(words.log_softmax(-1), owner).amax(-1)


def weighted(words: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
    """Sum in each class of a_v log p(v), a the softmax of ``weights`` [words] within the class; p among all label words."""
    shares = weights.to(words.dtype).expand_as(owner).masked_fill(~owner, -torch.inf).softmax(-1)
    return words.log_softmax(-1) @ shares.T


def _gathered(words: Tensor, owner: Tensor) -> Tensor:
    """[rows, classes, words], what a class does not own at minus infinity."""
    return words.unsqueeze(1).masked_fill(~owner, -torch.inf)


PLAIN: dict[Aggregation, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_logit": mean_logit,
    "sum_prob": sum_prob,
    "mean_logprob_over_words": mean_logprob_over_words,
    "mean_prob": mean_prob,
    "max": largest,
}


def label_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """-log of the summed probability of the tokens ``ids`` [ids] under the softmax of the vocabulary [rows, vocabulary]: [rows].

    The loss of AutoPrompt (Shin et al. 2020).
    """
    return logits.logsumexp(-1) - logits[..., ids].logsumexp(-1)
