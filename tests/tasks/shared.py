"""What the tests of data share: small files, and values that are told apart by their type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def jsonl(path: Path, labels: list[Any], **more: list[Any]) -> Path:
    rows = [{"text": f"text {i}", "label": label, **{k: v[i] for k, v in more.items()}} for i, label in enumerate(labels)]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def exact(values: Any) -> list[tuple[str, Any]]:
    return [(type(value).__name__, value) for value in values]
