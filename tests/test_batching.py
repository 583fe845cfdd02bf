"""Which rows go through the model together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering.batching import close_batches, even_batches, keyed_batches, length_batches

lists = st.lists(st.integers(1, 200), max_size=60)


@given(lists, st.integers(1, 16), st.integers(0, 300))
def test_every_row_is_in_one_batch_and_little_is_padding(lengths: list[int], size: int, spare: int) -> None:
    found = [batch.tolist() for batch in close_batches(lengths, size, spare)]
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    walked = [lengths[i] for i in itertools.chain(*found)]
    assert walked == sorted(lengths) and all(0 < len(batch) <= size for batch in found)
    for batch in found:
        longest = max(lengths[i] for i in batch)
        assert sum(longest - lengths[i] for i in batch) <= spare


def test_a_batch_is_cut_where_the_next_row_would_cost_more_than_a_pass() -> None:
    assert [b.tolist() for b in close_batches([10, 11, 50, 12], 8, 10)] == [[0, 1, 3], [2]]
    assert [b.tolist() for b in close_batches([10, 11, 50, 12], 8, 200)] == [[0, 1, 3, 2]]
    assert [b.tolist() for b in close_batches([10, 11, 50, 12], 2, 200)] == [[0, 1], [3, 2]]
    assert close_batches([], 8, 10) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 200)), max_size=60), st.integers(1, 16), st.integers(0, 300))
def test_keys_come_one_after_another_the_longest_row_last(rows: list[tuple[str, int]], size: int, spare: int) -> None:
    keys, lengths = [key for key, _ in rows], [length for _, length in rows]
    found = [batch.tolist() for batch in keyed_batches(keys, lengths, size, spare)]
    walked = [keys[i] for batch in found for i in batch]
    assert sorted(itertools.chain(*found)) == list(range(len(rows))) and all(len({keys[i] for i in batch}) == 1 for batch in found)
    assert len(list(itertools.groupby(walked))) == len(set(keys))
    assert not rows or lengths[found[-1][-1]] == max(lengths)
    alike = [batch.tolist() for batch in keyed_batches([""] * len(rows), lengths, size, spare)]
    assert alike == [batch.tolist() for batch in close_batches(lengths, size, spare)]


@pytest.mark.parametrize("size", [1, 3, 64])
def test_with_room_for_all_padding_the_batches_are_those_by_length(size: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 90, 50).tolist()
    pairs = zip(close_batches(lengths, size, 10**9), length_batches(lengths, size), strict=True)
    assert all(np.array_equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize(("count", "size", "sizes"), [(65, 64, [33, 32]), (64, 64, [64]), (3, 1, [1, 1, 1]), (7, 3, [3, 2, 2]), (0, 4, [])])
def test_batches_that_are_drawn_are_even_and_hold_every_row_once(count: int, size: int, sizes: list[int]) -> None:
    found, again, other = (even_batches(count, size, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert [len(batch) for batch in found] == sizes
    assert sorted(int(i) for batch in found for i in batch) == list(range(count))
    assert [b.tolist() for b in found] == [b.tolist() for b in again]
    assert count < 4 or [b.tolist() for b in found] != [b.tolist() for b in other]
