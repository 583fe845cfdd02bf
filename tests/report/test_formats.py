from __future__ import annotations

import math

import pytest

from tempering.report import formats
from tempering.report.formats import Scale

ACCURACY = Scale.of("accuracy", True, [0.5, 0.93])
ERROR = Scale.of("mse", False, [0.5, 0.93])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.9123, "91.2 %"), (1.0, "100.0 %"), (-0.0002, "0.0 %"), (-0.02, "-2.0 %"), (math.nan, "n/a")],
)
def test_percent(value: float, shown: str) -> None:
    assert formats.percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 s"), (0.04, "40 ms"), (1.234, "1.2 s"), (9.96, "10 s"), (45.4, "45 s"), (210, "3.5 min"), (1500, "25 min"), (7600, "2.1 h")],
)
def test_seconds(value: float, shown: str) -> None:
    assert formats.seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(770, "770"), (147_456, "147 k"), (22_713_602, "22.7 M"), (999_600, "1.0 M"), (0, "0")])
def test_counts(value: int, shown: str) -> None:
    assert formats.count_of(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0, "n/a"), (812, "812 B"), (90_854_408, "90.9 MB"), (2_500_000_000, "2.5 GB")])
def test_bytes(value: int, shown: str) -> None:
    assert formats.size_of(value) == shown


def test_a_small_share_never_reads_as_zero() -> None:
    assert formats.share(770, 22_861_058) == "0.0034 %"
    assert formats.share(68_583, 22_861_058) == "0.3 %"
    assert formats.share(0, 22_861_058) == "0.0 %"
    assert formats.share(5, 0) == "n/a"


def test_probabilities() -> None:
    assert [formats.probability(p) for p in (0.0004, 0.0321, 1.0, math.nan)] == ["< 0.001", "0.032", "1.000", "n/a"]


def test_a_score_in_0_to_1_is_a_percentage_and_an_error_is_not() -> None:
    assert ACCURACY.percent
    assert not ERROR.percent
    assert not Scale.of("score", True, [0.5, 17.0]).percent
    assert not Scale.of("neg_mse", True, [-0.4, -0.2]).percent
    assert not Scale.of("accuracy", True, [math.nan]).percent


def test_intervals_and_differences_name_their_unit_once() -> None:
    assert ACCURACY.interval(0.901, 0.923) == "90.1 to 92.3 %"
    assert ERROR.interval(0.901, 12.5) == "0.901 to 12.5"
    assert ACCURACY.interval(math.nan, 0.9) == "n/a"
    assert ACCURACY.difference(0.0123) == "+1.2 points"
    assert ACCURACY.difference(-0.0123) == "-1.2 points"
    assert ACCURACY.difference(0.0123, signed=False) == "1.2 points"
    assert ERROR.difference(-0.0123) == "-0.012"


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    assert ACCURACY.difference(0.0001) == "0.0 points"
    assert ACCURACY.difference(-0.0001) == "0.0 points"
