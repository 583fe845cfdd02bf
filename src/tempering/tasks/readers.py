"""From a path to tables: which reader a file needs, what a folder holds, and the rows and texts that other commands ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tempering.contracts import Example, Kind
from tempering.errors import DataError
from tempering.tasks.answered import AnswerReader
from tempering.tasks.answered import choose as choose_answered
from tempering.tasks.columnar import SPLIT_NAMES, read_arrow_folder, read_hub, read_parquet
from tempering.tasks.columns import Columns, choose_columns
from tempering.tasks.conll import ENDINGS, lacks_header, looks_like_conll, parse_conll
from tempering.tasks.delimited import parse_delimited
from tempering.tasks.encoding import missing_file, read_text
from tempering.tasks.jsonfiles import parse_json, parse_jsonl
from tempering.tasks.labels import read_labels
from tempering.tasks.table import Table, data_error, is_missing, is_unicode, show, some
from tempering.tasks.tagcolumns import choose as choose_tagged
from tempering.tasks.tagcolumns import tags_of, untagged
from tempering.tasks.tagged import TagReader

SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet", ".pq", *ENDINGS)
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def read_table(path: str | Path) -> Table:
    """The one table in a file, by its ending: CSV, TSV, JSONL, JSON, Parquet or CoNLL. Any damage is a `DataError`."""
    path = Path(path)
    ending = path.suffix.lower()
    if not path.exists():
        raise missing_file(path)
    if path.is_dir():
        raise data_error(str(path), "expected a file, found a folder; name the file in it")
    if ending not in SUFFIXES:
        advice = "save the sheet as CSV" if ending in (".xls", ".xlsx", ".ods") else "rename or convert it"
        raise data_error(str(path), f"expected a file ending in {', '.join(SUFFIXES)}, found {show(ending)}; {advice}")
    if ending in (".parquet", ".pq"):
        return read_parquet(path)
    text = read_text(path)
    if ending in (".jsonl", ".ndjson"):
        return parse_jsonl(text, str(path))
    if ending == ".json":
        return parse_json(text, str(path))
    if ending in ENDINGS:
        if ending == ".txt" and not looks_like_conll(text):
            problem = "expected words and tags in columns, since the file ends in .txt, found plain text"
            raise data_error(str(path), f"{problem}; texts with labels come as CSV or JSONL")
        return parse_conll(text, str(path))
    if ending in (".tsv", ".tab") and lacks_header(text):
        problem = "expected a header row and then a row a line, found words with tags in columns, parted by empty lines"
        raise data_error(str(path), f"{problem}; rename it to {path.with_suffix('.conll').name}")
    return parse_delimited(text, str(path), tab=ending in (".tsv", ".tab"))


def open_source(path: str | Path) -> dict[str, Table]:
    """Tables by split ("train", perhaps "dev" and "test") of a file, a folder or a data set of the hub."""
    local = Path(path)
    try:
        if local.is_dir():
            return _open_folder(local)
        exists = local.exists()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL in it
        raise data_error(str(path), f"expected a path, found one the system refuses ({error}); check it") from None
    looks_like_hub = _HUB.fullmatch(str(path)) and local.suffix.lower() not in (*SUFFIXES, ".txt") and not local.parent.exists()
    if not exists and looks_like_hub:
        return read_hub(str(path))
    return {"train": read_table(local)}


def _open_folder(folder: Path) -> dict[str, Table]:
    if any((folder / name).exists() for name in ("dataset_info.json", "dataset_dict.json", "state.json")):
        return read_arrow_folder(folder)
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(file.stem.casefold())
        if split and file.suffix.lower() in SUFFIXES and file.is_file():
            if split in found:
                both = f"{found[split].name} and {file.name}"
                raise data_error(str(folder), f"expected one {split} file, found {both}; name the files instead")
            found[split] = file
    if "train" not in found:
        names = some([entry.name for entry in sorted(folder.iterdir())]) or "nothing"
        raise data_error(str(folder), f"expected train.csv, train.jsonl or the like in the folder, found {names}; name a data file instead")
    return {split: read_table(file) for split, file in found.items()}


def examples_of(table: Table, columns: Columns, labels: list[Any] | None) -> tuple[Example, ...]:
    """One `Example` a row. A text that is missing, not a string or not Unicode is a `DataError`."""
    names = [columns.text] + ([columns.text_pair] if columns.text_pair else [])
    for name in names:
        for index, value in enumerate(table.columns[name]):
            if not isinstance(value, str) or not is_unicode(value):
                raise _bad_text(table, name, index, value)
    texts = zip(*(table.columns[name] for name in names), strict=True)
    given = labels if labels is not None else [None] * len(table)
    return tuple(Example(text, label, row) for text, label, row in zip(texts, given, table.rows, strict=True))


def _bad_text(table: Table, column: str, index: int, value: Any) -> DataError:
    if is_missing(value):
        return table.error("expected text, found nothing; fill it in or delete the row", index=index, column=column)
    if isinstance(value, str):
        return table.error(f"expected Unicode text, found a broken character in {show(value)}; correct it", index=index, column=column)
    advice = "token lists cannot be classified as texts" if isinstance(value, list) else "choose another column with --text or convert it"
    return table.error(f"expected text, found {show(value)} ({type(value).__name__}); {advice}", index=index, column=column)


def read_texts(path: str | Path, text: str | None = None) -> list[str]:
    """Unlabelled texts: a .txt file with one a line (blank lines skipped), or the text column of any table (both of a pair)."""
    path = Path(path)
    if path.suffix.lower() == ".txt":
        lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
        return [line for line in lines if line.strip()]
    table = open_source(path)["train"]
    columns = choose_columns(table, text, None, None, labelled=False)
    return [" ".join(example.texts) for example in examples_of(table, columns, None)]


def read_rows(
    path: str | Path,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    columns: Mapping[str, str] | None = None,
    kind: Kind = "classification",
    labels: Sequence[Any] = (),
    split: str = "test",
    say: Callable[[str], object] | None = None,
) -> tuple[list[dict[str, Any]], tuple[Example, ...]]:
    """Rows to predict: every input column as it stands, and the examples made of the text columns (labels are not read).

    ``columns`` are those of training (`Task.columns`): they are used where the file has them, unless named here. Rows to be tagged
    (``kind``) may hold tokens or texts; a .txt file holds a text a line, unless one of its columns holds tags: those of a scheme or the
    ``labels`` of the model. Of a folder the ``split`` is read, if it has it, else train. ``say`` is given what is worth telling of how
    the file was read.
    """
    if kind == "tagging":
        table = _to_tag(path, labels)
        if say is not None:
            for note in table.notes:
                say(note)
        return table.records(), untagged(table, text, (columns or {}).get("text"))
    table = _single(path, split)
    trained = {key: name for key, name in (columns or {}).items() if name in table.columns}
    if text is None and "text" in trained and ("text_pair" in trained or "text_pair" not in (columns or {})):
        text, text_pair = trained["text"], text_pair or trained.get("text_pair")
    chosen = choose_columns(table, text, text_pair, None, labelled=False)
    _same_arity(table, chosen, columns)
    return table.records(), examples_of(table, chosen, None)


def read_labeled(
    path: str | Path, labels: tuple[Any, ...], kind: Kind, *, columns: Mapping[str, str], label: str | None = None
) -> tuple[Example, ...]:
    """Rows to evaluate a trained model on: the training columns, with labels checked against the ``labels`` it knows."""
    table = _single(path)
    if kind in ("tagging", "question_answering"):
        return _structured(table, labels, kind, columns, label)
    chosen = choose_columns(table, columns["text"], columns.get("text_pair"), label or columns["label"])
    return examples_of(table, chosen, read_labels(table, chosen.label, kind, labels))


def _structured(table: Table, labels: tuple[Any, ...], kind: Kind, columns: Mapping[str, str], label: str | None) -> tuple[Example, ...]:
    """Rows with tags or answers: the training columns where the table has them, else those found by their usual names."""
    known = {role: name if name in table.columns else None for role, name in columns.items()}
    asked = label or known.get("label")
    if kind == "tagging":
        found = TagReader.known(choose_tagged(table, known.get("text"), asked), labels).read(table, "data")
    else:
        found = AnswerReader(choose_answered(table, known.get("text"), known.get("text_pair"), asked)).read(table, "data")
    assert found is not None  # the column was found
    return found


def _to_tag(path: str | Path, labels: Sequence[Any]) -> Table:
    """The table of a file; of a text file none of whose columns holds tags its lines, however many words these have."""
    file = Path(path)
    if file.suffix.lower() != ".txt" or not file.is_file():
        return _single(path)
    text = read_text(file)
    notes: list[str] = []
    if looks_like_conll(text):
        table = parse_conll(text, str(path))
        if (column := tags_of(table, labels)) is not None:
            return replace(table, notes=(*table.notes, f"{path}: read as a word a line with its tag, for {show(column)} holds tags"))
        name = file.with_suffix(".conll").name
        notes.append(f"{path}: read as a text a line, for no column holds tags of the model; if each line is a word, rename it to {name}")
    lines = [(i, line.removesuffix("\r")) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        return _single(path)
    return Table({"text": [line for _, line in lines]}, [i for i, _ in lines], str(path), notes=tuple(notes))


def _single(path: str | Path, split: str = "test") -> Table:
    splits = open_source(path)
    return splits.get(split, splits["train"])


def _same_arity(table: Table, chosen: Columns, trained: Mapping[str, str] | None) -> None:
    if trained and "text_pair" in trained and chosen.text_pair is None:
        found = some([show(name) for name in table.columns])
        raise table.error(f"expected two texts a row, as in training, found {found}; name the second with --text-pair")
    if trained and "text_pair" not in trained and chosen.text_pair is not None:
        pair = f"{show(chosen.text)} and {show(chosen.text_pair)}"
        raise table.error(f"expected one text a row, as in training, found the pair {pair}; name one with --text")
