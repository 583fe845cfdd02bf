"""JSON and JSONL. Lines end at "\\n" only: other Unicode line ends are legal inside a JSON string."""

from __future__ import annotations

import json
from typing import Any

from tempering.errors import DataError
from tempering.tasks.table import Table, data_error, show


def parse_jsonl(text: str, source: str) -> Table:
    """One object a line; blank lines are skipped but counted."""
    objects: list[dict[str, Any]] = []
    rows: list[int] = []
    for row, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            objects.append(_object(_load(line, source, row), source, row))
            rows.append(row)
    return _table(objects, rows, source)


def parse_json(text: str, source: str) -> Table:
    """A list of objects, ``{"data": [objects]}``, or an object of equally long columns; JSONL under this name is read too."""
    try:
        value = _load(text, source)
    except DataError:
        if _is_jsonl(text, source):
            return parse_jsonl(text, source)
        raise
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
        if value and all(isinstance(entry, dict) and isinstance(entry.get("paragraphs"), list) for entry in value):
            value = _questions(value, source)
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        return _from_columns(value, source)
    if not isinstance(value, list):
        form = "an object" if isinstance(value, dict) else show(value)
        problem = f'expected a list of objects, {{"data": [...]}} or one list a column, found {form}'
        raise data_error(source, f"{problem}; with pandas write it with orient='records'")
    return _table([_object(entry, source, row) for row, entry in enumerate(value, start=1)], list(range(1, len(value) + 1)), source)


def _questions(articles: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """The questions of SQuAD's JSON, an object each, in order."""
    rows = []
    for article in articles:
        for paragraph in article["paragraphs"]:
            try:
                for asked in paragraph["qas"]:
                    answers = [] if asked.get("is_impossible") else asked.get("answers", [])
                    rows.append({"id": asked.get("id"), "question": asked["question"], "context": paragraph["context"], "answers": answers})
            except (KeyError, TypeError, AttributeError) as error:
                problem = f"expected SQuAD's data / paragraphs / qas with question, context and answers, found {error!r} amiss"
                raise data_error(source, f"{problem} after {len(rows)} questions; correct it") from None
    return rows


def _is_jsonl(text: str, source: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        return len(lines) > 1 and isinstance(_load(lines[0], source), dict)
    except DataError:
        return False


def _load(text: str, source: str, row: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        row = row if row is not None else error.lineno
        found = show(error.doc[error.pos : error.pos + 20]) if error.pos < len(error.doc) else "its end"
        problem = f"expected JSON, found {found} at character {error.colno} ({error.msg}); correct the line"
        raise data_error(source, problem, row=row) from None
    except (ValueError, RecursionError) as error:
        raise data_error(source, f"expected JSON, found what cannot be read ({type(error).__name__}: {error})", row=row) from None


def _object(value: Any, source: str, row: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise data_error(source, f'expected an object such as {{"text": ..., "label": ...}}, found {show(value)}', row=row)
    return value


def _table(objects: list[dict[str, Any]], rows: list[int], source: str) -> Table:
    if not objects:
        raise data_error(source, "expected at least one object, found none; the file holds no data")
    names = list(dict.fromkeys(name for entry in objects for name in entry))
    if not names:
        raise data_error(source, "expected objects with fields, found only empty ones", row=rows[0])
    return Table({name: [entry.get(name) for entry in objects] for name in names}, rows, source)


def _from_columns(columns: dict[str, list[Any]], source: str) -> Table:
    lengths = {name: len(column) for name, column in columns.items()}
    count = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        raise data_error(source, f"expected columns of equal length, found {show(lengths)}; make them equal")
    if not count:
        raise data_error(source, "expected at least one row, found none; the file holds no data")
    return Table(dict(columns), list(range(1, count + 1)), source)
