"""Which tokens of which field go where a prompt is too long. Nothing else is ever cut: no mask, label word, vector or template text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Shorten = Literal["longest", "tail", "head", "balanced"]
Kept = tuple[int, int]  # the tokens from .. to (not included) of a field that stay


def shortened(lengths: Sequence[int], room: int, how: Shorten = "longest") -> list[Kept]:
    """What stays of fields of ``lengths`` tokens, so that they fill at most ``room`` (>= 0) together.

    "longest": one token after the other off the end of the longest field, of equal ones off the later, after Schick and Schütze (PET);
    "tail": off the end of the last field, then of the one before; "head": off the front of the first field, then of the next;
    "balanced": every field keeps its share of the room, floor(n_i room / sum n), and the tokens left over go to the largest remainders.
    """
    over = sum(lengths) - room
    if over <= 0:
        return [(0, n) for n in lengths]
    if how == "longest":
        return [(0, n) for n in _levelled(lengths, room)]
    if how == "balanced":
        return [(0, n) for n in _shared(lengths, room)]
    kept: list[Kept] = [(0, n) for n in lengths]
    for i in range(len(lengths)) if how == "head" else reversed(range(len(lengths))):
        gone = min(over, lengths[i])
        kept[i] = (gone, lengths[i]) if how == "head" else (0, lengths[i] - gone)
        over -= gone
    return kept


def _levelled(lengths: Sequence[int], room: int) -> list[int]:
    """All fields cut to one level, the highest that fits; what room is left gives one token to the earliest of the cut ones."""
    low, high = 0, max(lengths)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(n, middle) for n in lengths) <= room else (low, middle - 1)
    kept = [min(n, low) for n in lengths]
    spare = room - sum(kept)
    for i, n in enumerate(lengths):
        if spare and n > low:
            kept[i], spare = kept[i] + 1, spare - 1
    return kept


def _shared(lengths: Sequence[int], room: int) -> list[int]:
    total = sum(lengths)
    kept = [n * room // total for n in lengths]
    by_remainder = sorted(range(len(lengths)), key=lambda i: (-(lengths[i] * room % total), i))
    for i in by_remainder[: room - sum(kept)]:
        kept[i] += 1
    return kept
