"""Which tokens are hidden, and behind what: the corruption of masked language modeling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Masking:
    """Chooses tokens with ``probability``; of the chosen a ``mask_share`` becomes ``mask_id``, a ``random_share`` a token drawn
    uniformly from the ``vocabulary``, and the rest stays. ``special`` [vocabulary] marks ids that are never chosen.
    """

    probability: float
    mask_share: float
    random_share: float
    mask_id: int
    vocabulary: int
    special: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Any, rows: int, probability: float, mask_share: float, random_share: float) -> Masking:
        """Masking for a tokenizer and an embedding matrix of ``rows`` rows."""
        special = np.zeros(max(rows, len(tokenizer)), np.bool_)
        special[tokenizer.all_special_ids] = True
        return cls(probability, mask_share, random_share, int(tokenizer.mask_token_id), min(rows, len(tokenizer)), special)

    def corrupt(self, ids: Ids, real: npt.NDArray[np.bool_] | None, words: Ids | None, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Ids [rows, length] -> corrupted ids, and the chosen positions [masked] in the flattened batch, at least one.

        With ``words`` [rows, length] (-1: none) all tokens of a word are chosen together. Padding (``real`` false) never is.
        """
        eligible = ~self.special[ids] if real is None else ~self.special[ids] & real
        chosen = self._draw(ids.shape, words, rng) & eligible
        if not chosen.any() and eligible.any():
            chosen = self._one(eligible, words, rng)
        fate = rng.random(ids.shape)
        strangers = rng.integers(self.vocabulary, size=ids.shape)
        hidden = np.where(fate < self.mask_share, self.mask_id, np.where(fate < self.mask_share + self.random_share, strangers, ids))
        positions = np.flatnonzero(chosen)
        # Where every token is special there is nothing to hide: the first stays as it is and is asked for, so that the loss exists.
        return np.where(chosen, hidden, ids), positions if len(positions) else np.zeros(1, np.int64)

    def _draw(self, shape: tuple[int, ...], words: Ids | None, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        if words is None:
            return rng.random(shape) < self.probability
        lots = rng.random((shape[0], int(words.max()) + 2))  # one lot a word; -1 reads the last
        return lots[np.arange(shape[0])[:, None], words] < self.probability

    def _one(self, eligible: npt.NDArray[np.bool_], words: Ids | None, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """One token, or the whole of its word."""
        flat = int(rng.choice(np.flatnonzero(eligible)))
        row, column = divmod(flat, eligible.shape[1])
        one = np.zeros_like(eligible)
        one[row, column] = True
        return one if words is None else eligible & (words == words[row, column]) & (np.arange(len(one)) == row)[:, None]
