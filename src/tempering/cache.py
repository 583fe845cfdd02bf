"""Trunk outputs computed once: a frozen trunk in evaluation mode says the same of a text in every epoch, run and seed.

A cache is keyed by content: one file pair for the backbone and what the framing reads of it, one row a prompt, found by the hash of its
token ids. On disk it is memory-mapped; new rows come as a new segment, renamed into place, so that several processes may share it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Batch, Prompt
from tempering.learner import Learner
from tempering.streams import key_of


def _hash(prompt: Prompt) -> bytes:
    ids = np.asarray(prompt.input_ids, dtype=np.int32).tobytes()
    types = b"" if prompt.token_type_ids is None else np.asarray(prompt.token_type_ids, dtype=np.int32).tobytes()
    return hashlib.blake2b(ids + b"|" + types, digest_size=16).digest()


class TrunkCache:
    """Trunk outputs of prompts, in memory and, with a ``folder``, on disk for later runs and other processes.

    ``seconds`` is what computing and writing them has taken so far: time that belongs to no single run.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.seconds = 0.0
        self._rows: dict[str, dict[bytes, np.ndarray]] = {}
        self._seen: set[Path] = set()
        self._keys: WeakKeyDictionary[Learner, str] = WeakKeyDictionary()

    def features(self, learner: Learner, prompts: Sequence[Prompt], batch_size: int = 64) -> Tensor:
        """[prompts, dim] trunk outputs, computing only those not known yet."""
        if learner not in self._keys:  # hashing the weights once a learner is enough: a cached trunk does not change
            self._keys[learner] = f"{key_of(*_trunk(learner)):016x}"
        key = self._keys[learner]
        rows = self._rows.setdefault(key, {})
        self._read(key, rows)
        hashes = [_hash(p) for p in prompts]
        fresh = {h: p for h, p in zip(hashes, prompts, strict=True) if h not in rows}
        if fresh:
            start = time.perf_counter()
            found = _compute(learner, list(fresh.values()), batch_size)
            rows.update(zip(fresh, found, strict=True))
            self._write(key, list(fresh), found)
            self.seconds += time.perf_counter() - start
        return torch.from_numpy(np.stack([rows[h] for h in hashes]))

    def _read(self, key: str, rows: dict[bytes, np.ndarray]) -> None:
        for path in sorted(self.folder.glob(f"{key}-*.keys.npy")) if self.folder and self.folder.exists() else ():
            if path not in self._seen:
                rows.update(_segment(path))
                self._seen.add(path)

    def _write(self, key: str, hashes: list[bytes], found: np.ndarray) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{key}-{hashlib.blake2b(b''.join(hashes), digest_size=8).hexdigest()}"
        for kind, array in (("rows", found), ("keys", np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 16))):
            target = self.folder / f"{name}.{kind}.npy"
            part = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            with part.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            part.replace(target)
            self._seen.add(target)


def _trunk(learner: Learner) -> tuple[str, ...]:
    """What names the function that a learner's trunk computes."""
    packed = (learner.backbone.quantized,) if learner.backbone.quantized else ()
    return learner.backbone.fingerprint(), *packed, learner.framing.trunk_key()


def _segment(path: Path) -> dict[bytes, np.ndarray]:
    """The rows of a segment by hash, mapped into memory; none of a damaged one: what it held is computed again."""
    try:
        names = np.load(path, allow_pickle=False)
        values = np.load(path.with_name(path.name.replace(".keys.", ".rows.")), mmap_mode="r", allow_pickle=False)
        return {n.tobytes(): v for n, v in zip(names, values, strict=True)}
    except (OSError, ValueError, EOFError):
        return {}


def _compute(learner: Learner, prompts: Sequence[Prompt], batch_size: int) -> np.ndarray:
    def work(batch: Batch) -> Tensor:
        trunk: Tensor = learner.framing.trunk(learner.backbone, batch)
        return trunk.float()

    return np.ascontiguousarray(learner.outputs(prompts, batch_size, work).numpy())
