"""A tiny model on disk, and a working folder with data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.shared import write_rows
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("models") / "bert"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with train.csv, dev.csv and test.csv."""
    monkeypatch.chdir(tmp_path)
    for name, rows, start in (("train", 24, 1), ("dev", 12, 100), ("test", 12, 200)):
        write_rows(tmp_path / f"{name}.csv", rows, start)
    return tmp_path
