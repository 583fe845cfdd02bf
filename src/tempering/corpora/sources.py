"""Where the texts of a corpus are: a file, a folder of files, or a data set; their documents one by one, and a key of their content."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tempering.corpora.plain import Documents, documents_of
from tempering.corpora.tables import dataset_rows, delimited_rows, json_rows, open_dataset, parquet_rows, texts_of
from tempering.tasks.encoding import missing_file
from tempering.tasks.table import data_error, show, some

PLAIN = (".txt", ".text", ".md")
READERS = {".jsonl": json_rows, ".ndjson": json_rows, ".csv": delimited_rows, ".tsv": delimited_rows, ".tab": delimited_rows}
PARQUET = (".parquet", ".pq")
ENDINGS = (*PLAIN, *READERS, *PARQUET)
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True)
class Source:
    """A path with how it is read: what a document is in plain text files, and which column of tables holds the texts."""

    path: str
    documents: Documents = "line"
    column: str | None = None

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files to read, in order; none of a data set. A path that holds no text is a `DataError`."""
        path = Path(self.path).expanduser()
        if path.is_dir():
            return () if any((path / name).exists() for name in _SAVED) else _inside(path)
        if path.exists():
            return (_known(path),)
        if _HUB.fullmatch(self.path) and _ending(path) not in ENDINGS and not path.parent.exists():
            return ()
        raise missing_file(path)

    @cached_property
    def dataset(self) -> Any:
        """The data set, where there are no files."""
        path = Path(self.path).expanduser()
        return open_dataset(str(path) if path.is_dir() else self.path, path.is_dir())

    def __iter__(self) -> Iterator[str]:
        """Every document, in order; a source without any is a `DataError`."""
        empty = True
        for text in self._texts():
            empty = False
            yield text
        if empty:
            raise data_error(self.path, "expected texts, found none; the corpus is empty")

    def _texts(self) -> Iterator[str]:
        if not self.files:
            yield from texts_of(dataset_rows(self.dataset), self.path, self.column)
        for path in self.files:
            ending = _ending(path)
            if ending in PLAIN:
                yield from documents_of(path, self.documents)
            else:
                rows = parquet_rows(path) if ending in PARQUET else READERS[ending](path)
                yield from texts_of(rows, str(path), self.column)

    @property
    def size(self) -> int:
        """Bytes on disk (of a data set: in its tables)."""
        return sum(p.stat().st_size for p in self.files) if self.files else int(self.dataset.data.nbytes)

    @property
    def plain(self) -> bool:
        """Whether bytes on disk are about as many as those of the texts: text files that are not packed."""
        return bool(self.files) and all(path.suffix.lower() in PLAIN for path in self.files)

    @property
    def key(self) -> str:
        """A hash of the content and of how it is read; names of files do not count beyond their endings."""
        digest = hashlib.blake2b(f"{self.documents}|{self.column}".encode(), digest_size=12)
        for path in self.files:
            digest.update(f"|{_ending(path)}{path.stat().st_size}|".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        if not self.files:
            digest.update(f"dataset {self.dataset._fingerprint}".encode())  # datasets has no public name for it
        return digest.hexdigest()


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _known(path: Path) -> Path:
    if _ending(path) in ENDINGS and not (_ending(path) in PARQUET and path.suffix == ".gz"):
        return path
    found = show(path.suffix) if path.suffix else "none"
    raise data_error(str(path), f"expected a file ending in {', '.join(ENDINGS)} (or one of them with .gz), found {found}; rename it")


def _inside(folder: Path) -> tuple[Path, ...]:
    """Every file under ``folder`` whose ending is known, hidden ones aside, in the order of their paths."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in names if not name.startswith(".")]
    known = [path for path in sorted(found) if _ending(path) in ENDINGS]
    if not known:
        there = some([p.name for p in sorted(found)]) or "nothing"
        raise data_error(str(folder), f"expected files ending in {', '.join(ENDINGS)} (or with .gz) in the folder, found {there}")
    return tuple(known)
