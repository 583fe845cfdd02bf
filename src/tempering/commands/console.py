"""What commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any


def say(*lines: str) -> None:
    """Results: lines on standard output."""
    for line in lines if _speaks() else ():
        print(line)


def tell(*lines: str) -> None:
    """Notes and progress: lines on standard error."""
    for line in lines if _speaks() else ():
        print(line, file=sys.stderr)


def _speaks() -> bool:
    """Of several processes that do one command, the first speaks."""
    from tempering.train.progress import first_process

    return first_process()


def show_json(value: Any) -> None:
    """One JSON value on standard output; numbers that are not finite are null."""
    if _speaks():
        print(as_json(value), end="")


def as_json(value: Any) -> str:
    """Indented JSON text, ending in a new line."""
    from tempering.report.raw import plain

    return json.dumps(plain(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def aligned(rows: Iterable[tuple[str, str]], indent: str = "  ") -> list[str]:
    """(name, text) pairs as two columns."""
    rows = list(rows)
    wide = max((len(name) for name, _ in rows), default=0)
    return [f"{indent}{name:<{wide}}  {text}".rstrip() for name, text in rows]


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min {rest} s"


def score_words(metrics: dict[str, dict[str, float]], main: str) -> str:
    """``dev accuracy 0.9123, test accuracy 0.8990``."""
    return ", ".join(f"{split} {main} {values[main]:.4f}" for split, values in metrics.items() if main in values)


def surprise(error: Exception) -> str:
    """One line about an exception nobody foresaw; its traceback goes to a file."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="temper-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    first = str(error).strip().split("\n", 1)[0][:200]
    return f"unexpected {type(error).__name__}: {first} (the full traceback is in {file.name}; please report it)"


def quieten() -> None:
    """Other libraries' warnings, bars and telemetry stay off the screen; what matters is checked and said by ours."""
    import warnings

    warnings.simplefilter("ignore")
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name, value in (quiet | {"TOKENIZERS_PARALLELISM": "false", "DATASETS_VERBOSITY": "error"}).items():
        os.environ.setdefault(name, value)
