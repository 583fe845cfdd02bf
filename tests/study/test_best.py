"""Which recipes may be the best: against scipy, against all pairs, and in the corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tempering.study.statistics import compare_all, find_best, smallest_difference
from tests.study.item_scores import ABC, NAN, runs


def test_two_recipes_are_one_pair() -> None:
    two = {name: ABC[name] for name in "ab"}
    assert find_best(two).leads == compare_all(two)


def test_each_of_three_recipes_meets_two_others() -> None:
    """Paired t tests at 5 % / 2, not 5 % / 3."""
    best = find_best(ABC)
    ends = stats.ttest_rel(ABC["a"], ABC["c"]).confidence_interval(1 - 0.05 / 2)
    lead = best.leads[1]
    assert (lead.a, lead.b, lead.low, lead.high) == ("a", "c", pytest.approx(ends.low), pytest.approx(ends.high))
    assert lead.p_adjusted == pytest.approx(2 * stats.ttest_rel(ABC["a"], ABC["c"]).pvalue)


def test_contenders_and_those_behind_are_ordered_by_mean() -> None:
    best = find_best(*runs({"low": 0.0, "top": 1.0, "mid": 0.5, "twin": 1.0}))
    assert set(best.contenders) == {"top", "twin"}
    assert best.behind == ["mid", "low"]
    assert [pair.a for pair in best.leads] == [best.contenders[0]] * 3


def test_lower_may_be_better() -> None:
    scores = {name: [-x for x in values] for name, values in ABC.items()}
    mirrored, plain = find_best(scores, higher_is_better=False), find_best(ABC)
    assert (mirrored.contenders, mirrored.behind) == (plain.contenders, plain.behind)
    assert plain.behind


def test_a_recipe_beaten_by_any_other_is_behind() -> None:
    """`shaky` has the best mean and shows nothing; `steady` shows that it is better than `worse`, which is thus not the best."""
    scores = {
        "shaky": [0.99, 0.5, 0.99, 0.99, 0.99],
        "steady": [0.850, 0.851, 0.852, 0.849, 0.848],
        "worse": [0.70, 0.699, 0.701, 0.702, 0.698],
    }
    best = find_best(scores)
    assert best.contenders == ["shaky", "steady"]
    assert best.behind == ["worse"]
    assert not any(pair.different for pair in best.leads)


def test_recipes_without_a_comparison_stay_contenders_and_cost_nothing() -> None:
    with_dead = find_best(ABC | {"dead": [NAN] * 5})
    assert with_dead == find_best(ABC)
    alone = find_best({"a": [0.9, NAN, NAN], "b": [NAN, 0.1, 0.2]})
    assert alone.contenders == ["a", "b"]
    assert alone.behind == []


def test_nothing_to_judge() -> None:
    assert find_best({}).contenders == []
    assert find_best({"dead": [NAN]}).contenders == []
    one = find_best({"a": [0.1, 0.2]})
    assert (one.contenders, one.leads) == (["a"], [])
    assert math.isnan(smallest_difference({"a": [0.1, 0.2]}, None))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 10**6), st.booleans())
def test_no_two_contenders_are_different_and_what_the_best_mean_beats_is_behind(count: int, seeds: int, seed: int, higher: bool) -> None:
    means = np.random.default_rng(seed).normal(scale=0.1, size=count)
    scores, tables = runs({str(k): float(mean) for k, mean in enumerate(means)}, seeds, 30, seed)
    best = find_best(scores, tables, higher)
    different = {frozenset((pair.a, pair.b)) for pair in compare_all(scores, tables) if pair.different}
    assert not any(pair <= set(best.contenders) for pair in different)
    assert sorted(best.contenders + best.behind) == sorted(scores)
    assert best.contenders[0] == (max if higher else min)(scores, key=lambda name: np.mean(scores[name]))
    shown = {pair.b for pair in best.leads if pair.different and (pair.difference > 0) == higher}
    assert shown <= set(best.behind)


def test_more_seeds_or_items_show_smaller_differences() -> None:
    def smallest(seeds: int, items: int) -> float:
        return smallest_difference(*runs({"a": 0.0, "b": 0.0, "c": 0.0}, seeds, items))

    assert smallest(3, 100) > smallest(10, 100) > smallest(10, 5000) > 0


def test_smallest_difference_asks_more_of_more_recipes() -> None:
    two, five = (smallest_difference(*runs(dict.fromkeys(names, 0.0))) for names in ("ab", "abcde"))
    assert five > two
