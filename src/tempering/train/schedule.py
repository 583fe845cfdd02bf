"""Learning-rate schedules: a factor on the peak rate, by step."""

from __future__ import annotations

import math


def factor(kind: str, step: int, total: int, warmup: int) -> float:
    """Factor of the rate in optimizer step ``step`` (0-based) of ``total``: linear warm-up over ``warmup`` steps, then ``kind``.

    As in transformers, step 0 of a warm-up has factor 0 / warmup and the last step of a decay is 1 step short of 0.
    """
    if step < warmup:
        return step / warmup if kind != "constant" else 1.0
    if kind in ("constant", "constant_with_warmup"):
        return 1.0
    share = (step - warmup) / max(1, total - warmup)
    return max(0.0, 1.0 - share) if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
