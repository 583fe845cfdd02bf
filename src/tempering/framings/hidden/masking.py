"""Which tokens are hidden, and behind what: the corruption of masked language modeling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Choice = Literal["token", "whole_word", "span"]
STOP = 0.2  # SpanBERT: lengths of spans are geometric with this rate ...
MOST = 10  # ... and cut off here, so that a span has 3.80 words on average
SPANS = STOP * (1 - STOP) ** np.arange(MOST)
SPANS /= SPANS.sum()


class Lots(NamedTuple):
    """``chosen`` [rows, length] tokens, and the lot in [0, 1) that decides what stands in the place of each."""

    chosen: Flags
    fate: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Masking:
    """Chooses tokens with ``probability``; of the chosen a ``mask_share`` becomes ``mask_id``, a ``random_share`` a token drawn
    uniformly from the ``vocabulary``, and the rest stays. ``special`` [vocabulary] marks ids that are never chosen.

    ``choice``: tokens one by one; words; or spans of neighboring words, whose tokens all share one fate (Joshi et al. 2020).
    """

    probability: float
    mask_share: float
    random_share: float
    mask_id: int
    vocabulary: int
    special: Flags
    choice: Choice = "token"

    @classmethod
    def of(cls, tokenizer: Any, rows: int, probability: float, shares: tuple[float, float], choice: Choice = "token") -> Masking:
        """Masking for a tokenizer and an embedding matrix of ``rows`` rows; ``shares`` are those of the mask and of random tokens."""
        special = np.zeros(max(rows, len(tokenizer)), np.bool_)
        special[tokenizer.all_special_ids] = True
        return cls(probability, *shares, int(tokenizer.mask_token_id), min(rows, len(tokenizer)), special, choice)

    def corrupt(self, ids: Ids, real: Flags | None, words: Ids | None, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Ids [rows, length] -> corrupted ids, and the chosen positions [masked] in the flattened batch, at least one.

        ``words`` [rows, length] (-1: none) are word numbers, which words and spans need. Padding (``real`` false) is never chosen.
        """
        eligible = ~self.special[ids] if real is None else ~self.special[ids] & real
        chosen, fate = self._lots(eligible, words, rng)
        if not chosen.any() and eligible.any():
            chosen = self._one(eligible, words, rng)
        strangers = rng.integers(self.vocabulary, size=ids.shape)
        hidden = np.where(fate < self.mask_share, self.mask_id, np.where(fate < self.mask_share + self.random_share, strangers, ids))
        positions = np.flatnonzero(chosen)
        # Where every token is special there is nothing to hide: the first stays as it is and is asked for, so that the loss exists.
        return np.where(chosen, hidden, ids), positions if len(positions) else np.zeros(1, np.int64)

    def _lots(self, eligible: Flags, words: Ids | None, rng: np.random.Generator) -> Lots:
        if words is not None and self.choice == "span":
            return self._spans(eligible, words, rng)
        if words is None:
            chosen = rng.random(eligible.shape) < self.probability
        else:
            lots = rng.random((eligible.shape[0], int(words.max()) + 2))  # one lot a word; -1 reads the last
            chosen = lots[np.arange(eligible.shape[0])[:, None], words] < self.probability
        return Lots(chosen & eligible, rng.random(eligible.shape))

    def _spans(self, eligible: Flags, words: Ids, rng: np.random.Generator) -> Lots:
        """Spans of whole words until the share of tokens is reached, of which the last may lack some words.

        A span starts at any word, all alike, and ends where its row or its text does. The share is that of the whole batch: in short
        rows it would be less than one span.
        """
        flat = eligible.reshape(-1)
        fate, chosen = rng.random(eligible.size), np.zeros(eligible.size, np.bool_)
        begins, ends, ties = _words(flat, words)
        budget = int(self.probability * flat.sum() + rng.random())
        left = budget
        while left > 0:
            first, length = int(rng.integers(len(begins))), 1 + int(rng.choice(MOST, p=SPANS))
            if chosen[begins[first]]:
                continue
            for word in range(first, min(first + length, len(begins))):
                if left <= 0 or (word > first and not ties[word]):
                    break
                part = slice(begins[word], ends[word])
                left -= int((~chosen[part]).sum())
                chosen[part], fate[part] = True, fate[begins[first]]
        return Lots(chosen.reshape(eligible.shape), fate.reshape(eligible.shape))

    def _one(self, eligible: Flags, words: Ids | None, rng: np.random.Generator) -> Flags:
        """One token, or the whole of its word."""
        flat = int(rng.choice(np.flatnonzero(eligible)))
        row, column = divmod(flat, eligible.shape[1])
        one = np.zeros_like(eligible)
        one[row, column] = True
        return one if words is None else eligible & (words == words[row, column]) & (np.arange(len(one)) == row)[:, None]


def _words(eligible: Flags, words: Ids) -> tuple[Ids, Ids, Flags]:
    """(begin, end) in the flattened batch of every word, and whether it follows the one before it without a gap in the same row."""
    rows = np.repeat(np.arange(words.shape[0]), words.shape[1])
    flat = words.reshape(-1)
    same = np.zeros(len(flat), np.bool_)
    same[1:] = (flat[1:] == flat[:-1]) & (rows[1:] == rows[:-1]) & eligible[:-1] & eligible[1:]
    begins = np.flatnonzero(eligible & ~same)
    lasts = np.flatnonzero(eligible & ~np.append(same[1:], False))
    ties = np.zeros(len(begins), np.bool_)
    ties[1:] = (begins[1:] == lasts[:-1] + 1) & (rows[begins[1:]] == rows[lasts[:-1]])
    return begins, lasts + 1, ties
