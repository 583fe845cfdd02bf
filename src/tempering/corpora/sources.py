"""Where the texts of a corpus are: a file, a folder of files, or a data set; their documents one by one, and a key of their content."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
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
_READ = f"{', '.join(ENDINGS)} (or one of them with .gz)"
_DOCUMENTS = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".html", ".htm", ".xhtml", ".xml", ".epub")
_ADVICE = (
    (_DOCUMENTS, "convert {} to .txt"),
    ((".xls", ".xlsx", ".ods"), "save the sheet as CSV"),
    ((".json",), "write one object a line into a .jsonl file"),
    ((".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z"), "unpack {}"),
)
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

    @property
    def left_out(self) -> str:
        """How many files of a folder are not read, by their endings, in words; empty where all are."""
        path = Path(self.path).expanduser()
        if not path.is_dir() or not self.files:
            return ""
        endings = Counter(path.suffix.lower() for path in _within(path) if not _readable(path))
        counted = [f"{count:,} {ending or 'without ending'}" for ending, count in endings.most_common()]
        return f"left out of {self.path}: {some(counted)}; read are files ending in {_READ}" if counted else ""

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


def _readable(path: Path) -> bool:
    return _ending(path) in ENDINGS and not (_ending(path) in PARQUET and path.suffix.lower() == ".gz")


def _known(path: Path) -> Path:
    if _readable(path):
        return path
    found = show(path.suffix) if path.suffix else "none"
    raise data_error(str(path), f"expected a file ending in {_READ}, found {found}; {_advice([path])}")


def _inside(folder: Path) -> tuple[Path, ...]:
    """Every file under ``folder`` whose ending is known, hidden ones aside, in the order of their paths."""
    found = sorted(_within(folder))
    known = tuple(path for path in found if _readable(path))
    if not known:
        there = some([p.name for p in found])
        end = f"{there}; {_advice(found)}" if there else "nothing"
        raise data_error(str(folder), f"expected files ending in {_READ} in the folder, found {end}")
    return known


def _within(folder: Path) -> Iterator[Path]:
    """Every file under ``folder``, hidden ones aside."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in names if not name.startswith("."))


def _advice(paths: Sequence[Path]) -> str:
    """What to do with files of which none can be read."""
    endings, which = {_ending(path) for path in paths}, "it" if len(paths) == 1 else "them"
    words = next((advice for known, advice in _ADVICE if endings & set(known)), "rename {} if the ending alone is wrong")
    return words.format(which)
