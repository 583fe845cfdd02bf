"""Which rows go through the model together: rows of like length, in random order, so that next to no padding is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def length_batches(lengths: Sequence[int], size: int, rng: np.random.Generator | None = None) -> list[Rows]:
    """Batches of ``size`` row numbers of like length.

    With ``rng``, rows of equal length are shuffled before they are cut into batches and the batches come in random order, so
    that each epoch mixes anew; without, the order is fixed (evaluation). The last batch may be smaller.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    order = order[np.argsort(np.asarray(lengths)[order], kind="stable")]
    cuts = [order[i : i + size] for i in range(0, len(order), size)]
    return cuts if rng is None else [cuts[i] for i in rng.permutation(len(cuts))]


def random_batches(count: int, size: int, rng: np.random.Generator) -> list[Rows]:
    """Batches of ``size`` row numbers in plain random order."""
    order = rng.permutation(count)
    return [order[i : i + size] for i in range(0, count, size)]
