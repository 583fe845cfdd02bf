"""Long lists of a record in little room: a thousand test rows have few distinct predictions, and a study has hundreds of runs."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST = 256  # distinct values that a byte can number
WORTH = 16  # shorter lists stay as they are


def pack(values: Sequence[Any]) -> Any:
    """``values`` as the distinct ones and a compressed byte for each place; the list itself where that says less or cannot be said."""
    if len(values) < WORTH:
        return list(values)
    known: dict[str, int] = {}
    codes: list[int] = []
    for value in values:
        codes.append(known.setdefault(json.dumps(value, ensure_ascii=False), len(known)))
        if len(known) > MOST or len(known) > len(values) / 2:
            return list(values)
    packed = zlib.compress(np.array(codes, dtype=np.uint8).tobytes(), 9)
    return {"distinct": [json.loads(text) for text in known], "codes": base64.b85encode(packed).decode()}


def unpack(found: Any) -> list[Any]:
    """What `pack` was given, as JSON would have kept it; lists of older studies come back as they are."""
    if not isinstance(found, dict):
        return list(found)
    codes = np.frombuffer(zlib.decompress(base64.b85decode(found["codes"])), dtype=np.uint8)
    return [found["distinct"][code] for code in codes]
