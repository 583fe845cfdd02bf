"""The design of a decomposition: a Latin square with the ordinary runs on its diagonal."""

from __future__ import annotations

import itertools

import pytest

from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.study.crossing import code, levels_of, off_diagonal, seeds_of, square


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8, 11, 12])
def test_every_pair_of_levels_of_two_streams_occurs_once(n: int) -> None:
    runs = square(n)
    for a, b in itertools.combinations(range(3), 2):
        assert {(run[a], run[b]) for run in runs} == set(itertools.product(range(n), repeat=2))
    assert len(runs) == n * n


@pytest.mark.parametrize("n", [3, 4, 5, 6, 9, 10])
def test_the_diagonal_are_the_runs_of_the_study_itself(n: int) -> None:
    assert {(i, i, i) for i in range(n)} <= set(square(n))
    assert set(off_diagonal(n)) == set(square(n)) - {(i, i, i) for i in range(n)}
    assert seeds_of((2, 2, 2), base=7) == Seeds.of(9)


def test_each_stream_comes_from_its_own_level_and_dropout_from_that_of_the_order() -> None:
    found = seeds_of((0, 1, 2))
    assert found == Seeds(Seeds.of(0).sampling, Seeds.of(1).init, Seeds.of(2).order, Seeds.of(2).dropout)


def test_levels_survive_as_one_number() -> None:
    assert [levels_of(code(x)) for x in square(12)] == square(12)
    assert levels_of(code((999, 0, 999))) == (999, 0, 999)


@pytest.mark.parametrize("n", [1, 2, 1001])
def test_too_few_or_too_many_levels_are_refused(n: int) -> None:
    with pytest.raises(RecipeError, match=f"--seeds 3 at least .* found {n}"):
        square(n)
