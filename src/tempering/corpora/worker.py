"""Tokenizing in a process of its own: texts come in by a pipe, token ids go out by another. It imports neither torch nor transformers.

A process that is started anew, and not forked, cannot inherit a lock that a thread of the parent held, and a pipe needs no
``if __name__ == "__main__"`` in the user's script.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Encoded(NamedTuple):
    """Documents one after the other: ``ids`` and ``starts`` [tokens], ``lengths`` and ``hashes`` [documents].

    ``starts`` is 1 where a word begins, and empty where words were not asked for.
    """

    ids: Array
    lengths: Array
    hashes: Array
    starts: Array


def text_hash(text: str) -> int:
    """64 bits of a text's hash. White space counts as one blank wherever it is: copies of a text differ in it."""
    return int.from_bytes(hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest(), "little")


def encode(tokenizer: Any, texts: list[str], words: bool) -> Encoded:
    """``texts`` by a `tokenizers.Tokenizer`, without special tokens around them."""
    batch = tokenizer.encode_batch if words else tokenizer.encode_batch_fast  # the fast one keeps no places in the text
    found = batch(texts, add_special_tokens=False)
    lengths = np.fromiter((len(e) for e in found), np.int64, len(found))
    ids = np.concatenate([np.asarray(e.ids, np.uint32) for e in found]) if found else np.zeros(0, np.uint32)
    starts = np.concatenate([_starts(e.word_ids) for e in found]) if words and found else np.zeros(0, np.uint8)
    hashes = np.fromiter((text_hash(text) for text in texts), np.uint64, len(texts))
    return Encoded(ids, lengths, hashes, starts)


def _starts(words: list[int | None]) -> Array:
    numbers = np.fromiter((-1 if w is None else w for w in words), np.int64, len(words))
    new = np.ones(len(numbers), np.uint8)
    new[1:] = (numbers[1:] != numbers[:-1]) | (numbers[1:] < 0)
    return new


class Worker:
    """A child process that holds the tokenizer whose JSON is ``description``."""

    def __init__(self, description: str, words: bool) -> None:
        source = str(Path(__file__).parents[2])
        path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-P", "-m", "tempering.corpora.worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._send(description.encode(), bytes([words]))

    def __call__(self, texts: list[str]) -> Encoded:
        """What `encode` gives for ``texts``."""
        pieces = [text.encode() for text in texts]
        self._send(np.fromiter((len(p) for p in pieces), np.int64, len(pieces)).tobytes(), b"".join(pieces))
        assert self.process.stdout is not None
        parts = _receive(self.process.stdout, 4)
        if parts is None:
            raise RuntimeError(f"a tokenizing process ended with code {self.process.wait()}; its message is above")
        kinds = (np.uint32, np.int64, np.uint64, np.uint8)
        return Encoded(*(np.frombuffer(part, kind) for part, kind in zip(parts, kinds, strict=True)))

    def close(self) -> None:
        """End the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()

    def _send(self, *parts: bytes) -> None:
        assert self.process.stdin is not None
        _write(self.process.stdin, *parts)


def _write(pipe: Any, *parts: bytes) -> None:
    for part in parts:
        pipe.write(struct.pack("<q", len(part)))
        pipe.write(part)
    pipe.flush()


def _receive(pipe: Any, count: int) -> list[bytes] | None:
    """``count`` parts; None where the other side has ended."""
    found = []
    for _ in range(count):
        head = pipe.read(8)
        if len(head) < 8:
            return None
        found.append(pipe.read(struct.unpack("<q", head)[0]))
    return found


def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answer until the other side closes its pipe."""
    from tokenizers import Tokenizer

    first = _receive(incoming, 2)
    if first is None:
        return
    tokenizer, words = Tokenizer.from_str(first[0].decode()), bool(first[1][0])
    while (parts := _receive(incoming, 2)) is not None:
        ends = np.cumsum(np.frombuffer(parts[0], np.int64))
        starts = [0, *ends[:-1]]
        texts = [parts[1][a:b].decode() for a, b in zip(starts, ends, strict=True)]
        _write(outgoing, *(part.tobytes() for part in encode(tokenizer, texts, words)))


if __name__ == "__main__":
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except (KeyboardInterrupt, BrokenPipeError):  # the parent says what happened
        os._exit(0)
