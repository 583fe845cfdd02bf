"""Studies made up for the report's tests: four recipes x three sizes x five seeds on 1821 test rows, with trouble in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tempering.study.records import Record, StudyInfo

SIZES = {"32": 32, "128": 128, "512": 512, "all": 6920}
LEVELS = {"full": 0.62, "lora": 0.63, "bitfit": 0.60, "head-only": 0.66}
TRAINED = {"full": 22_713_602, "lora": 147_456, "bitfit": 51_000, "head-only": 770}
Study = tuple[StudyInfo, list[Record]]


def make_study(
    recipes: tuple[str, ...] = tuple(LEVELS),
    sizes: tuple[str, ...] = ("32", "128", "512"),
    seeds: int = 5,
    test_rows: int = 300,
    trouble: bool = True,
    **changes: Any,
) -> Study:
    """Records with scores that rise with size. With ``trouble``: lora fails at 512 rows with seed 3, full collapses twice at 32."""
    rng = np.random.default_rng(7)
    gold = rng.integers(0, 2, test_rows or 1821)
    records = [_record(r, i, s, seed, gold, test_rows, trouble) for i, r in enumerate(recipes) for s in sizes for seed in range(seeds)]
    info = StudyInfo(
        title="Which recipe for reviews.csv?",
        data="reviews.csv",
        model="sentence-transformers/all-MiniLM-L6-v2",
        kind="classification",
        metric="accuracy",
        recipes=list(recipes),
        sizes=list(sizes),
        seeds=seeds,
        budget=4,
        majority=0.501,
        dev_rows=872,
        test_rows=test_rows,
        labels=["negative", "positive"],
        gold=[int(g) for g in gold] if test_rows else [],
        findings=["12 rows of train are duplicates (rows 14, 87, 301 ...)"] if trouble else [],
        fingerprint="5f0c2a",
    )
    return StudyInfo(**(info.as_dict() | changes)), records


def _record(recipe: str, index: int, size: str, seed: int, gold: Any, test_rows: int, trouble: bool) -> Record:
    rng = np.random.default_rng([index, SIZES[size], seed])
    if trouble and (recipe, size, seed) == ("lora", "512", 3):
        return Record(recipe, "k", size, SIZES[size], seed, status="failed", reason="the loss was <nan> at step 14")
    collapsed = trouble and recipe == "full" and size == "32" and seed in (1, 4)
    level = 0.5 if collapsed else LEVELS.get(recipe, 0.6 + 0.01 * index) + 0.055 * np.log2(SIZES[size] / 32) ** 0.8 + rng.normal(0, 0.012)
    # Rows are of unequal difficulty, the same for every recipe: runs agree on most of them, as real ones do.
    right = np.random.default_rng(1).random(len(gold)) * 0.8 + rng.random(len(gold)) * 0.2 < level
    score = float(right.mean())
    return Record(
        recipe,
        f"key-{recipe}",
        size,
        SIZES[size],
        seed,
        setting={"learning_rate": 5e-5 if seed < 3 else 1e-4},
        dev={"accuracy": score + 0.004},
        test={"accuracy": score} if test_rows else {},
        items=[float(r) for r in right] if test_rows else [],
        predictions=[int(g if r else 1 - g) for g, r in zip(gold, right, strict=True)] if test_rows else [],
        collapsed=collapsed,
        seconds=(2.0 + SIZES[size] / 40) * (0.2 if recipe == "head-only" else 1.0 - 0.1 * index % 0.7),
        search_seconds=60.0 + SIZES[size] / 10,
        peak_memory=812_000_000 - 40_000_000 * index,
        trained_parameters=TRAINED.get(recipe, 10_000 * (index + 1)),
        total_parameters=22_861_058,
        artefact_bytes=TRAINED.get(recipe, 10_000) * 4,
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
    )


@pytest.fixture(scope="session")
def study() -> Study:
    """The usual study, with a failed cell and collapsed runs."""
    return make_study(test_rows=1821)


@pytest.fixture(scope="session")
def make() -> Callable[..., Study]:
    """`make_study`, for studies of other shapes."""
    return make_study
