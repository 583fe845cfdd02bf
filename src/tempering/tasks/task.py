"""The task: the user's labelled texts in up to three splits, with labels exactly as they were given."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from tempering.contracts import Example, Kind, Label
from tempering.errors import DataError
from tempering.tasks.build import Parts, Request, build
from tempering.tasks.columnar import from_frame, from_frames
from tempering.tasks.labels import label_key
from tempering.tasks.readers import open_source, read_table
from tempering.tasks.table import Table, data_error, plain, show, some


@dataclass(frozen=True)
class Split:
    """The rows of one split. ``name`` is "train", "dev" or "test"; ``source`` the file they came from, or "memory"."""

    name: str
    examples: tuple[Example, ...]
    source: str = "memory"

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        return self.examples[index]

    @property
    def labels(self) -> list[Any]:
        """The label of every row, in order."""
        return [example.label for example in self.examples]


@dataclass(frozen=True, eq=False)
class Task:
    """What a model is trained for. Made by `from_file`, `from_frame` or `from_examples`.

    ``labels`` are the distinct training labels in their natural order, () for regression and free text. ``columns`` says which
    columns were used, ``notes`` what is worth printing about that, ``split_record`` how dev and test came about (JSON-ready).
    Two tasks are compared by `fingerprint`.
    """

    name: str
    kind: Kind
    labels: tuple[Label, ...]
    train: Split
    dev: Split | None = None
    test: Split | None = None
    columns: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    split_record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        label: str | None = None,
        dev: str | Path | None = None,
        test: str | Path | None = None,
        kind: Kind | None = None,
        seed: int = 0,
        dev_fraction: float = 0.2,
        hold_out_test: bool = False,
    ) -> Task:
        """A task from CSV, TSV, JSONL, JSON, Parquet, a folder (train/dev/test files or Arrow), or a hub data set id.

        Columns not named are found by their usual names. Without a dev file ``dev_fraction`` of the training rows (at most
        2,000) become dev, stratified, by ``seed``; ``hold_out_test`` does the same for test. ``label="a,b,c"`` names several
        0/1 columns. Anything unexpected is a `DataError` that names file, row and column.
        """
        tables = open_source(path)
        given = {split: file for split, file in (("dev", dev), ("test", test)) if file is not None}
        tables |= {split: read_table(file) for split, file in given.items()}
        request = Request(text, text_pair, label, kind, seed, dev_fraction, hold_out_test)
        return cls._of(_name_of(Path(path)), build(tables, request, frozenset(given)))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        label: str | None = None,
        dev: Any = None,
        test: Any = None,
        kind: Kind | None = None,
        seed: int = 0,
        dev_fraction: float = 0.2,
        hold_out_test: bool = False,
        name: str = "task",
    ) -> Task:
        """As `from_file`, from a pandas or polars frame, a ``datasets.Dataset`` or ``DatasetDict``, or a dict of columns."""
        tables = from_frames(frame, "memory")
        given = {split: part for split, part in (("dev", dev), ("test", test)) if part is not None}
        tables |= {split: from_frame(part, f"memory ({split})") for split, part in given.items()}
        request = Request(text, text_pair, label, kind, seed, dev_fraction, hold_out_test)
        return cls._of(name, build(tables, request, frozenset(given)))

    @classmethod
    def from_examples(
        cls,
        train: Sequence[Example],
        dev: Sequence[Example] | None = None,
        test: Sequence[Example] | None = None,
        kind: Kind | None = None,
        name: str = "task",
        *,
        seed: int = 0,
        dev_fraction: float = 0.0,
    ) -> Task:
        """A task from examples in memory; no dev split is taken off unless ``dev_fraction`` says so.

        Training examples without any labels make a task of kind "text" without labels, for stages that need none.
        """
        given = {split: rows for split, rows in (("train", train), ("dev", dev), ("test", test)) if rows is not None}
        if kind in (None, "text") and train and all(example.label is None for example in train):
            splits = {split: Split(split, tuple(rows)) for split, rows in given.items()}
            return cls(name, "text", (), splits["train"], splits.get("dev"), splits.get("test"))
        tables = {split: _table_of(split, rows) for split, rows in given.items()}
        pair = "text_pair" if "text_pair" in tables["train"].columns else None
        request = Request("text", pair, "label", kind, seed, dev_fraction)
        return cls._of(name, build(tables, request, frozenset(given)))

    @classmethod
    def _of(cls, name: str, parts: Parts) -> Task:
        splits = {split: Split(split, rows, source) for split, (rows, source) in parts.examples.items()}
        train, dev, test = splits["train"], splits.get("dev"), splits.get("test")
        return cls(name, parts.kind, parts.labels, train, dev, test, parts.columns, parts.notes, parts.record)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits there are, train first."""
        return tuple(split for split in (self.train, self.dev, self.test) if split is not None)

    @cached_property
    def _index(self) -> dict[Hashable, int]:
        return {label_key(label): i for i, label in enumerate(self.labels)}

    def label_index(self, label: Any) -> int:
        """The class index of a label; 1, True and "1" are different labels. An unknown one is a `DataError`."""
        try:
            return self._index[label_key(plain(label))]
        except (KeyError, TypeError):
            expected = some([show(known) for known in self.labels]) or f"no class labels, since the task is {self.kind}"
            raise data_error(self.train.source, f"expected {expected}, found the label {show(label)}") from None

    def target(self, label: Any) -> Any:
        """What a model learns for a label: a class index (one for each tag), a float, or a tuple of 0/1 over ``labels``; text and
        answers stay as they are.
        """
        if self.kind == "regression":
            return float(label)
        if self.kind in ("text", "question_answering"):
            return label
        if self.kind == "classification":
            return self.label_index(label)
        if self.kind == "tagging":
            return tuple(self.label_index(tag) for tag in label)
        chosen = {self.label_index(member) for member in label}
        return tuple(int(i in chosen) for i in range(len(self.labels)))

    def with_train(self, indices: Sequence[int], seed: int | None = None) -> Task:
        """The task with only these training rows (0-based, in this order); labels stay, ``seed`` is noted in the record."""
        examples = tuple(self.train.examples[i] for i in indices)
        record = self.split_record | {"subset": {"rows": [example.row for example in examples], "seed": seed}}
        return replace(self, train=replace(self.train, examples=examples), split_record=record)

    def unlabeled(self) -> tuple[Example, ...]:
        """The training texts without their labels."""
        return tuple(replace(example, label=None) for example in self.train)

    def fingerprint(self) -> str:
        """SHA-256 over kind, labels and every row of every split; file names and row numbers do not count."""
        digest = hashlib.sha256(json.dumps([self.kind, [label_key(label) for label in self.labels]]).encode())
        for split in self.splits:
            digest.update(json.dumps([split.name, len(split)]).encode())
            for example in split:
                words = [example.words] if example.words else []
                digest.update(json.dumps([example.texts, type(example.label).__name__, example.label, *words]).encode())
        return digest.hexdigest()

    def majority(self, rows: int | Sequence[Example] | Split | None = None) -> list[Any]:
        """The prediction of one who never reads the text, for each of ``rows`` (or the first so many of test, else dev, else train).

        The most frequent training label, or tag for every word; the mean for regression; the labels more than half of the rows have
        for multi-label; that there is no answer for question answering.
        """
        default = self.test or self.dev or self.train
        count = rows if isinstance(rows, int) else len(default if rows is None else rows)
        given = self.train.labels
        if self.kind == "question_answering":
            return [""] * count
        if self.kind == "tagging":
            ((tag, _),) = Counter(tag for tags in given for tag in tags).most_common(1) or [(self.labels[0], 0)]
            chosen = default[:count] if rows is None or isinstance(rows, int) else rows
            return [(tag,) * len(row.words) for row in chosen]
        if self.kind == "regression":
            return [sum(given) / len(given)] * count
        if self.kind == "multilabel":
            often = Counter(label_key(label) for group in given for label in set(group))
            return [tuple(label for label in self.labels if 2 * often[label_key(label)] > len(given))] * count
        counts = Counter(label_key(label) for label in given)
        known = self.labels or tuple(dict.fromkeys(given))
        return [max(known, key=lambda label: counts[label_key(label)])] * count

    def id2label(self) -> dict[int, str]:
        """Class index -> label as a string, as model configurations keep it; ``{0: "value"}`` for regression."""
        return {0: "value"} if self.kind == "regression" else {i: str(label) for i, label in enumerate(self.labels)}


def _table_of(split: str, examples: Sequence[Example]) -> Table:
    """Examples in memory as a table, so that they are checked as files are."""
    source = f"memory ({split})"
    if not examples:
        raise DataError(f"{source}: expected at least one example, found none")
    arity = len(examples[0].texts)
    rows = [example.row if example.row > 0 else i for i, example in enumerate(examples, start=1)]
    for row, example in zip(rows, examples, strict=True):
        if isinstance(example.texts, str) or len(example.texts) != arity or arity not in (1, 2):
            raise data_error(source, f"expected a tuple of {min(arity, 2)} text(s), found {show(example.texts)}", row=row)
    names = ("text", "text_pair")[:arity]
    columns: dict[str, list[Any]] = {name: [example.texts[i] for example in examples] for i, name in enumerate(names)}
    if any(example.words for example in examples):
        columns["words"] = [example.words for example in examples]
    return Table(columns | {"label": [plain(example.label) for example in examples]}, rows, source)


def _name_of(path: Path) -> str:
    """The file's name; for a file called after a split, that of its folder."""
    return (path.absolute().parent.name if path.stem in ("train", "data") else path.stem) or "task"
