"""``temper predict``: the input's columns, the prediction, and a probability a label."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.commands.console import tell
from tempering.commands.inputs import Source
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.contracts import Prediction

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")


def run(folder: str, source: Source, output: Path | None) -> None:
    """Predict every row of ``source.data`` and write them to ``output``, by its ending, or as CSV to standard output."""
    _check_output(output, source.data)
    from tempering.saving import load
    from tempering.tasks.readers import read_rows
    from tempering.train.evaluate import telling

    learner = load(folder)
    rows, examples = read_rows(source.data, text=source.text, text_pair=source.text_pair, columns=learner.record.get("columns"))
    labels = list(learner.framing.labels)
    with telling(learner, lambda event: tell(event["text"])):
        made = [_fields(prediction, labels) for prediction in learner.predictions(examples)]
    replaced = sorted(set(rows[0]) & set(made[0])) if rows else []
    if replaced:
        tell(f"note: the input has its own {', '.join(replaced)}; the new values stand in their place")
    _write([row | extra for row, extra in zip(rows, made, strict=True)], output)
    if output is not None:
        tell(f"{len(rows):,} rows predicted: {output}")


def _check_output(output: Path | None, data: str) -> None:
    if output is None:
        return
    if output.suffix.lower() not in ENDINGS:
        raise RecipeError(f"--output {output}: expected a name ending in {', '.join(ENDINGS)}, found {output.suffix or 'none'!r}")
    if not output.parent.is_dir():
        raise RecipeError(f"--output {output}: there is no folder {output.parent}; make it first")
    if output.exists() and Path(data).exists() and output.samefile(data):
        raise RecipeError(f"--output {output}: that is the input file; give another name")


def _fields(prediction: Prediction, labels: Sequence[Any]) -> dict[str, Any]:
    """The new columns of one row."""
    said = list(prediction.label) if isinstance(prediction.label, tuple) else prediction.label
    return {"prediction": said} | {f"prob_{label}": float(prediction.probabilities[label]) for label in labels}


def _write(rows: list[dict[str, Any]], output: Path | None) -> None:
    ending = ".csv" if output is None else output.suffix.lower()
    text = _lines(rows) if ending in (".jsonl", ".ndjson") else _table(rows, "\t" if ending == ".tsv" else ",")
    if output is None:
        sys.stdout.write(text)
        return
    part = output.with_name(f".{output.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8", newline="")
    part.replace(output)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _table(rows: list[dict[str, Any]], separator: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["prediction"], delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Sets of labels stand between bars, as the readers take them; what CSV cannot hold stands as JSON."""
    if isinstance(value, list) and all(isinstance(v, (str, int, float)) for v in value):
        return "|".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else value
