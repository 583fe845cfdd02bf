"""Components of variance: against statsmodels, planted ones recovered, intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm

from tempering.study.crossing import Levels, square
from tempering.study.decompose import REST, SOURCES, Decomposition, decompose


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.study.decompose.DRAWS", 600)


def plant(n: int, parts: tuple[float, float, float, float], rng: np.random.Generator) -> dict[Levels, float]:
    """Scores with planted variances; the last is spread over the three interactions of two streams and that of all."""
    streams = [math.sqrt(v) * rng.standard_normal(n) for v in parts[:3]]
    ij, ik, jk = (math.sqrt(parts[3] / 4) * rng.standard_normal((n, n)) for _ in range(3))
    own = math.sqrt(parts[3] / 4)
    return {
        (i, j, k): 0.7 + streams[0][i] + streams[1][j] + streams[2][k] + ij[i, j] + ik[i, k] + jk[j, k] + own * rng.standard_normal()
        for i, j, k in square(n)
    }


def of(scores: dict[Levels, float], n: int) -> Decomposition:
    return decompose("full", "32", n * n, scores)


@pytest.mark.parametrize("drop", [0, 3])
def test_mean_squares_and_the_f_test_are_those_of_statsmodels(drop: int) -> None:
    scores = dict(list(plant(5, (1.0, 0.5, 0.2, 0.3), np.random.default_rng(0)).items())[drop:])
    found = of(scores, 5)
    frame = pd.DataFrame([(*levels, y) for levels, y in scores.items()], columns=["s", "i", "o", "y"])
    table = anova_lm(smf.ols("y ~ C(s, Sum) + C(i, Sum) + C(o, Sum)", frame).fit(), typ=3)
    rest = table["sum_sq"]["Residual"] / table["df"]["Residual"]
    assert found.components[3].variance == pytest.approx(rest)
    for part, name in zip(found.components, ("C(s, Sum)", "C(i, Sum)", "C(o, Sum)"), strict=False):
        assert part.p == pytest.approx(table["PR(>F)"][name])
        assert part.df == table["df"][name]
        if not drop:
            assert part.variance == pytest.approx((table["sum_sq"][name] / part.df - rest) / 5)


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("parts", [(4.0, 1.0, 0.25, 1.0), (0.0, 2.0, 0.0, 0.5)])
@pytest.mark.parametrize("lost", [0, 1])
def test_planted_components_are_recovered_without_bias(n: int, parts: tuple[float, float, float, float], lost: int) -> None:
    rng, trials = np.random.default_rng(1), 300
    draws = [dict(list(plant(n, parts, rng).items())[lost:]) for _ in range(trials)]
    found = np.array([[c.variance for c in of(scores, n).components] for scores in draws])
    error = found.std(0, ddof=1) / math.sqrt(trials)
    assert (np.abs(found.mean(0) - parts) < 4 * error + 1e-12).all()


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("parts", [(1.0, 1.0, 1.0, 1.0), (4.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0), (9.0, 0.1, 0.1, 0.2)])
def test_intervals_cover(n: int, parts: tuple[float, float, float, float]) -> None:
    rng, trials, whole = np.random.default_rng(2), 200, sum(parts)
    missed, shares = np.zeros(4), np.zeros(4)
    for _ in range(trials):
        for i, c in enumerate(of(plant(n, parts, rng), n).components):
            missed[i] += not c.low - 1e-12 <= math.sqrt(parts[i]) <= c.high + 1e-12
            shares[i] += not c.share_low - 1e-12 <= parts[i] / whole <= c.share_high + 1e-12
    assert all(stats.binom.sf(m - 1, trials, 0.05) > 0.001 for m in (*missed, *shares))


def test_a_plain_interval_of_a_mean_square_would_be_caught() -> None:
    """Chi-square bounds of MS_stream / n alone, as if the rest added nothing, miss far more often."""
    rng, missed = np.random.default_rng(2), 0
    for _ in range(250):
        part = of(plant(5, (0.2, 0.0, 0.0, 4.0), rng), 5).components
        square_ = part[0].variance + part[3].variance / 5
        low, high = (4 * square_ / stats.chi2.isf(tail, 4) for tail in (0.025, 0.975))
        missed += not low <= 0.2 <= high
    assert stats.binom.sf(missed - 1, 250, 0.05) < 0.001


def test_one_stream_alone_is_seen_alone() -> None:
    scores = {(i, j, k): 0.5 + 0.1 * j for i, j, k in square(4)}
    data, init, order, rest = of(scores, 4).components
    assert init.sd == pytest.approx(np.std([0, 0.1, 0.2, 0.3], ddof=1))
    assert (data.sd, order.sd, rest.sd) == (0.0, 0.0, 0.0)
    assert (init.share, init.p, data.p) == (1.0, 0.0, 1.0)
    assert all(math.isnan(bound) for c in (data, order, rest) for bound in (c.low, c.high))  # of what never varied nothing is certain
    chi = [3 * init.variance / stats.chi2.isf(tail, 3) for tail in (0.025, 0.975)]
    assert [init.low**2, init.high**2] == pytest.approx(chi)


def test_scores_that_never_vary_have_no_components_to_share() -> None:
    found = of(dict.fromkeys(square(3), 0.123), 3)
    assert found.sd == 0.0
    assert [c.sd for c in found.components] == [0.0] * 4
    assert all(math.isnan(c.share) for c in found.components)
    assert all(math.isnan(bound) for c in found.components for bound in (c.low, c.high, c.share_low, c.share_high))


def test_names_and_the_whole() -> None:
    found = of(plant(4, (1.0, 1.0, 1.0, 1.0), np.random.default_rng(5)), 4)
    assert [c.source for c in found.components] == [*SOURCES, REST]
    assert sum(c.share for c in found.components) == pytest.approx(1.0)
    assert found.sd**2 == pytest.approx(sum(max(0.0, c.variance) for c in found.components))
    assert (found.runs, found.planned, found.levels) == (16, 16, 4)


def test_too_few_runs_are_said_and_not_guessed_from() -> None:
    scores = plant(3, (1.0, 1.0, 1.0, 1.0), np.random.default_rng(0))
    some = dict(list(scores.items())[:7]) | {(9, 9, 9): math.nan}
    found = of(some, 3)
    assert found.components == ()
    assert found.runs == 7
    assert "too few" in found.reason
    assert of({}, 3).components == ()
