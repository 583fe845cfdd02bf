"""Parquet, Arrow folders, hub data sets and frames in memory. What pyarrow or datasets raise becomes one `DataError`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tempering.errors import DataError
from tempering.tasks.encoding import read_bytes
from tempering.tasks.table import Table, data_error, plain, show, some

SPLIT_NAMES = {"train": "train", "training": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}


def read_parquet(path: Path) -> Table:
    """A Parquet file, its values as built-in Python ones."""
    data = read_bytes(path)
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(arrow.BufferReader(data))
        names, columns = table.column_names, [column.to_pylist() for column in table.columns]
    except Exception as error:  # pyarrow raises half a dozen unrelated classes on damaged files
        raise _unreadable(str(path), "a Parquet file", error) from None
    return _table(names, columns, str(path))


def read_arrow_folder(path: Path) -> dict[str, Table]:
    """A folder written by ``datasets.save_to_disk``, one table a split."""
    datasets = importlib.import_module("datasets")
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets and pyarrow raise unrelated classes on damaged folders
        raise _unreadable(str(path), "a folder written by datasets.save_to_disk", error) from None
    return from_frames(loaded, str(path))


def read_hub(name: str) -> dict[str, Table]:
    """A data set of the hub (or its local cache), one table a split."""
    datasets = importlib.import_module("datasets")
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # no network, no such data set, several configurations, an unsafe script
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise data_error(name, f"no such file or folder, and the hub data set of that name cannot be loaded ({reason}); check it") from None
    return from_frames(loaded, name)


def from_frames(frame: Any, source: str) -> dict[str, Table]:
    """Tables by split name: "train" for a single frame; a mapping of frames is sorted into train, dev and test."""
    if not (isinstance(frame, Mapping) and frame and all(_is_frame(part) for part in frame.values())):
        return {"train": from_frame(frame, source)}
    known = {SPLIT_NAMES[str(name).casefold()]: part for name, part in frame.items() if str(name).casefold() in SPLIT_NAMES}
    if "train" not in known and len(frame) == 1:
        known = {"train": next(iter(frame.values()))}
    if "train" not in known:
        found = some([show(name) for name in frame])
        raise data_error(source, f"expected a split called train, found {found}; rename one or give it alone")
    return {split: from_frame(part, f"{source} ({split})") for split, part in known.items()}


def from_frame(frame: Any, source: str = "memory") -> Table:
    """A pandas or polars frame, a ``datasets.Dataset``, a dict of columns or a list of dicts."""
    if hasattr(frame, "features") and hasattr(frame, "column_names"):
        return _from_dataset(frame, source)
    if hasattr(frame, "iloc"):
        names = [str(name) for name in frame.columns]
        return _table(names, [[plain(v) for v in frame.iloc[:, i].tolist()] for i in range(len(names))], source)
    if hasattr(frame, "iter_rows"):
        return _table([str(name) for name in frame.columns], [column.to_list() for column in frame.get_columns()], source)
    if isinstance(frame, Mapping) and frame:
        return _table([str(name) for name in frame], [[plain(v) for v in column] for column in frame.values()], source)
    if isinstance(frame, Sequence) and frame and all(isinstance(row, Mapping) for row in frame):
        names = list(dict.fromkeys(str(name) for row in frame for name in row))
        return _table(names, [[plain(row.get(name)) for row in frame] for name in names], source)
    kind = "nothing" if isinstance(frame, (Mapping, Sequence)) and not frame else f"an object of type {type(frame).__name__}"
    raise data_error(source, f"expected a pandas frame, a datasets.Dataset, a dict of columns or a list of dicts, found {kind}")


def _is_frame(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("features", "iloc", "iter_rows"))


def _from_dataset(dataset: Any, source: str) -> Table:
    """A ``datasets.Dataset``; a ClassLabel column gives its names, since its integers are only positions in them."""
    columns, notes = [], []
    for name in dataset.column_names:
        try:
            values = list(dataset.with_format(None)[name])
        except Exception as error:  # pyarrow and user-made features raise unrelated classes
            raise _unreadable(source, f"a readable column {show(name)}", error) from None
        feature = dataset.features[name]
        classes = getattr(getattr(feature, "feature", feature), "names", None)
        if classes is not None:
            values = [_by_name(v, classes) for v in values]
            notes.append(f"the integers of column {show(name)} are shown by their names in the data set")
        columns.append([plain(v) for v in values])
    return _table(list(dataset.column_names), columns, source, tuple(notes))


def _by_name(value: Any, classes: Sequence[str]) -> Any:
    """The class an integer stands for, or those of a list of them."""
    if isinstance(value, list):
        return [_by_name(v, classes) for v in value]
    return classes[value] if isinstance(value, int) and value >= 0 else None


def _table(names: list[str], columns: list[list[Any]], source: str, notes: tuple[str, ...] = ()) -> Table:
    if not names:
        raise data_error(source, "expected columns, found none")
    if len(set(names)) < len(names):
        twice = sorted({show(name) for name in names if names.count(name) > 1})
        raise data_error(source, f"expected different column names, found {some(twice)} more than once; rename one")
    if len({len(column) for column in columns}) > 1:
        raise data_error(source, f"expected columns of equal length, found {[len(column) for column in columns]}; make them equal")
    if not columns[0]:
        raise data_error(source, f"expected data rows, found none (columns: {some([show(name) for name in names])})")
    return Table(dict(zip(names, columns, strict=True)), list(range(1, len(columns[0]) + 1)), source, notes=notes)


def _unreadable(source: str, expected: str, error: Exception) -> DataError:
    reason = str(error)[:160] or type(error).__name__
    return data_error(source, f"expected {expected}, found a damaged file or another format ({reason}); write it again")
