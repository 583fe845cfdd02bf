"""Texts to `Tokens`: in this process where there is little to do, else in several, into a file that later runs find by its content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tempering.corpora.sources import Source
from tempering.corpora.tokens import Tokens, id_type, read, write_about
from tempering.corpora.worker import Encoded, Worker, encode, text_hash
from tempering.tasks.table import data_error

SMALL = 1 << 20  # bytes of text; what is smaller is tokenized here and kept in memory
CHUNK = 1 << 18  # characters of text a worker is given at a time
VERSION = 2  # of the files, and of how sources are read
Tell = Callable[[str], None]


def cache_folder() -> Path:
    """Where token files lie: ``$TEMPERING_CACHE``, else the user's cache folder."""
    given = os.environ.get("TEMPERING_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tempering"
    return Path(given or base).expanduser() / "corpora"


def tokens_of(texts: Iterable[str], tokenizer: Any, words: bool = False, key: str = "") -> Tokens:
    """The documents of ``texts`` in memory."""
    description = describe(tokenizer)
    parts = list(_encoded(texts, tokenizer, description, words, 1))
    kind = id_type(len(tokenizer))
    columns = zip(*parts, strict=True) if parts else ((), (), (), ())
    ids, lengths, hashes, starts = (np.concatenate(found) if found else np.zeros(0, np.int64) for found in columns)
    key = key or hashlib.blake2b(hashes.tobytes() + (description or "").encode(), digest_size=12).hexdigest()
    return Tokens(ids.astype(kind), np.cumsum(lengths), hashes.astype(np.uint64), starts.astype(np.uint8), key)


def open_tokens(
    source: Source, tokenizer: Any, words: bool = False, folder: Path | None = None, tell: Tell | None = None, processes: int | None = None
) -> Tokens:
    """The documents of ``source``. A large one is tokenized once, into a file in ``folder`` (`cache_folder`), and mapped from there; a
    folder that cannot be written to is a `DataError`.

    ``tell`` hears how far it is; ``processes`` are as many as there are processors unless given.
    """
    if source.size <= SMALL:
        return tokens_of(source, tokenizer, words, _key(source, tokenizer, words))
    from filelock import FileLock

    folder = cache_folder() if folder is None else folder
    key = _key(source, tokenizer, words)
    target = folder / key
    try:
        found = read(target)
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{key}.lock"):
                found = read(target) or _write(source, tokenizer, words, target, key, tell, processes)
    except BrokenPipeError:  # a worker's end, and not the disk's
        raise
    except OSError as error:
        problem = f"expected a folder to keep the tokens of {source.path} in, found one that cannot be used ({error.strerror or error})"
        advice = "free space there, allow writing, or name another folder in the environment variable TEMPERING_CACHE"
        raise data_error(str(folder), f"{problem}; {advice}") from error
    return found


def describe(tokenizer: Any) -> str | None:
    """A fast tokenizer as JSON, without truncation and padding, which are a batch's affair; None of a slow one."""
    if not tokenizer.is_fast:
        return None
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps(plain | {"truncation": None, "padding": None})


def _key(source: Source, tokenizer: Any, words: bool) -> str:
    described = describe(tokenizer) or json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    whole = f"{VERSION}|{source.key}|{described}|{words}"
    return hashlib.blake2b(whole.encode(), digest_size=12).hexdigest()


def _write(source: Source, tokenizer: Any, words: bool, target: Path, key: str, tell: Tell | None, processes: int | None) -> Tokens:
    for left in target.parent.glob(f".{key}.*"):  # of a run that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    part = target.with_name(f".{key}.{os.getpid()}")
    part.mkdir()
    try:
        _fill(part, source, tokenizer, words, key, tell, processes)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = read(target)
    assert found is not None  # it was whole when it was put in place
    return found


def _fill(part: Path, source: Source, tokenizer: Any, words: bool, key: str, tell: Tell | None, processes: int | None) -> None:
    kind, tokens, documents, told = id_type(len(tokenizer)), 0, 0, 0
    with ExitStack() as stack:
        ids, ends, hashes, starts = (stack.enter_context((part / f"{name}.bin").open("wb")) for name in ("ids", "ends", "hashes", "starts"))
        for found in _encoded(source, tokenizer, describe(tokenizer), words, processes or _processors()):
            found.ids.astype(kind).tofile(ids)
            (tokens + np.cumsum(found.lengths)).tofile(ends)
            found.hashes.astype(np.uint64).tofile(hashes)
            found.starts.tofile(starts)
            tokens, documents = tokens + len(found.ids), documents + len(found.lengths)
            if tell is not None and tokens - told >= 10_000_000:
                told = tokens
                tell(f"{source.path}: {tokens / 1e6:,.0f} million tokens of {documents:,} documents so far")
    write_about(part, {"key": key, "tokens": tokens, "documents": documents, "type": np.dtype(kind).name, "path": source.path})
    if tell is not None:
        tell(f"{source.path}: {tokens:,} tokens of {documents:,} documents, kept for later runs in {part.parent / key}")


def _processors() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encoded(texts: Iterable[str], tokenizer: Any, description: str | None, words: bool, processes: int) -> Iterator[Encoded]:
    """Chunk by chunk, in order."""
    chunks = _chunks(texts)
    if description is None:
        yield from (_slowly(tokenizer, chunk) for chunk in chunks)
        return
    first = next(chunks, None)
    second = next(chunks, None)
    begun = [chunk for chunk in (first, second) if chunk is not None]
    if processes < 2 or second is None:
        from tokenizers import Tokenizer

        plain = Tokenizer.from_str(description)
        yield from (encode(plain, chunk, words) for chunk in chain(begun, chunks))
        return
    with _pool(description, words, processes) as submit:
        waiting: deque[Future[Encoded]] = deque()
        for chunk in chain(begun, chunks):
            waiting.append(submit(chunk))
            if len(waiting) > 2 * processes:  # what is read ahead stays small
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _pool(description: str, words: bool, processes: int) -> Iterator[Callable[[list[str]], Future[Encoded]]]:
    """Threads that each keep one worker process busy."""
    workers: list[Worker] = []
    mine = threading.local()

    def start() -> None:
        mine.worker = Worker(description, words)
        workers.append(mine.worker)

    def work(chunk: list[str]) -> Encoded:
        found: Encoded = mine.worker(chunk)
        return found

    with ThreadPoolExecutor(processes, initializer=start) as threads:
        try:
            yield lambda chunk: threads.submit(work, chunk)
        finally:
            threads.shutdown(cancel_futures=True)
            for worker in workers:
                worker.close()


def _slowly(tokenizer: Any, texts: list[str]) -> Encoded:
    """By a tokenizer written in Python, which has no words to tell."""
    rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, truncation=False, verbose=False)["input_ids"]
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    hashes = np.fromiter((text_hash(text) for text in texts), np.uint64, len(texts))
    return Encoded(np.fromiter(chain.from_iterable(rows), np.uint32, int(lengths.sum())), lengths, hashes, np.zeros(0, np.uint8))
