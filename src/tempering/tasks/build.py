"""From tables to the parts of a task: kind, labels, examples of each split, and how dev and test came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tempering.contracts import Example, Kind
from tempering.tasks.answered import AnswerReader, answered
from tempering.tasks.columns import Columns, choose_columns
from tempering.tasks.labels import TEXTS, infer_kind, label_values, ordered, read_labels
from tempering.tasks.readers import examples_of
from tempering.tasks.strata import hold_out, strata_of
from tempering.tasks.table import Table, data_error, is_missing, show
from tempering.tasks.tagcolumns import tagged
from tempering.tasks.tagged import TagReader

KINDS = ("classification", "regression", "multilabel", "text", "tagging", "question_answering")
MAX_DEV_ROWS = 2_000


@dataclass(frozen=True)
class Request:
    """What the user said about a data source; see `Task.from_file`."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    kind: Kind | None = None
    seed: int = 0
    dev_fraction: float = 0.2
    hold_out_test: bool = False


class Parts(NamedTuple):
    """The content of a task. ``examples`` maps split names to (examples, source)."""

    kind: Kind
    labels: tuple[Any, ...]
    examples: dict[str, tuple[tuple[Example, ...], str]]
    columns: dict[str, str]
    notes: tuple[str, ...]
    record: dict[str, Any]


@dataclass
class _Draft:
    """Examples of each split while dev and test are being taken off. ``advice``: what may be wrong where the classes do not fit."""

    examples: dict[str, tuple[Example, ...]]
    sources: dict[str, str]
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    advice: str = ""


def build(tables: dict[str, Table], request: Request, named: frozenset[str] = frozenset()) -> Parts:
    """The parts of a task from its tables by split.

    ``named`` are the splits the user gave by name: a missing label there is an error, while an unlabelled test split that a
    folder happens to hold is left out with a note.
    """
    train = tables["train"]
    _check(request, train.source)
    if (found := _reader(train, request)) is not None:
        return _by_reader(*found, tables, request, named)
    columns = choose_columns(train, request.text, request.text_pair, request.label)
    raw = label_values(train, columns.label)
    inferred, why = infer_kind(raw, train.typed)
    kind = request.kind or inferred
    labels = read_labels(train, columns.label, kind)
    classes = _classes(train, columns, kind, labels)
    draft = _Draft({"train": examples_of(train, columns, labels)}, {"train": train.source})
    draft.advice = TEXTS if request.kind is None and why.endswith(TEXTS) else ""
    draft.notes += [*train.notes, *columns.notes, *([why] if why and request.kind is None else [])]
    for split in ("dev", "test"):
        if split in tables:
            _add(draft, split, tables[split], columns, kind, classes, split in named)
    _split_off(draft, kind, request)
    examples = {split: (rows, draft.sources[split]) for split, rows in draft.examples.items()}
    return Parts(kind, classes, examples, columns.as_dict(), tuple(draft.notes), draft.record)


class Reader(Protocol):
    """What reads the rows of a kind that has columns of its own."""

    columns: Columns
    notes: list[str]
    labels: tuple[Any, ...]

    @property
    def record(self) -> dict[str, Any]:
        """What is worth keeping of how rows were read."""

    def read(self, table: Table, split: str, optional: bool = False) -> tuple[Example, ...] | None:
        """The rows of another split; None where it has no labels and need not."""


def _reader(train: Table, request: Request) -> tuple[Kind, Reader, tuple[Example, ...]] | None:
    """The kind, its reader and the training rows, where the user or the columns say tagging or question answering."""
    asked = (request.text, request.text_pair, request.label)
    why = answered(train, asked) if request.kind is None else ""
    if why or request.kind == "question_answering":
        return ("question_answering", *AnswerReader.of(train, asked, why))
    why = tagged(train, request.text, request.label) if request.kind is None and request.text_pair is None else ""
    if why or request.kind == "tagging":
        return ("tagging", *TagReader.of(train, request.text, request.label, why))
    return None


