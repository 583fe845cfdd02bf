"""The report on real-data claims: its test of variances, its pooling over tasks, and what it says of them."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tempering.recipe import Recipe
from tempering.study.decide import conclude
from tempering.tasks import Task
from tests.report.conftest import make_study
from tests.tiny import tiny_examples


def load() -> ModuleType:
    """A script whose name is no module's."""
    path = Path(__file__).parents[1] / "experiments" / "claims-stability.py"
    spec = importlib.util.spec_from_file_location("claims_stability", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims_stability"] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


claims = load()
from_table = sys.modules["claims_table"]  # what it imported from beside it


def result(task: str, method: str = "mmr", better: float = 0.02, ratio: float = 0.5) -> Any:
    cell = conclude(*make_study(recipes=("full",), sizes=("32",), trouble=False)).sizes[0].cells[0]
    return claims.Result(task, method, "accuracy", cell, cell, better, better - 0.01, better + 0.01, 0.04, ratio, 0.2)


def given(**changes: Any) -> argparse.Namespace:
    base = {"rows": 128, "seeds": 4, "test_rows": 400, "steps": 0, "model": "minilm", "surt_steps": 100}
    return argparse.Namespace(**(base | changes))


def test_the_test_of_two_variances_keeps_its_level_although_pairs_are_correlated() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        shared = rng.standard_normal(6)
        found.append(claims.morgan_pitman(shared + 0.5 * rng.standard_normal(6), shared + 0.5 * rng.standard_normal(6))[1])
    rejected = sum(p < 0.05 for p in found)
    assert stats.binom.cdf(rejected, 1000, 0.05) > 0.001
    assert stats.binom.sf(rejected - 1, 1000, 0.05) > 0.001


def test_a_variance_that_differs_is_found_and_its_ratio_told() -> None:
    rng = np.random.default_rng(1)
    shared = rng.standard_normal(40)
    ratio, p = claims.morgan_pitman(shared, 0.5 * shared + 0.1 * rng.standard_normal(40))
    assert ratio == pytest.approx(0.5, rel=0.1)
    assert p < 0.001
    assert math.isnan(claims.morgan_pitman([0.5, 0.5, 0.5], [0.4, 0.5, 0.6])[0])
    assert math.isnan(claims.morgan_pitman([0.5, 0.6], [0.4, 0.6])[1])


def test_the_interval_over_tasks_is_the_t_interval() -> None:
    values = [0.3, -0.1, 0.4, 0.2]
    mean, low, high = from_table.interval(values)
    theirs = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *theirs))
    assert from_table.interval([0.3, math.nan])[0] == 0.3
    assert math.isnan(from_table.interval([0.3])[1])


def test_yes_and_no_are_said_only_where_the_whole_interval_is_on_one_side() -> None:
    rows = [result(f"t{i}", "mmr", 0.02 + 0.001 * i, 0.5 + 0.01 * i) for i in range(5)]
    rows += [result(f"t{i}", "lnsr", -0.02 - 0.001 * i, 2 + 0.1 * i) for i in range(5)]
    rows += [result(f"t{i}", "r3f", 0.02 * (-1) ** i, 2.0 ** ((-1) ** i)) for i in range(4)]
    text = claims.report(rows, given(), ended=False)
    lines = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    assert lines[from_table.NAMES["mmr"]].count("**yes**") == 2
    assert lines[from_table.NAMES["lnsr"]].count("**no**") == 2
    assert lines[from_table.NAMES["r3f"]].count("not shown") == 2
    assert "| 5 | 2.2 (2.0 to 2.4) |" in lines[from_table.NAMES["mmr"]]


def test_what_is_missing_is_said() -> None:
    assert "No comparison is finished." in claims.report([], given(), ended=True)
    assert "The hours were over" in claims.report([result("rte")], given(), ended=True)
    assert "16 steps only: a trial" in claims.report([result("rte")], given(steps=16), ended=False)


def test_a_cut_is_the_same_every_time_and_keeps_the_order() -> None:
    split = Task.from_examples(train=tiny_examples(40), dev=tiny_examples(40, start=100)).train
    cut = claims._cut(split, 10)
    assert cut == claims._cut(split, 10)
    rows = [e.row for e in cut]
    assert rows == sorted(rows)
    assert len(rows) == 10
    assert claims._cut(split, 40) is split


def test_every_recipe_is_there_and_runs_as_shipped_but_for_the_steps_of_surt() -> None:
    for name in ("full", *claims.FIRST, *claims.SECOND):
        assert claims._recipe(given(), name) == Recipe.load(name)
    surt = claims._recipe(given(), "surt")
    assert (surt.stages[0].max_steps, surt.stages[1]) == (100, Recipe.load("surt").stages[1])
    assert [stage.max_steps for stage in claims._recipe(given(steps=16), "surt").stages] == [16, 16]
    assert set(from_table.NAMES) == {*claims.FIRST, "surt", *claims.SECOND}
