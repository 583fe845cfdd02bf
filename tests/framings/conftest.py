"""What the tests of framings share: a stand-in task, examples of uneven length, and models with a body given to them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tempering.contracts import Example

TEXTS = (
    ("the film was very good",),
    ("a dull story and it is not a fine day but the room was warm and the meal great",),
    ("bad",),
    ("this book is clever and this day is bright",),
)


def make_task(kind: str = "classification", labels: tuple[Any, ...] = ("bad", "good", "so so"), values: tuple[float, ...] = (1.0, 2.0, 6.0)) -> Any:
    """The part of a task that framings read."""
    targets = {
        "classification": lambda label: labels.index(label),
        "regression": float,
        "multilabel": lambda chosen: tuple(int(x in chosen) for x in labels),
    }
    train = [Example(("a",), v) for v in values] if kind == "regression" else []
    return SimpleNamespace(kind=kind, labels=() if kind == "regression" else labels, target=targets.get(kind), train=train)


@pytest.fixture
def examples() -> list[Example]:
    """Four texts of different lengths."""
    return [Example(t, None, i + 1) for i, t in enumerate(TEXTS)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
