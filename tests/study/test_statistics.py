"""Comparisons, groups, and power against scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tempering.study.intervals import CROSSED, ONE_SEED, SEEDS
from tempering.study.pairs import FEW_SEEDS, NO_SPREAD
from tempering.study.statistics import Pair, compare_all, groups
from tempering.study.variance import Spread
from tests.study.item_scores import ABC, NAN, runs


def test_a_mean_error_is_matched_with_negated_items() -> None:
    scores, tables = runs({"a": 1.0, "b": 1.2})
    errors = {name: [-x for x in values] for name, values in scores.items()}
    (plain,), (mirrored,) = compare_all(scores, tables), compare_all(errors, tables)
    assert mirrored.method == CROSSED
    assert (mirrored.difference, mirrored.low, mirrored.high, mirrored.p) == pytest.approx(
        (-plain.difference, -plain.high, -plain.low, plain.p)
    )


def test_scores_alone_give_the_paired_t_test_with_bonferroni() -> None:
    pairs = compare_all(ABC)
    raw = [stats.ttest_rel(ABC[p.a], ABC[p.b]).pvalue for p in pairs]
    reject, adjusted, _, _ = multipletests(raw, 0.05, "bonferroni")
    assert [p.p for p in pairs] == pytest.approx(raw)
    assert [p.p_adjusted for p in pairs] == pytest.approx(adjusted)
    assert [p.different for p in pairs] == reject.tolist()
    ends = stats.ttest_rel(ABC["a"], ABC["b"]).confidence_interval(1 - 0.05 / 3)
    assert (pairs[0].low, pairs[0].high) == pytest.approx((ends.low, ends.high))


@pytest.mark.slow
def test_never_more_claims_than_holm() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        scores = {str(k): (rng.normal(size=5) + k).tolist() for k in range(4)}
        pairs = compare_all(scores)
        holm = multipletests([p.p for p in pairs], 0.05, "holm")[0]
        assert all(kept for p, kept in zip(pairs, holm, strict=True) if p.different)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(2, 40), st.booleans(), st.integers(0, 10**6), st.floats(0, 2))
def test_decision_interval_and_p_always_agree(seeds: int, items: int, binary: bool, seed: int, shift: float) -> None:
    scores, tables = runs({"a": shift, "b": 0.0, "c": -shift}, seeds, items, seed)
    if binary:
        tables = {name: (table > 0.5).astype(float) for name, table in tables.items()}
        scores = {name: table.mean(1).tolist() for name, table in tables.items()}
    for pair in compare_all(scores, tables):
        assert pair.low <= pair.difference <= pair.high
        assert pair.different == (pair.low > 0 or pair.high < 0)
        assert 0 < pair.p <= pair.p_adjusted <= 1
        assert abs(pair.p_adjusted - 0.05) < 1e-9 or pair.different == (pair.p_adjusted < 0.05)


def test_identical_recipes_have_p_one() -> None:
    right = (np.random.default_rng(0).random((3, 60)) < 0.8).astype(float)
    scores = right.mean(1).tolist()
    for tables in ({"a": right, "b": right}, None):
        (pair,) = compare_all({"a": scores, "b": scores}, tables)
        assert (pair.difference, pair.p, pair.p_adjusted, pair.different) == (0.0, 1.0, 1.0, False)


def test_seeds_that_never_vary_claim_nothing_without_items() -> None:
    (pair,) = compare_all({"a": [0.91] * 3, "b": [0.9] * 3})
    assert (pair.p, pair.different, pair.method, pair.difference) == (1.0, False, NO_SPREAD, pytest.approx(0.01))
    assert math.isnan(pair.low)


def test_seeds_that_never_vary_are_judged_by_their_items() -> None:
    """Ten discordant items all on one side of 100: McNemar's exact test says p = 0.002; one item: p = 1."""
    right = np.ones((3, 100))
    worse, close = right.copy(), right.copy()
    worse[:, :10], close[:, :1] = 0, 0
    ten, one, _ = compare_all({"a": [1.0] * 3, "b": [0.9] * 3, "c": [0.99] * 3}, {"a": right, "b": worse, "c": close})
    assert stats.binomtest(10, 10).pvalue < ten.p < 0.01
    assert ten.different
    assert one.p > 0.3


def test_failed_runs_leave_the_common_seeds() -> None:
    scores, tables = runs({"a": 0.0, "b": 0.05}, seeds=5)
    gappy = {"a": [NAN, *scores["a"][1:]], "b": [*scores["b"][:4], NAN]}
    (pair,) = compare_all(gappy, tables)
    (same,) = compare_all({k: v[1:4] for k, v in scores.items()}, {k: v[1:4] for k, v in tables.items()})
    assert pair == same
    assert pair.seeds == 3


@pytest.mark.parametrize("second", [[NAN, NAN, 0.9], [NAN] * 3, [0.8]])
def test_fewer_than_two_common_seeds_claim_nothing(second: list[float]) -> None:
    (pair,) = compare_all({"a": [0.5, 0.6, 0.7], "b": second})
    assert (pair.p, pair.p_adjusted, pair.different, pair.method) == (1.0, 1.0, False, FEW_SEEDS)


def test_a_recipe_without_runs_costs_the_others_nothing() -> None:
    pairs = compare_all(ABC | {"dead": [NAN] * 5})
    assert [p for p in pairs if "dead" not in (p.a, p.b)] == compare_all(ABC)


def test_one_seed_pairs_speak_of_items_only() -> None:
    scores, tables = runs({"a": 0.0, "b": 0.5}, seeds=1)
    (pair,) = compare_all(scores, tables)
    assert (pair.method, pair.seeds) == (ONE_SEED, 1)
    assert pair.p == pytest.approx(max(stats.ttest_rel(tables["a"][0], tables["b"][0]).pvalue, 1e-15))


def pair_of(a: str, b: str, different: bool) -> Pair:
    return Pair(a, b, 0.1, 0.0, 0.2, 0.5, 0.5, different, 5, SEEDS)


def test_groups_are_the_maximal_sets_without_a_difference() -> None:
    scores = {"low": [1.0], "mid": [2.0], "top": [3.0], "dead": [NAN]}
    pairs = [pair_of("low", "mid", False), pair_of("low", "top", True), pair_of("mid", "top", False)]
    assert groups(scores, pairs) == [["top", "mid"], ["mid", "low"]]
    assert groups(scores, pairs, higher_is_better=False) == [["low", "mid"], ["mid", "top"]]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.integers(0, 10**6))
def test_groups_cover_every_recipe_and_agree_with_the_pairs(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [str(k) for k in range(count)]
    pairs = [pair_of(a, b, bool(rng.random() < 0.5)) for i, a in enumerate(names) for b in names[i + 1 :]]
    found = groups({name: [float(rng.random())] for name in names}, pairs)
    together = {frozenset((a, b)) for group in found for a in group for b in group if a != b}
    assert together == {frozenset((p.a, p.b)) for p in pairs if not p.different}
    assert {name for group in found for name in group} == set(names)
    assert not any(set(a) < set(b) for a in found for b in found)


def test_nothing_to_group() -> None:
    assert groups({}, []) == []
    assert compare_all({"a": [0.1, 0.2]}) == []


def test_smallest_difference_inverts_the_power_of_the_t_test() -> None:
    """Noncentral t: the power at the difference found is the power asked for."""
    spread = Spread(seed=0.01, item=0.0, fixed=0.0, seeds=5, items=0)
    found = spread.detectable(0.05, 0.8)
    power = stats.nct.sf(stats.t.isf(0.025, 4), 4, found / 0.1)
    assert power == pytest.approx(0.8, abs=0.005)
