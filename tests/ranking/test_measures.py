"""The measures against brute force, closed forms and sums by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from tempering.ranking.evidence import evidence, log_me
from tempering.ranking.separation import h_score, leep, n_leep


def data(n: int = 30, d: int = 5, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    return features, features @ rng.normal(size=d) + 0.5 * rng.normal(size=n)


def brute(features: Any, y: Any, alpha: float, beta: float) -> float:
    """log p(y): y is normal with covariance I / beta + F F' / alpha."""
    return float(multivariate_normal(np.zeros(len(y)), np.eye(len(y)) / beta + features @ features.T / alpha).logpdf(y))


@pytest.mark.parametrize("shape", [(30, 5), (8, 20)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.3, 4.0), (20.0, 0.1)])
def test_the_evidence_is_the_density_of_the_labels(shape: tuple[int, int], alpha: float, beta: float) -> None:
    features, y = data(*shape)
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    inside = (left.T @ y) ** 2
    found = evidence(alpha, beta, singular**2, inside, float(y @ y - inside.sum()), *shape)
    assert found == pytest.approx(brute(features, y, alpha, beta), rel=1e-9)


@pytest.mark.parametrize("shape", [(30, 5), (40, 12)])
def test_logme_is_the_largest_evidence_there_is(shape: tuple[int, int]) -> None:
    features, y = data(*shape, seed=3)
    best = minimize(lambda x: -brute(features, y, math.exp(x[0]), math.exp(x[1])), [0.0, 0.0], method="Nelder-Mead", tol=1e-10)
    assert log_me(features, y[:, None]) == pytest.approx(-best.fun / shape[0], abs=1e-6)


def test_logme_of_several_columns_is_their_mean_and_needs_no_full_rank() -> None:
    features, y = data()
    columns = np.stack([y, np.roll(y, 3)], 1)
    assert log_me(features, columns) == pytest.approx((log_me(features, columns[:, :1]) + log_me(features, columns[:, 1:])) / 2)
    doubled = np.concatenate([features, features[:, :2]], 1)
    assert math.isfinite(log_me(doubled, columns)) and math.isfinite(log_me(features, np.zeros((30, 1))))


def test_logme_prefers_features_that_hold_the_labels() -> None:
    features, y = data(200)
    noise = np.random.default_rng(1).normal(size=features.shape)
    assert log_me(features, y[:, None]) > log_me(noise, y[:, None]) + 0.5


def test_h_score_by_its_definition() -> None:
    features, _ = data(60)
    classes = np.arange(60) % 3
    means = np.stack([features[classes == c].mean(0) for c in classes])
    expected = np.trace(np.linalg.inv(np.cov(features.T, bias=True)) @ np.cov(means.T, bias=True))
    assert h_score(features, classes, shrink=False) == pytest.approx(expected, rel=1e-9)
    moved = features @ np.random.default_rng(2).normal(size=(5, 5)) + 7.0
    assert h_score(moved, classes, shrink=False) == pytest.approx(expected, rel=1e-6)  # blind to the basis


def test_h_score_is_one_less_than_the_classes_at_most_and_nothing_where_they_are_mixed() -> None:
    classes = np.arange(90) % 3
    assert h_score(np.eye(3)[classes], classes, shrink=False) == pytest.approx(2.0)
    same = np.repeat(np.random.default_rng(0).normal(size=(30, 4)), 3, axis=0)  # every class has the same rows
    assert h_score(same, classes, shrink=False) == pytest.approx(0.0, abs=1e-9)


def test_shrinkage_is_ledoit_and_wolfs_and_spares_few_rows_in_many_dimensions() -> None:
    from sklearn.covariance import LedoitWolf

    rng = np.random.default_rng(0)
    features, classes = rng.normal(size=(40, 30)), np.arange(40) % 2
    fitted = LedoitWolf().fit(features)
    means = np.stack([features[classes == c].mean(0) for c in classes])
    expected = (1 - fitted.shrinkage_) * np.trace(np.linalg.inv(fitted.covariance_) @ np.cov(means.T, bias=True))
    assert h_score(features, classes) == pytest.approx(expected, rel=1e-6)
    assert h_score(features, classes) < 0.5 * h_score(features, classes, shrink=False)  # noise only


def test_leep_by_hand() -> None:
    """theta = (.8 .2), (.6 .4), (.1 .9), classes a a b: P(a|z=0) = 1.4/1.5, P(a|z=1) = .6/1.5."""
    chances, classes = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]), np.array([0, 0, 1])
    a, b = (1.4 / 1.5, 0.6 / 1.5), (0.1 / 1.5, 0.9 / 1.5)
    expected = [0.8 * a[0] + 0.2 * a[1], 0.6 * a[0] + 0.4 * a[1], 0.1 * b[0] + 0.9 * b[1]]
    assert leep(chances, classes) == pytest.approx(sum(map(math.log, expected)) / 3, abs=1e-12)


def test_leep_at_both_ends() -> None:
    classes = np.arange(12) % 3
    assert leep(np.eye(3)[(classes + 1) % 3], classes) == pytest.approx(0.0, abs=1e-12)  # other names for the same thing
    assert leep(np.full((12, 4), 0.25), classes) == pytest.approx(-math.log(3))  # says nothing
    assert leep(np.eye(3)[classes][:, [0, 1, 2, 2]] / np.array([1, 1, 2, 2]), classes) <= 1e-12


def test_n_leep_tells_blobs_from_a_cloud() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(120) % 3
    blobs = 8.0 * np.eye(3)[classes] + rng.normal(size=(120, 3)) * 0.3
    cloud = rng.normal(size=(120, 3))
    assert n_leep(blobs, classes) > -0.05 > -0.5 > n_leep(cloud, classes)
    assert n_leep(cloud, classes, seed=1) == n_leep(cloud, classes, seed=1)
