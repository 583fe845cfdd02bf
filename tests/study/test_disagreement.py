"""How much predictions of seeds differ: the value by hand, its interval by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tempering.errors import DataError
from tempering.study.disagreement import Disagreement, churn, disagreement

LETTERS = [list("aabbc"), list("aabbb"), list("abbba"), list("aacbc")]


def test_it_is_the_mean_share_over_all_pairs() -> None:
    shares = [sum(x != y for x, y in zip(p, q, strict=True)) / 5 for p, q in itertools.combinations(LETTERS, 2)]
    found = disagreement(LETTERS)
    assert found.value == pytest.approx(sum(shares) / 6)
    assert found.low < found.value < found.high <= 1
    assert churn(LETTERS) == found.value


def test_labels_of_any_kind_are_compared_by_what_they_are() -> None:
    assert churn([[True, 1], [1, True]]) == 1.0
    assert churn([[("a", "b"), "x"], [["a", "b"], "y"]]) == 0.5


def test_values_differ_in_standard_deviations_of_the_truth() -> None:
    gold, rows = [1.0, 2.0, 3.0, 6.0], [[1.0, 2.0, 3.0, 4.0], [1.5, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 4.0]]
    found = disagreement(rows, gold)
    pairs = [np.mean(np.abs(np.subtract(p, q))) for p, q in itertools.combinations(rows, 2)]
    assert found.value == pytest.approx(np.mean(pairs) / np.std(gold, ddof=1))
    assert found.in_sd
    assert found.low < found.value < found.high


def test_the_jackknife_leaves_out_one_seed_at_a_time() -> None:
    found = disagreement(LETTERS)
    without = [churn([row for i, row in enumerate(LETTERS) if i != s]) for s in range(4)]
    by_item = [np.mean([p[i] != q[i] for p, q in itertools.combinations(LETTERS, 2)]) for i in range(5)]
    seeds, items = 3 / 4 * np.sum((without - np.mean(without)) ** 2), np.var(by_item, ddof=1) / 5
    half = math.sqrt(stats.t.isf(0.025, 3) ** 2 * seeds + stats.t.isf(0.025, 4) ** 2 * items) / found.value
    assert found.low == pytest.approx(found.value * math.exp(-half))
    assert found.high == min(1.0, found.value * math.exp(half))


def test_what_too_few_seeds_do_not_tell_is_not_a_number() -> None:
    assert math.isnan(disagreement(LETTERS[:1]).value)
    two = disagreement(LETTERS[:2])
    assert two.value == 0.2
    assert math.isnan(two.low)
    assert math.isnan(disagreement([[1.0], [2.0]], [3.0]).value)


def test_seeds_without_predictions_are_left_out() -> None:
    assert disagreement([LETTERS[0], [], LETTERS[1], []]) == disagreement(LETTERS[:2])
    assert disagreement([[], []]).value != disagreement([[], []]).value


def test_no_disagreement_seen_is_not_proof_of_none() -> None:
    found = disagreement([["a"] * 100] * 3)
    assert found == Disagreement(0.0, 0.0, pytest.approx(float(stats.beta.isf(0.025, 1, 100))), False)


def test_other_numbers_of_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(1 and 2\)"):
        disagreement([["x"], ["x", "y"]])


def predict(seeds: int, items: int, shift: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Runs that disagree more the closer an item is to their border, which moves from seed to seed."""
    border = shift * rng.standard_normal((seeds, 1)) + noise * rng.standard_normal((seeds, items))
    return (3 * rng.standard_normal(items) + border > 0).astype(int)


@pytest.mark.parametrize(("shift", "noise"), [(0.0, 0.3), (0.5, 0.3), (1.0, 1.0)])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_future_seeds_on_future_rows(shift: float, noise: float, seeds: int) -> None:
    rng, trials = np.random.default_rng(3), 300
    truth = np.mean([churn(predict(2, 2000, shift, noise, rng).tolist()) for _ in range(200)])
    found = [disagreement(predict(seeds, 120, shift, noise, rng).tolist()) for _ in range(trials)]
    missed = sum(not f.low <= truth <= f.high for f in found)
    assert stats.binom.sf(missed - 1, trials, 0.05) > 0.001
    assert np.median([f.high - f.low for f in found]) < 1.0
