"""``temper predict``: the input's columns, the prediction, and a probability a label."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from tempering.commands.console import tell
from tempering.commands.fields import as_conll, fields
from tempering.commands.inputs import Source
from tempering.commands.placing import in_own_texts
from tempering.contracts import Kind
from tempering.errors import RecipeError

NESTED = (".jsonl", ".ndjson")
WORDS = ".conll"
ENDINGS = (".csv", ".tsv", *NESTED, WORDS)
_BROKEN = "backslashreplace"  # half a surrogate pair, which no file can hold, stands as \ud83d: what JSON reads back as it was


class _Rows(io.StringIO):
    """Rows that the csv module ends in "\\r\\n", since it only puts the characters of its line end in quotation marks, ended in "\\n"."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


def run(folder: str, source: Source, output: Path | None, model: str | None = None) -> None:
    """Predict every row of ``source.data`` and write them to ``output``, by its ending, or as CSV to standard output.

    ``model`` is where the base model of ``folder`` is now.
    """
    _check_output(output, source.data)
    from tempering.saving import load
    from tempering.tasks.readers import read_rows
    from tempering.train.evaluate import telling

    learner = load(folder, model)
    kind: Kind = getattr(learner.framing, "kind", "text")
    labels = list(learner.framing.labels)
    _check_words(output, kind, folder)
    columns = learner.record.get("columns")
    rows, examples = read_rows(
        source.data,
        text=source.text,
        text_pair=source.text_pair,
        columns=columns,
        kind=kind,
        labels=labels,
        say=lambda note: tell(f"note: {note}"),
    )
    with telling(learner, lambda event: tell(event["text"])):
        found = learner.predictions(examples)
    if output is not None and output.suffix.lower() == WORDS:
        _put(as_conll(examples, found), output)
        tell(f"{len(rows):,} rows predicted: {output}")
        return
    nested = output is not None and output.suffix.lower() in NESTED
    if kind == "tagging":
        examples, found, note = in_own_texts(rows, examples, found)
        if note:
            tell(f"note: {note}")
    made = [fields(prediction, example, labels, kind, nested) for prediction, example in zip(found, examples, strict=True)]
    replaced = _replaced(rows, made)
    if replaced:
        tell(f"note: the input has its own {', '.join(replaced)}; the new values stand in their place")
    _write([row | extra for row, extra in zip(rows, made, strict=True)], output)
    if output is not None:
        tell(f"{len(rows):,} rows predicted: {output}")


def _replaced(rows: list[dict[str, Any]], made: list[dict[str, Any]]) -> list[str]:
    """The input's columns in whose place other values come. What a table says in letters is the number it writes."""
    shared = sorted(set(rows[0]) & set(made[0])) if rows else []
    pairs = list(zip(rows, made, strict=True))
    return [name for name in shared if any(str(_cell(row[name])) != str(_cell(extra[name])) for row, extra in pairs)]


def _check_output(output: Path | None, data: str) -> None:
    if output is None:
        return
    if output.suffix.lower() not in ENDINGS:
        raise RecipeError(f"--output {output}: expected a name ending in {', '.join(ENDINGS)}, found {output.suffix or 'none'!r}")
    if not output.parent.is_dir():
        raise RecipeError(f"--output {output}: there is no folder {output.parent}; make it first")
    if output.exists() and Path(data).exists() and output.samefile(data):
        raise RecipeError(f"--output {output}: that is the input file; give another name")


def _check_words(output: Path | None, kind: str, folder: str) -> None:
    if output is not None and output.suffix.lower() == WORDS and kind != "tagging":
        raise RecipeError(
            f"--output {output}: a line a word is for models that tag words, and {folder} does not; name a .csv or .jsonl file"
        )


def _write(rows: list[dict[str, Any]], output: Path | None) -> None:
    ending = ".csv" if output is None else output.suffix.lower()
    text = _lines(rows) if ending in NESTED else _table(rows, "\t" if ending == ".tsv" else ",")
    if output is None:
        sys.stdout.write(text.encode("utf-8", _BROKEN).decode("utf-8"))
        return
    _put(text, output)


def _put(text: str, output: Path) -> None:
    part = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", errors=_BROKEN, newline="")
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _table(rows: list[dict[str, Any]], separator: str) -> str:
    out = _Rows()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["prediction"], delimiter=separator, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Sets of labels stand between bars, as the readers take them; what CSV cannot hold stands as JSON."""
    if isinstance(value, list) and all(isinstance(v, (str, int, float)) for v in value):
        return "|".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else value
