"""Error rates measured by simulation: equal recipes are called different, and intervals miss, at most as often as promised.

A method passes when its count of errors could come from a 5 % error rate in all but 1 of 1,000 such simulations. The same check
must fail for methods that are wrong on purpose: uncorrected t tests and a percentile bootstrap over seeds.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from tempering.study.statistics import compare_all, find_best, smallest_difference


def load() -> ModuleType:
    """The benchmark is a script and in no package."""
    path = Path(__file__).parents[2] / "benchmarks" / "error_rates.py"
    spec = importlib.util.spec_from_file_location("error_rates", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["error_rates"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


rates = load()
CALM = [world for world in rates.WORLDS if not world.wild]
WORLDS = pytest.mark.parametrize("world", rates.WORLDS, ids=lambda world: world.name)


@WORLDS
def test_equal_recipes_are_rarely_called_different(world: object) -> None:
    wrong = rates.false_positives(world, recipes=4, seeds=5, items=60, trials=100)
    assert wrong <= rates.most_allowed(100)


@WORLDS
def test_a_recipe_as_good_as_any_is_rarely_said_to_be_behind(world: object) -> None:
    wrong = rates.false_positives(world, recipes=4, seeds=5, items=60, trials=100, judge=rates.lost_best)
    assert wrong <= rates.most_allowed(100)


def test_the_best_of_many_recipes_is_shown_where_all_pairs_together_show_little() -> None:
    """The reason for `study.best`: a lead of about 15 points among 20 recipes, four seeds."""
    rng, best, pairwise = np.random.default_rng(3), 0, 0
    for _ in range(3):
        table = rates.World("x", seed=0.1).draw(20, 4, 300, rng)
        table[1:] *= rng.random((1, 1, 300)) > 0.2
        names = {str(k): x for k, x in enumerate(table)}
        scores = {name: x.mean(1).tolist() for name, x in names.items()}
        best += len(find_best(scores, names).behind)
        pairwise += sum(pair.different for pair in compare_all(scores, names) if pair.a == "0")
    assert best > 0.75 * 57
    assert pairwise < 0.5 * best


@pytest.mark.parametrize("seeds", rates.SEEDS)
def test_three_equal_recipes_that_differ_in_spread(seeds: int) -> None:
    uneven = next(world for world in rates.WORLDS if world.uneven and not world.scores_only)
    assert rates.false_positives(uneven, recipes=3, seeds=seeds, items=60, trials=200) <= rates.most_allowed(200)


@pytest.mark.parametrize("world", [w for w in CALM if not w.scores_only], ids=lambda world: world.name)
@pytest.mark.parametrize("seeds", rates.SEEDS)
def test_intervals_cover_future_runs_on_future_items(world: object, seeds: int) -> None:
    assert rates.misses(world, seeds, items=60, trials=300) <= rates.most_allowed(300)


def test_uncorrected_tests_are_caught() -> None:
    wrong = rates.false_positives(rates.WORLDS[0], recipes=4, seeds=5, items=60, trials=100, judge=rates.uncorrected)
    assert wrong > rates.most_allowed(100)


def test_a_percentile_bootstrap_over_five_seeds_is_caught() -> None:
    """It covers about 83 % where it says 95 %: why intervals here are not made that way."""
    normal = rates.World("normal", binary=False, base=0.0, seed=1.0, item=0.0, taste=0.0, rest=0.0, scores_only=True)
    missed = rates.false_positives(normal, recipes=1, seeds=5, items=2, trials=600, judge=rates.bootstrap)
    assert missed > rates.most_allowed(600)
    assert 0.79 < 1 - missed / 600 < 0.87


def test_a_method_that_never_errs_by_claiming_nothing_would_be_noticed() -> None:
    """Real differences of 12 points are found on 300 items with five seeds: the error rates above are no silence."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(40):
        table = rates.World("x", seed=0.1).draw(3, 5, 300, rng)
        table[2] *= rng.random((1, 300)) > 0.15
        names = dict(zip("abc", table, strict=True))
        pairs = compare_all({name: x.mean(1).tolist() for name, x in names.items()}, names)
        found += {p.different for p in pairs if p.b == "c"} == {True}
    assert found >= 36


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    """Uses the difference one study reports, then asks how often other studies with that true difference show it."""
    world = rates.World("x", binary=False, base=0.0, seed=0.1, shared_seed=0.1)
    rng = np.random.default_rng(1)
    guesses = []
    for _ in range(40):
        table = world.draw(2, 5, 200, rng)
        guesses.append(
            smallest_difference({"a": table[0].mean(1).tolist(), "b": table[1].mean(1).tolist()}, {"a": table[0], "b": table[1]})
        )
    shift, found = float(np.median(guesses)), 0
    for _ in range(300):
        a, b = world.draw(2, 5, 200, rng)
        (pair,) = compare_all({"a": (a + shift).mean(1).tolist(), "b": b.mean(1).tolist()}, {"a": a + shift, "b": b})
        found += pair.different
    assert 0.7 < found / 300 < 0.9


def test_the_check_allows_monte_carlo_error_and_no_more() -> None:
    allowed = rates.most_allowed(1000)
    assert stats.binom.sf(allowed, 1000, 0.05) <= 0.001 < stats.binom.sf(allowed - 1, 1000, 0.05)


@pytest.mark.slow
@WORLDS
@pytest.mark.parametrize("recipes", rates.RECIPES)
@pytest.mark.parametrize("seeds", rates.SEEDS)
def test_equal_recipes_thoroughly(world: object, recipes: int, seeds: int) -> None:
    wrong = rates.false_positives(world, recipes, seeds, items=100, trials=500, start=7)
    assert wrong <= rates.most_allowed(500)


@pytest.mark.slow
@WORLDS
@pytest.mark.parametrize("seeds", rates.SEEDS)
def test_the_best_is_left_out_rarely_thoroughly(world: object, seeds: int) -> None:
    wrong = rates.false_positives(world, recipes=12, seeds=seeds, items=100, trials=300, judge=rates.lost_best, start=9)
    assert wrong <= rates.most_allowed(300)


@pytest.mark.slow
@pytest.mark.parametrize("world", [w for w in CALM if not w.scores_only], ids=lambda world: world.name)
@pytest.mark.parametrize("seeds", rates.SEEDS)
def test_intervals_thoroughly(world: object, seeds: int) -> None:
    assert rates.misses(world, seeds, items=100, trials=3000, start=8) <= rates.most_allowed(3000)