def _by_reader(
    kind: Kind, reader: Reader, rows: tuple[Example, ...], tables: dict[str, Table], request: Request, named: frozenset[str]
) -> Parts:
    """The parts of a task whose rows ``reader`` reads."""
    draft = _Draft({"train": rows}, {"train": tables["train"].source})
    for split in ("dev", "test"):
        found = reader.read(tables[split], split, split not in named) if split in tables else None
        if found is not None:
            draft.examples[split], draft.sources[split] = found, tables[split].source
            draft.record[split] = {"from": tables[split].source}
        elif split in tables:
            draft.notes.append(f"{tables[split].source} has no labels and is left out")
    draft.notes = [*reader.notes, *draft.notes]
    draft.record |= reader.record
    _split_off(draft, kind, request)
    examples = {split: (rows, draft.sources[split]) for split, rows in draft.examples.items()}
    return Parts(kind, reader.labels, examples, reader.columns.as_dict(), tuple(draft.notes), draft.record)


def _check(request: Request, source: str) -> None:
    if request.kind is not None and request.kind not in KINDS:
        raise data_error(source, f"expected a kind among {', '.join(KINDS)}, found {show(request.kind)}")
    if not 0 <= request.dev_fraction < 1:
        raise data_error(source, f"expected a dev fraction of at least 0 and under 1, found {request.dev_fraction}; the usual one is 0.2")


def _classes(table: Table, columns: Columns, kind: Kind, labels: list[Any]) -> tuple[Any, ...]:
    column = ",".join(columns.label)
    if kind == "text":
        return ()
    if kind == "regression":
        if len(set(labels)) < 2:
            raise table.error(
                f"expected at least two different values, found only {show(labels[0])}; nothing can be learned", column=column
            )
        return ()
    flat = labels if kind == "classification" else [label for group in labels for label in group]
    classes = ordered([*flat, *(columns.label if len(columns.label) > 1 else ())])
    if kind == "multilabel" and not flat:
        raise table.error("expected at least one label, found none in any row; nothing can be learned", column=column)
    if kind == "classification" and len(classes) < 2:
        problem = f"expected at least two classes, found only {show(classes[0])} in all {len(labels)} rows"
        raise table.error(f"{problem}; add rows of another class or name another column with --label", column=column)
    return classes


def _add(draft: _Draft, split: str, table: Table, columns: Columns, kind: Kind, classes: tuple[Any, ...], named: bool) -> None:
    chosen = choose_columns(table, columns.text, columns.text_pair, ",".join(columns.label), label_optional=not named)
    unlabeled = not chosen.label or (len(chosen.label) == 1 and all(is_missing(v) for v in table.columns[chosen.label[0]]))
    if unlabeled and not named:
        draft.notes.append(f"{table.source} has no labels and is left out")
        return
    labels = read_labels(table, chosen.label, kind, classes, draft.advice)
    draft.examples[split] = examples_of(table, chosen, labels)
    draft.sources[split] = table.source
    draft.record[split] = {"from": table.source}


def _split_off(draft: _Draft, kind: Kind, request: Request) -> None:
    """Take what is missing off the training rows: test first, if asked for, then dev."""
    wanted = [("test", 0.2)] if request.hold_out_test and "test" not in draft.examples else []
    if "dev" not in draft.examples and request.dev_fraction > 0:
        wanted.append(("dev", request.dev_fraction))
    total = len(draft.examples["train"])
    for split, fraction in wanted:
        rows = min(max(1, round(fraction * total)), MAX_DEV_ROWS)
        _take(draft, split, rows, kind, request.seed + (split == "test"))
        draft.record["seed"] = request.seed
    if wanted:
        draft.record["train"] = {"from": draft.sources["train"], "rows": [example.row for example in draft.examples["train"]]}


def _take(draft: _Draft, split: str, rows: int, kind: Kind, seed: int) -> None:
    train = draft.examples["train"]
    values = [example.label for example in train]
    strata = strata_of(kind, values, bins=min(10, max(1, len(train) // 2)))
    kept, held = hold_out(train, strata, rows, seed)
    if not held:
        classes = f" of {len(set(strata))} classes" if kind == "classification" else ""
        problem = f"expected enough rows to take a {split} split off and keep every class in train, found {len(train)} rows{classes}"
        advised = "".join(f"; {said}" for said in (f"add rows or give a file with --{split}", draft.advice) if said)
        raise data_error(draft.sources["train"], problem + advised)
    draft.examples[split] = tuple(train[i] for i in held)
    draft.examples["train"] = tuple(train[i] for i in kept)
    draft.sources[split] = draft.sources["train"]
    draft.record[split] = {"from": draft.sources["train"], "rows": [train[i].row for i in held]}
    draft.notes.append(f"{split}: {len(held)} of {len(train)} rows taken off the training data, stratified, seed {seed}")
