"""What the tests of framings share: texts of uneven length, a stand-in for a task, and one batch through a framing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tempering.contracts import Batch, Example

TEXTS = (
    "the film was very good",
    "a dull story and it is not a fine day but the room was warm and the meal great",
    "bad",
    "this book is clever and this day is bright",
)


@pytest.fixture
def examples() -> list[Example]:
    """Four unlabelled texts of different lengths."""
    return [Example((text,), None, i) for i, text in enumerate(TEXTS, start=1)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def task_of() -> Callable[..., Any]:
    """A factory of stand-in tasks: what framings read of one. ``values`` are the training values of a regression task."""

    def make(
        kind: str = "classification", labels: tuple[Any, ...] = ("bad", "good", "so so"), values: tuple[float, ...] = (1, 2, 6)
    ) -> Any:
        targets: dict[str, Callable[[Any], Any]] = {
            "classification": labels.index,
            "regression": float,
            "multilabel": lambda chosen: tuple(int(x in chosen) for x in labels),
            "text": str,
        }
        train = [Example(("a",), v) for v in values] if kind == "regression" else []
        return SimpleNamespace(kind=kind, labels=() if kind == "regression" else labels, target=targets[kind], train=train)

    return make


@pytest.fixture
def batch_of(rng: np.random.Generator) -> Callable[[Any, list[Example]], Batch]:
    """Render and collate examples with a framing module."""
    return lambda module, rows: module.collate([prompts[0] for prompts in module.render(rows, (), rng)], rng)
