"""Documents as token ids, one after the other: in memory, or mapped from a folder of plain arrays that later runs use again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FILES = {"ids": None, "ends": np.int64, "hashes": np.uint64, "starts": np.uint8}  # the type of ids depends on the vocabulary


@dataclass(frozen=True, eq=False)
class Tokens:
    """``ids`` [tokens] without special tokens, ``ends`` [documents] where each ends, ``hashes`` [documents] of their texts.

    ``starts`` [tokens] is 1 where a word begins; empty where words were not asked for. ``key`` names the content.
    """

    ids: Array
    ends: Array
    hashes: Array
    starts: Array
    key: str = ""

    def __len__(self) -> int:
        return len(self.ends)

    def span(self, document: int) -> tuple[int, int]:
        """Where a document begins and ends."""
        return int(self.ends[document - 1]) if document else 0, int(self.ends[document])

    def taken(self, documents: Sequence[int] | Array) -> Tokens:
        """Some of the documents, in this order, in memory."""
        spans = [slice(*self.span(int(d))) for d in documents]
        lengths = np.fromiter((s.stop - s.start for s in spans), np.int64, len(spans))
        ids = np.concatenate([self.ids[s] for s in spans]) if spans else self.ids[:0]
        starts = np.concatenate([self.starts[s] for s in spans]) if spans and len(self.starts) else self.starts[:0]
        return Tokens(ids, np.cumsum(lengths), self.hashes[np.asarray(documents, np.int64)], starts, self.key)

    @classmethod
    def joined(cls, parts: Iterable[Tokens]) -> Tokens:
        """The documents of several, in memory."""
        parts = list(parts)
        before = np.cumsum([0, *(len(p.ids) for p in parts[:-1])])
        ends = np.concatenate([p.ends + b for p, b in zip(parts, before, strict=True)])
        columns = (np.concatenate([getattr(p, name) for p in parts]) for name in ("ids", "hashes", "starts"))
        ids, hashes, starts = columns
        return cls(ids, ends, hashes, starts, "+".join(p.key for p in parts))


def id_type(vocabulary: int) -> Any:
    """Two bytes an id where they are enough."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Say what the arrays in ``folder`` are; the last file that is written there."""
    (folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def read(folder: Path) -> Tokens | None:
    """The arrays of ``folder``, mapped; None where there is nothing whole."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        arrays = {name: _mapped(folder / f"{name}.bin", kind or about["type"]) for name, kind in FILES.items()}
    except (OSError, ValueError, KeyError):
        return None
    if len(arrays["ids"]) != about["tokens"] or len(arrays["ends"]) != about["documents"]:
        return None
    return Tokens(key=about["key"], **arrays)


def _mapped(path: Path, kind: Any) -> Array:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)
