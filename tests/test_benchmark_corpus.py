"""The benchmark of a large corpus: what it watches, and that it adds up the memory of all processes that tokenize."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "corpus.py"
CHILD = "import subprocess, sys, time; x = bytearray({0}); x[::4096] = bytes(len(x[::4096])); {1}; time.sleep(1.5); print({2!r})"


@pytest.fixture
def corpus() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_corpus", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_memory_of_all_processes_is_added_up(corpus: Any) -> None:
    found = {"bytes": 1_000_000_000, "documents": 5, "tokens": 2_000, "seconds": 100.0, "again": 0.5}
    said = corpus.tokenized(found, 300_000_000, 1_200_000_000)
    assert "1000 MB, 5 documents, 2,000 tokens" in said and "10.00 MB/s" in said
    assert "peak resident memory: 300 MB, workers together 1200 MB, sum 1500 MB" in said


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_a_process_and_its_child_are_watched_apart(corpus: Any) -> None:
    child = CHILD.format(80_000_000, "pass", "")
    parent = CHILD.format(20_000_000, f"p = subprocess.Popen([sys.executable, '-c', {child!r}]); p.wait()", '{"x": 1}')
    found, mine, theirs = corpus.watched([sys.executable, "-c", parent])
    assert found == {"x": 1} and 20e6 < mine < 80e6 < theirs < 140e6


def test_a_text_is_repeated_to_the_size_asked_for_and_no_line_comes_twice(corpus: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one line\n\nanother one\n")
    corpus.repeated(tmp_path / "a.txt", tmp_path / "b.txt", 1)
    lines = (tmp_path / "b.txt").read_text().splitlines()
    assert 1_000_000 <= (tmp_path / "b.txt").stat().st_size < 1_000_100 and len(set(lines)) == len(lines)
