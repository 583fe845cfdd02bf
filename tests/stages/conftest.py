"""Small labelled data sets on disk, as stages name them, and what their runs leave."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import NEGATIVE, POSITIVE, WORDS, tiny_examples

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, rows, kind, seed)``: a folder of that name with train and dev rows; its path."""

    def make(name: str, rows: int = 24, kind: str = "classification", seed: int = 0, dev: int = 12, **swap: str) -> str:
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        for split, count, start in (("train", rows, 1), ("dev", dev, rows + 1)):
            found = tiny_examples(count, kind, seed, start)
            lines = [json.dumps({"text": e.texts[0], "label": _plain(e.label, swap)}) for e in found]
            if lines:
                (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(folder)

    return make


def _plain(label: Any, swap: dict[str, str]) -> Any:
    return list(label) if isinstance(label, tuple) else swap.get(label, label) if isinstance(label, str) else label


TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.fixture
def write_tags(tmp_path: Path) -> Write:
    """``write_tags(name, rows, seed)``: a folder with tokens and tags, as WikiANN has them; its path."""

    def make(name: str, rows: int = 20, seed: int = 0) -> str:
        rng = random.Random(f"{name}{seed}")
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        for split, count in (("train", rows), ("dev", rows // 2)):
            lines = []
            for _ in range(count):
                tokens, tags = rng.choices(WORDS, k=rng.randint(2, 5)), []
                tags = ["O"] * len(tokens)
                for kind, words in (("PER", POSITIVE), ("LOC", NEGATIVE)):
                    tokens += [*rng.sample(words, 2), rng.choice(WORDS)]
                    tags += [f"B-{kind}", f"I-{kind}", "O"]
                lines.append(json.dumps({"tokens": tokens, "tags": tags}))
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(folder)

    return make
