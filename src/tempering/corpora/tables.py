"""A column of texts out of JSONL, CSV, TSV and Parquet files, and of data sets of the hub or on disk, row by row."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tempering.corpora.plain import blocks
from tempering.tasks.columns import choose_columns
from tempering.tasks.delimited import read_delimited
from tempering.tasks.table import Table, data_error, is_missing, is_unicode, show, some

Row = tuple[int, dict[str, Any]]  # its number as the user counts, and what it holds
SEEN = 64  # rows from which the column is chosen where none is named
BATCH = 1024


def texts_of(rows: Iterable[Row], source: str, column: str | None) -> Iterator[str]:
    """The texts of a column (found by its usual names where it is not named; both texts of a pair). Empty fields are left out."""
    rows = iter(rows)
    first = list(islice(rows, SEEN))
    if not first:
        raise data_error(source, "expected rows with a text, found none; the file holds no data")
    names = _columns(first, source, column)
    for number, row in chain(first, rows):
        parts = [_text(row.get(name), source, number, name) for name in names]
        if text := " ".join(part for part in parts if part):
            yield text


def _columns(first: list[Row], source: str, column: str | None) -> list[str]:
    known = list(dict.fromkeys(name for _, row in first for name in row))
    if column is not None and column not in known:
        raise data_error(source, f"expected a column {show(column)}, found {some([show(n) for n in known])}; name one of them by column")
    table = Table({name: [row.get(name) for _, row in first] for name in known}, [number for number, _ in first], source)
    chosen = choose_columns(table, column, None, None, labelled=False, option="--column (in a recipe  stages.0.column)")
    return [chosen.text, *([chosen.text_pair] if chosen.text_pair else [])]


def _text(value: Any, source: str, row: int, column: str) -> str:
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        problem = f"expected text, found {show(value)} ({type(value).__name__}); name the column of the texts by column"
        raise data_error(source, problem, row=row, column=column)
    if not is_unicode(value):
        problem = f"expected Unicode text, found a broken character in {show(value)}; correct it"
        raise data_error(source, problem, row=row, column=column)
    return value.strip()


def json_rows(path: Path) -> Iterator[Row]:
    """One object a line; blank lines are skipped but counted."""
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"expected a JSON object a line, found {show(line[:20])} ({error}); correct the line"
            raise data_error(str(path), problem, row=number) from None
        if not isinstance(value, dict):
            raise data_error(str(path), f'expected an object such as {{"text": ...}}, found {show(value)}', row=number)
        yield number, value


def delimited_rows(path: Path) -> Iterator[Row]:
    """CSV or TSV under a header, by the rules that hold for the files of tasks (`read_delimited`)."""
    tab = path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
    names, rows = read_delimited(lambda: _file_lines(path), str(path), tab=tab)
    for number, cells in rows:
        yield number, dict(zip(names, cells, strict=True))


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends. They end at "\\n" only: other Unicode line ends are legal inside a field."""
    rest = ""
    for block in blocks(path):
        *whole, rest = (rest + block).split("\n")
        yield from (f"{line}\n" for line in whole)
    if rest:
        yield rest


def _file_lines(path: Path) -> Iterator[str]:
    """Lines with their ends: "\\n", "\\r" or both, as in the files of tasks."""
    rest = ""
    for block in blocks(path):
        if rest or block:
            *whole, rest = io.StringIO(rest + block, newline="")  # the last may go on, be it by the second half of its end
            yield from whole
    if rest:
        yield rest


def parquet_rows(path: Path) -> Iterator[Row]:
    """A Parquet file, a thousand rows in memory at a time."""
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches(BATCH))
            yield from enumerate(chain.from_iterable(batches), start=1)
    except GeneratorExit:
        raise
    except Exception as error:  # pyarrow raises half a dozen unrelated classes on damaged files
        reason = str(error)[:160] or type(error).__name__
        raise data_error(str(path), f"expected a Parquet file, found a damaged one or another format ({reason})") from None


def dataset_rows(dataset: Any) -> Iterator[Row]:
    """A ``datasets.Dataset``, which lies memory-mapped on disk."""
    batches = dataset.with_format(None).iter(batch_size=BATCH)
    rows = (dict(zip(batch, values, strict=True)) for batch in batches for values in zip(*batch.values(), strict=True))
    yield from enumerate(rows, start=1)


def open_dataset(name: str, local: bool) -> Any:
    """The training split of a data set: a folder that ``datasets.save_to_disk`` wrote, or one of the hub (or its local cache)."""
    datasets = importlib.import_module("datasets")
    try:
        found = datasets.load_from_disk(name) if local else datasets.load_dataset(name)
    except Exception as error:  # no network, no such data set, several configurations, a damaged folder
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        expected = "a folder written by datasets.save_to_disk" if local else "a file, a folder or a data set of the hub"
        raise data_error(name, f"expected {expected}, which this is not ({reason}); check the path") from None
    if hasattr(found, "features") and hasattr(found, "column_names") and not isinstance(found, dict):
        return found
    if "train" not in found and len(found) != 1:
        raise data_error(name, f"expected a split called train, found {some([show(n) for n in found])}; save the one to read alone")
    return found["train"] if "train" in found else next(iter(found.values()))
