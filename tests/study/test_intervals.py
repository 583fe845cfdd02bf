"""Intervals of one recipe, their mean squares and the learning curve against closed forms, scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from tempering.study.intervals import CROSSED, ONE_SEED, SEEDS
from tempering.study.statistics import compare_all, interval, learning_curve_gain
from tempering.study.variance import crossed_spread
from tests.study.item_scores import ABC, NAN, runs


def test_without_items_the_interval_is_the_t_interval_of_scipy() -> None:
    found = interval(ABC["a"])
    low, high = stats.t.interval(0.95, 4, loc=np.mean(ABC["a"]), scale=stats.sem(ABC["a"]))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.sd, found.n, found.method) == (pytest.approx(0.922), pytest.approx(np.std(ABC["a"], ddof=1)), 5, SEEDS)


def test_the_interval_of_the_deviation_inverts_the_chi_square() -> None:
    found = interval(ABC["a"], confidence=0.9)
    assert stats.chi2.cdf(4 * found.sd**2 / found.sd_high**2, 4) == pytest.approx(0.05)
    assert stats.chi2.cdf(4 * found.sd**2 / found.sd_low**2, 4) == pytest.approx(0.95)


def test_mean_squares_are_those_of_statsmodels() -> None:
    import pandas as pd

    table = np.random.default_rng(3).normal(size=(4, 6)) + np.arange(6)
    rows = [(s, i, table[s, i]) for s in range(4) for i in range(6)]
    frame = pd.DataFrame(rows, columns=["seed", "item", "x"])
    squares = anova_lm(ols("x ~ C(seed) + C(item)", frame).fit())["mean_sq"]
    spread = crossed_spread(table)
    assert spread.seed * 24 == pytest.approx(squares["C(seed)"])
    assert spread.fixed * 24 == pytest.approx(squares["C(item)"])
    assert spread.item * 24 == pytest.approx(squares["C(item)"] - squares["Residual"])


def test_the_crossed_interval_uses_a_quantile_for_each_source() -> None:
    scores, tables = runs({"a": 0.0})
    spread, found = crossed_spread(tables["a"]), interval(scores["a"], tables["a"])
    half = math.sqrt(stats.t.isf(0.025, 4) ** 2 * spread.seed + stats.t.isf(0.025, 199) ** 2 * spread.item)
    assert found.method == CROSSED
    assert (found.high - found.low) / 2 == pytest.approx(max(half, stats.t.isf(0.025, 199) * math.sqrt(spread.fixed)))
    assert found.high - found.low > 3 * (interval(scores["a"]).high - interval(scores["a"]).low)  # items matter most here


def test_one_seed_speaks_of_items_only_and_says_so() -> None:
    scores, tables = runs({"a": 0.0}, seeds=1)
    found = interval(scores["a"], tables["a"])
    low, high = stats.t.interval(0.95, 199, loc=scores["a"][0], scale=stats.sem(tables["a"][0]))
    assert (found.low, found.high, found.method) == (pytest.approx(low), pytest.approx(high), ONE_SEED)
    assert math.isnan(found.sd)
    assert math.isnan(found.sd_high)


@pytest.mark.parametrize(("scores", "n"), [([], 0), ([NAN, NAN], 0), ([0.5], 1), ([NAN, 0.5], 1)])
def test_too_few_runs_have_no_interval(scores: list[float], n: int) -> None:
    found = interval(scores)
    assert found.n == n
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.mean) == (n == 0)


@pytest.mark.parametrize("value", [0.5, 0.1, 1.0])
def test_equal_scores_have_no_spread_and_no_interval_of_it(value: float) -> None:
    """Three runs at 50.0 % on rounded scores do not show that a fourth will be there, too."""
    for found in (interval([value] * 3), interval([value, NAN, value]), interval([value] * 3, np.full((3, 40), value))):
        assert found.sd == 0.0
        assert math.isnan(found.sd_low)
        assert math.isnan(found.sd_high)
    alike = interval([value] * 3)
    assert alike.mean == pytest.approx(value) and alike.method == "equal scores: no interval"
    assert math.isnan(alike.low) and math.isnan(alike.high)
    assert interval([value, value, value + 1e-3]).sd_high > 0


def test_failed_runs_are_left_out_of_the_interval() -> None:
    scores, tables = runs({"a": 0.0}, seeds=4)
    gappy = np.vstack([tables["a"][:2], np.full((1, 200), NAN), tables["a"][2:]])
    assert interval([*scores["a"][:2], NAN, *scores["a"][2:]], gappy) == interval(scores["a"], tables["a"])


def test_all_right_on_a_small_test_set_is_not_perfect() -> None:
    found = interval([1.0] * 3, np.ones((3, 50)))
    assert found.mean == found.high == 1.0
    assert 0.90 < found.low < 0.94  # the rule of three says 0.94
    wrong = interval([0.0] * 3, -np.zeros((3, 50)))
    assert wrong.low == 0.0
    assert wrong.high == pytest.approx(1 - found.low)


def test_a_share_and_its_error_rate_have_mirrored_intervals() -> None:
    right = (np.random.default_rng(1).random((5, 80)) < 0.9).astype(float)
    up, down = interval(right.mean(1).tolist(), right), interval((1 - right).mean(1).tolist(), -(1 - right))
    assert (down.low, down.high) == pytest.approx((1 - up.high, 1 - up.low))


def test_long_lower_tails_reach_further_down_than_up() -> None:
    right = np.zeros((3, 200))
    for row, share in zip(right, (0.99, 0.95, 0.75), strict=True):
        row[: round(200 * share)] = 1
    found = interval(right.mean(1).tolist(), right)
    assert found.mean - found.low > 3 * (found.high - found.mean)


def test_a_metric_that_is_no_mean_over_items_falls_back_to_seeds() -> None:
    _, tables = runs({"a": 0.0})
    assert interval(ABC["a"], tables["a"]) == interval(ABC["a"])
    assert compare_all(ABC, dict.fromkeys(ABC, tables["a"]))[0].method == SEEDS


def test_learning_curve_gain_is_the_slope_per_doubling() -> None:
    found = learning_curve_gain([32, 64, 128], [0.5, 0.6, 0.7])
    assert (found.per_doubling, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    noisy = learning_curve_gain([32, 64, 128, 256], [0.5, 0.62, 0.68, 0.8])
    assert noisy.low < noisy.per_doubling < noisy.high
    assert math.isnan(learning_curve_gain([32, 64], [0.5, 0.6]).low)
    assert math.isnan(learning_curve_gain([32, 32], [0.5, 0.6]).per_doubling)
    assert learning_curve_gain([32, 64, 128], [0.5, NAN, 0.7]).per_doubling == pytest.approx(0.1)
