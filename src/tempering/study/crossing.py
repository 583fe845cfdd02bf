"""Which runs tell apart where instability comes from: the seed streams of sampling, initialization and order crossed in a Latin square.

With N levels of each stream a full crossing takes N**3 runs. A Latin square takes N**2: sampling i, initialization j and order L(i, j), so
that every level of a stream meets every level of each other stream once. No pair of levels occurs twice, so that the random interactions
of streams are independent from run to run: they add to the rest and bias no component (`tempering.study.decompose`).

The square is idempotent, L(i, i) = i: its diagonal are the runs that the study makes anyway, whose streams all change from one seed to the
next. The other N (N - 1) runs are extra, and serve the decomposition alone. Dropout goes with order: both are noise of the steps.
"""

from __future__ import annotations

from tempering.contracts import Seeds
from tempering.errors import RecipeError

LEAST = 3  # levels: with two there is no idempotent square, and nothing is left over to judge by
MOST = 1000
Levels = tuple[int, int, int]


def square(levels: int) -> list[Levels]:
    """The N**2 runs (sampling, initialization, order), each 0 .. N - 1, those of the diagonal among them."""
    if not LEAST <= levels <= MOST:
        raise RecipeError(
            f"--decompose needs --seeds {LEAST} at least (and {MOST} at most), found {levels}: that many of each seed stream are crossed"
        )
    table = _odd(levels) if levels % 2 else _extended(_odd(levels - 1))
    return [(i, j, table[i][j]) for i in range(levels) for j in range(levels)]


def off_diagonal(levels: int) -> list[Levels]:
    """The runs of the `square` that only the decomposition needs."""
    return [x for x in square(levels) if len(set(x)) > 1]


def _odd(n: int) -> list[list[int]]:
    """L(i, j) = (i + j) / 2 modulo an odd n."""
    half = (n + 1) // 2
    return [[(i + j) * half % n for j in range(n)] for i in range(n)]


def _extended(table: list[list[int]]) -> list[list[int]]:
    """One row, column and symbol more: the entries L(i, i + 1), all different, make room for it and go to the new row and column."""
    n = len(table)
    moved = [table[i][(i + 1) % n] for i in range(n)]
    rows = [[n if j == (i + 1) % n else table[i][j] for j in range(n)] + [moved[i]] for i in range(n)]
    return [*rows, [moved[(j - 1) % n] for j in range(n)] + [n]]


def code(levels: Levels) -> int:
    """The levels as the one number that a cell of a study has for its seed."""
    sampling, init, order = levels
    return (sampling * MOST + init) * MOST + order


def levels_of(number: int) -> Levels:
    """The levels that `code` wrote."""
    rest, order = divmod(number, MOST)
    sampling, init = divmod(rest, MOST)
    return sampling, init, order


def seeds_of(levels: Levels, base: int = 0) -> Seeds:
    """The streams of a crossed run: each is that of an ordinary run whose seed is the level."""
    sampling, init, order = (Seeds.of(base + level) for level in levels)
    return Seeds(sampling.sampling, init.init, order.order, order.dropout)
