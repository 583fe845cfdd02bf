"""What a study says about itself: shared work is charged to no run, one limit counts all runs, and small search spaces are named."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering.contracts import Prompt
from tempering.errors import RecipeError, ResumeError
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.report.contents import contents
from tempering.study.about import describe
from tempering.studying import Study, compare
from tempering.tasks import Task
from tests.tiny import save_tiny, tiny_examples

PAUSE = 0.6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.from_examples(train=tiny_examples(40), dev=tiny_examples(12, start=100), test=tiny_examples(16, start=200))


def recipe(name: str, **changes: Any) -> Recipe:
    return Recipe.load(name).override({"max_steps": 2, "min_steps": 0, **changes})


def slow_cache(monkeypatch: pytest.MonkeyPatch, pause: float = PAUSE) -> None:
    """Every computation of trunk outputs takes so long that nobody can overlook where it is booked."""
    from tempering import cache

    real = cache._compute

    def slow(learner: Learner, prompts: list[Prompt], batch_size: int) -> np.ndarray[Any, Any]:
        time.sleep(pause)
        return real(learner, prompts, batch_size)

    monkeypatch.setattr(cache, "_compute", slow)


def test_what_runs_share_is_charged_to_none_of_them(model: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_cache(monkeypatch)
    two = [recipe("head"), replace(recipe("head", learning_rate=3e-3), name="slower"), recipe("bitfit")]
    started = time.perf_counter()
    study = compare(two, task, model, sizes=("all",), seeds=1, output_dir=tmp_path)
    whole = time.perf_counter() - started
    spent = {r.recipe: r.cache_seconds for r in study.records()}
    assert spent["head"] >= 3 * PAUSE  # training rows, dev, test
    assert spent["slower"] == spent["bitfit"] == 0
    assert all(r.seconds > 0 for r in study.records()) and sum(r.seconds for r in study.records()) < whole - spent["head"]
    assert study.info.cache_seconds == pytest.approx(spent["head"])
    conclusion = study.conclude()
    assert sum(cell.seconds for cell in conclusion.sizes[0].cells) < whole - spent["head"]
    assert Study.open(tmp_path).info == study.info


def test_the_first_table_of_costs_says_once_what_was_shared(
    model: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_cache(monkeypatch, 0.1)
    study = compare([recipe("head"), recipe("bitfit")], task, model, sizes=(8, 16), seeds=1, output_dir=tmp_path)
    first, second = contents(study.conclude(), study.records()).sections
    (note,) = first.costs.notes
    assert "computed once for all runs" in note and second.costs.notes == ()
    for form in ("r.html", "r.md", "r.txt"):
        assert study.report(tmp_path / form)[0].read_text(encoding="utf-8").count("computed once for all runs") == 1
    without = contents(replace(study.conclude(), info=replace(study.info, cache_seconds=0.0)), study.records())
    assert without.sections[0].costs.notes == ()


def test_the_share_of_the_search_is_counted_too(model: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_cache(monkeypatch, 0.1)
    study = compare([recipe("head")], task, model, sizes=(8,), seeds=1, budget=2, output_dir=tmp_path)
    (record,) = study.records()
    assert study.info.cache_seconds >= 0.3 > record.cache_seconds >= 0.1  # the search read training and dev rows, the final run test rows
    assert record.search_seconds > 0


def test_a_run_that_fails_is_charged_for_itself_alone(model: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_cache(monkeypatch, 0.5)
    monkeypatch.setattr("tempering.fitting.evaluate", lambda *_: 1 / 0)  # once training rows and dev are in the cache
    started = time.perf_counter()
    (record,) = compare([recipe("head")], task, model, sizes=(8,), seeds=1, output_dir=tmp_path).records()
    whole = time.perf_counter() - started
    assert record.status == "failed" and "ZeroDivisionError" in record.reason
    assert record.cache_seconds >= 1.0 and 0 < record.seconds < whole - record.cache_seconds


def test_importing_and_loading_are_charged_to_no_run(model: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.backbone import Backbone

    real = Backbone.load

    def slow(source: str, seed: int = 0, quantize: str | None = None) -> Backbone:
        time.sleep(3.0)
        return real(source, seed, quantize)

    monkeypatch.setattr(Backbone, "load", slow)
    (record,) = compare([recipe("head")], task, model, sizes=(8,), seeds=1, output_dir=tmp_path).records()
    assert record.status == "done" and 0 < record.seconds < 3.0


@pytest.mark.parametrize("limit", [0, 3, 5])
def test_one_limit_counts_the_runs_of_both_phases(limit: int, model: str, task: Task, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    asked: dict[str, Any] = {"sizes": (8,), "seeds": 2, "budget": 2, "output_dir": tmp_path}  # 4 runs of search, 2 final ones
    compare([recipe("head")], task, model, stop_after=limit, listener=told.append, **asked)
    assert len(told) == limit
    compare([recipe("head")], task, model, listener=told.append, **asked)
    assert len(told) == 6


def test_other_extra_metrics_are_refused(model: str, task: Task, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"sizes": (8,), "seeds": 1, "output_dir": tmp_path}
    study = compare([recipe("head")], task, model, metrics=("recall", "precision"), **asked)
    assert study.info.metrics == ["precision", "recall"]
    assert {"precision", "recall"} <= set(study.records()[0].test)
    compare([recipe("head")], task, model, metrics=("precision", "recall"), **asked)  # the order is of no matter
    with pytest.raises(ResumeError, match=r"another choice of extra metrics \(precision, recall, now none\)"):
        compare([recipe("head")], task, model, **asked)


def test_a_space_smaller_than_the_budget_is_said_in_one_note(model: str, task: Task, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    wide = replace(recipe("head"), name="wide", search=(("learning_rate", (1e-2, 2e-2, 3e-2, 4e-2)),))
    none = replace(recipe("head"), name="none", search=())
    study = compare([recipe("head"), wide, none], task, model, sizes=(8,), seeds=1, budget=4, output_dir=tmp_path, listener=told.append)
    (note,) = [e["text"] for e in told if e["event"] == "note"]
    assert note == "Fewer settings than the budget of 4 in the search space of head (3), none (1): all of them are tried."
    assert study.info.small_spaces == {"head": 3, "none": 1}
    assert note in dict(contents(study.conclude(), study.records()).method)["Settings"]
    more = compare([wide], task, model, sizes=(8,), seeds=1, budget=4, output_dir=tmp_path)
    assert more.info.small_spaces == {"head": 3, "none": 1}  # what is known of the others stays


def test_a_budget_of_one_is_no_small_space(model: str, task: Task, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    study = compare([recipe("head")], task, model, sizes=(8,), seeds=1, output_dir=tmp_path, listener=told.append)
    assert study.info.space_note == "" and [e["event"] for e in told] == ["cell"]


def test_a_search_with_one_seed_tries_each_setting_once(model: str, task: Task, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    asked: dict[str, Any] = {"sizes": (8,), "seeds": 2, "budget": 2, "output_dir": tmp_path}
    study = compare([recipe("head")], task, model, search_seeds=1, listener=told.append, **asked)
    assert [e["phase"] for e in told] == ["search"] * 2 + ["final"] * 2
    assert "tried with the first seed" in dict(contents(study.conclude(), study.records()).method)["Settings"]
    with pytest.raises(RecipeError, match="search_seeds: expected 1 to 2"):
        compare([recipe("head")], task, model, search_seeds=3, **asked)


def test_a_title_names_a_few_recipes_and_counts_many(task: Task, model: str) -> None:
    few, many = ([replace(recipe("head"), name=f"r{i}") for i in range(count)] for count in (2, 30))
    titles = [describe(found, task, model, ["8"], 1, 1, ()).title for found in (few, many)]
    assert titles == [f"r0, r1 on {task.name}", f"30 recipes on {task.name}"]
