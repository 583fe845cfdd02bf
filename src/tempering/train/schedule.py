"""Learning-rate schedules: a factor on the peak rate, by step."""

from __future__ import annotations

import math

RATIO = 32  # how much smaller than its peak the lowest rate of a slanted triangle is


def factor(kind: str, step: int, total: int, warmup: int, power: float = 1.0) -> float:
    """Factor of the rate in optimizer step ``step`` (0-based) of ``total``: linear warm-up over ``warmup`` steps, then ``kind``.

    As in transformers, step 0 of a warm-up has factor 0 / warmup and the last step of a decay is 1 step short of 0.
    """
    if kind == "slanted_triangular":
        return _slanted(step, total, warmup)
    if step < warmup:
        return step / warmup if kind != "constant" else 1.0
    if kind in ("constant", "constant_with_warmup"):
        return 1.0
    share = (step - warmup) / max(1, total - warmup)
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
    left = max(0.0, 1.0 - share)
    return math.pow(left, power) if kind == "polynomial" else left


def _slanted(step: int, total: int, cut: int) -> float:
    """(1 + p (ratio - 1)) / ratio, p rising linearly from 0 to 1 over ``cut`` steps and falling to 0 at ``total``.

    The formula of Howard and Ruder falls over cut (1 / 0.1 - 1) steps, which is total - cut only where 10 divides total: else p would
    end above 0 or below it.
    """
    p = step / cut if step < cut else 1.0 - (step - cut) / max(1, total - cut)
    return (1.0 + max(0.0, p) * (RATIO - 1)) / RATIO
