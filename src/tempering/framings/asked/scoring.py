"""Where an answer's tokens begin, and how their log-probabilities become one number that answers of different length can be compared by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tempering.errors import RecipeError
from tempering.framings.wrapping import Wrapping, filler

Scoring = Literal["auto", "sum", "mean", "char", "byte", "length_norm", "pmi", "channel"]


class Split(NamedTuple):
    """A context and the token tails of the answers to it. The first ``starts[i]`` tokens of ``tails[i]`` belong to the context still."""

    context: list[int]
    tails: list[list[int]]
    starts: list[int]

    @property
    def longest(self) -> int:
        """Tokens of the context with its longest answer."""
        return len(self.context) + max(map(len, self.tails))


class Lengths(NamedTuple):
    """How long the answers are: ``tokens`` [rows, answers], ``chars`` [answers], ``bytes`` [answers]."""

    tokens: Tensor
    chars: Tensor
    bytes: Tensor


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of bare texts. Special tokens that a user's text happens to spell are taken as plain text."""
    return [list(row) for row in tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def split(tokenizer: Any, wrapping: Wrapping, context: str, answers: Sequence[str]) -> Split:
    """Tokens of ``context`` followed by each of ``answers``, cut where the answer begins.

    Formula: with e(.) the encoding of a string, an answer's tokens are those of e(context + answer) after the longest prefix that it
    shares with e(context). Spaces at the end of the context go with the answer: ``"Answer:" + " Yes"``. An answer without a token of
    its own (one that spans the join, EleutherAI/lm-evaluation-harness 1053, 1297, 4055) is encoded alone. Texts are encoded bare and
    wrapped here, so that a prompt made of parts has its special tokens once.
    """
    bare = context.rstrip(" ")
    moved = context[len(bare) :]
    whole, *joined = encoded(tokenizer, [bare, *(bare + moved + answer for answer in answers)])
    shared = [common(whole, ids) for ids in joined]
    for i, answer in enumerate(answers):
        if len(joined[i]) <= shared[i]:
            joined[i], shared[i] = whole + _alone(tokenizer, moved, answer), len(whole)
    cut = min(shared)
    ids = [*wrapping.before, *whole[:cut]]
    return Split(ids or [filler(tokenizer)], [row[cut:] for row in joined], [found - cut for found in shared])


def _alone(tokenizer: Any, moved: str, answer: str) -> list[int]:
    """The tokens of an answer by itself; none of an empty one, such as the empty text that the channel calibrates with."""
    if not answer.strip():
        return []
    found = next((ids for text in (moved + answer, answer) if (ids := encoded(tokenizer, [text])[0])), None)
    if found is None:
        raise RecipeError(f"words: {answer!r} has no token in this model's vocabulary; give a word that has")
    return found


def lengths_of(words: Sequence[str], tokens: Tensor) -> Lengths:
    """The lengths of ``words`` as strings, beside their lengths in tokens."""
    chars, bites = [len(w) for w in words], [len(w.encode()) for w in words]
    made = [torch.tensor(x, dtype=torch.float32, device=tokens.device) for x in (chars, bites)]
    return Lengths(tokens.float(), *made)


def normalized(totals: Tensor, lengths: Lengths, how: Scoring, alpha: float = 1.0, unconditional: Tensor | None = None) -> Tensor:
    """Scores [rows, answers] from ``totals`` [rows, answers], the summed log-probabilities of each answer's tokens.

    Formula: sum: t. mean: t / tokens. char, byte: t / characters (lm-evaluation-harness acc_norm) or UTF-8 bytes. length_norm:
    t / tokens^alpha (T-Few). pmi: t - log P(answer | domain premise) (Holtzman et al. 2021), with ``unconditional`` [answers].
    channel: t, which then is log P(text | answer) (Min et al. 2022). auto: sum where every answer is one token (all others
    agree with it then), else mean.
    """
    if how == "auto":
        how = "sum" if bool((lengths.tokens == 1).all()) else "mean"
    if how == "pmi":
        assert unconditional is not None  # the framing measures it before it scores
        return totals - unconditional.to(totals)
    divisors = {"mean": lengths.tokens, "char": lengths.chars, "byte": lengths.bytes, "length_norm": lengths.tokens**alpha}
    return totals / divisors[how] if how in divisors else totals


def classes_from(words: Tensor, owners: Tensor, classes: int) -> Tensor:
    """log of the summed probability of each class's words: [rows, words] -> [rows, classes], normalized over the classes.

    ``owners`` [words] is the class of each word, -1 for a word that counts for none.
    """
    columns = [words[:, owners == c].logsumexp(-1) for c in range(classes)]
    return torch.stack(columns, -1).log_softmax(-1)
