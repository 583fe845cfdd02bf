"""A finished table and, beside it, what it was made of: the command and the cells, from which the same command goes on elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OF_MACHINE = ("--data", "--output", "--table", "--cells", "--hours")  # options that say nothing of what was measured


def publish(text: str, path: Path) -> None:
    """Write a table and show it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)


def keep(path: Path, command: Sequence[str], settings: Mapping[str, Any], cells: Mapping[str, Any]) -> None:
    """Write what a table was made of."""
    kept = {"command": list(command), "settings": settings, "cells": dict(sorted(cells.items()))}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def portable(words: Sequence[str]) -> list[str]:
    """The words of a command line, its script first, without those for this machine alone; paths as `beside_project` writes them."""
    found, rest = list[str](), iter(words)
    for word in rest:
        if word in OF_MACHINE:
            next(rest, None)
        elif not word.startswith(tuple(f"{name}=" for name in OF_MACHINE)):
            found.append(beside_project(word))
    return found


def beside_project(word: str) -> str:
    """A path that exists, as seen from the project's folder, so that it is the same wherever both are; any other word as it is."""
    return os.path.relpath(word, Path(__file__).parents[1]) if os.sep in word and Path(word).exists() else word
