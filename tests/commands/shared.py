"""What the tests of commands share: data, a quick fit, a real process, and what a refusal looks like."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tempering
from tempering import cli
from tests.tiny import tiny_examples

QUICK = ("max_steps=2", "min_steps=0")


def write_rows(path: Path, rows: int, start: int = 1, labels: tuple[Any, Any] = ("bad", "good")) -> Path:
    found = [{"id": e.row, "text": e.texts[0], "label": labels[e.label == "good"]} for e in tiny_examples(rows, start=start)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "label"])
        writer.writeheader()
        writer.writerows(found)
    return path


def done(*arguments: str) -> None:
    assert cli.run(list(arguments)) == 0


def fitted(bert: str, *more: str) -> None:
    done("fit", "train.csv", "--dev", "dev.csv", "--test", "test.csv", "--recipe", "full", "--model", bert, *QUICK, *more)


def spawn(*arguments: str, folder: Path, **more: Any) -> subprocess.Popen[str]:
    source = Path(tempering.__file__).parents[1]
    threads = str(torch.get_num_threads())  # as here: sums differ with the threads
    env = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "tempering", *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def refuses(*words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one error line that holds ``said``, nothing on standard output."""
    capsys.readouterr()
    assert cli.run(list(words)) == 2
    found = capsys.readouterr()
    errors = [line for line in found.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0], found.err
    assert found.err.endswith(f"{errors[0]}\n") and found.out == "" and "Traceback" not in found.err
