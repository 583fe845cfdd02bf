"""Equal budgets, no repetition, and a choice that sees dev scores only."""

from __future__ import annotations

from tempering.recipe import Recipe
from tempering.study.records import Record
from tempering.study.search import choose, settings_of
from tempering.study.store import Cell


def test_the_first_setting_is_the_recipes_own_and_none_repeats() -> None:
    found = settings_of(Recipe.load("full"), 3, 0)
    assert found[0] == ()
    assert len(set(found)) == 3
    assert {dict(s).get("learning_rate") for s in found[1:]} == {2e-5, 1e-4}


def test_a_budget_of_one_searches_nothing_and_a_large_one_takes_the_whole_space() -> None:
    assert settings_of(Recipe.load("full"), 1, 0) == [()]
    assert len(settings_of(Recipe.load("full"), 50, 0)) == 3


def test_a_space_that_leaves_the_recipe_out_is_used_whole_and_never_repeats_it() -> None:
    full = Recipe.load("full")
    other = Recipe("x", full.stages, {"learning_rate": [1e-3, 5e-5, 1e-4]})  # its own, 5e-5, is not the first
    assert {dict(s).get("learning_rate") for s in settings_of(other, 9, 0)} == {None, 1e-3, 1e-4}


def test_values_may_be_lists() -> None:
    layers = Recipe("x", Recipe.load("head").stages, {"framing.layers": [[-1], [-2], [-1, -2]]})
    assert sorted(str(dict(s).get("framing.layers")) for s in settings_of(layers, 3, 0)) == ["None", "[-1, -2]", "[-2]"]


def test_the_order_depends_on_the_seed_alone() -> None:
    assert settings_of(Recipe.load("lora"), 2, 7) == settings_of(Recipe.load("lora"), 2, 7)


def _run(choice: int, seed: int, dev: float, status: str = "done") -> tuple[Cell, Record]:
    cell = Cell("search", "full", "k", "32", seed, choice, (("learning_rate", 10.0**-choice),) if choice else ())
    return cell, Record("full", "k", "32", 32, seed, dict(cell.setting), status=status, dev={"accuracy": dev}, seconds=2.0)


def test_the_best_mean_dev_score_wins_and_its_search_is_counted() -> None:
    runs = [_run(0, 0, 0.6), _run(0, 1, 0.6), _run(1, 0, 0.9), _run(1, 1, 0.5), _run(2, 0, 0.65), _run(2, 1, 0.65)]
    cell, seconds = choose(runs, "accuracy", higher=True)["full", "32"]
    assert cell.choice == 1
    assert seconds == 12.0
    assert choose(runs, "accuracy", higher=False)["full", "32"][0].choice == 0


def test_ties_go_to_the_earlier_setting_and_a_failed_run_is_the_worst() -> None:
    assert choose([_run(1, 0, 0.7), _run(0, 0, 0.7)], "accuracy", higher=True)["full", "32"][0].choice == 0
    assert choose([_run(0, 0, 0.9, "failed"), _run(1, 0, 0.1)], "accuracy", higher=True)["full", "32"][0].choice == 1
