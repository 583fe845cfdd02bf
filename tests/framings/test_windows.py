"""Windows over long texts: every token is in one, and every stretch is answered where it sees most."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tempering.errors import RecipeError
from tempering.framings.spans.windows import Offsets, best_window, cut, ranges
from tests.tiny import tiny_backbone


@given(st.integers(0, 200), st.integers(1, 40), st.integers(0, 39))
def test_windows_cover_every_token_share_enough_and_are_full(count: int, room: int, stride: int) -> None:
    assume(stride < room)
    windows = cut(count, room, stride)
    assert windows[0][0] == 0 and windows[-1][1] == count
    assert all(end - start == min(room, count) for start, end in windows)
    assert all(a[0] < b[0] and a[1] - b[0] >= stride for a, b in pairwise(windows))
    assert {i for start, end in windows for i in range(start, end)} == set(range(count))


@given(st.integers(5, 120), st.integers(4, 30), st.integers(0, 29), st.data())
def test_a_stretch_is_answered_by_the_window_whose_border_is_farthest(count: int, room: int, stride: int, data: st.DataObject) -> None:
    assume(stride < room)
    windows = cut(count, room, stride)
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first + 1, min(count, first + 3)))
    start, end = windows[best_window(windows, count, first, last)]
    whole = [w for w in windows if w[0] <= first and last <= w[1]]

    def context(window: tuple[int, int]) -> float:
        left = float("inf") if window[0] == 0 else first - window[0]
        return min(left, float("inf") if window[1] == count else window[1] - last)

    assert start <= first < end
    if whole:
        assert (start, end) in whole and context((start, end)) == max(map(context, whole))


def test_words_find_their_tokens() -> None:
    offsets = [(0, 3), (3, 5), (5, 9), (10, 12)]  # the third token holds a leading space
    assert ranges(offsets, [(0, 5), (6, 9), (10, 12)]) == [(0, 2), (2, 3), (3, 4)]


def test_a_token_over_two_words_serves_both_and_a_word_without_tokens_borrows() -> None:
    assert ranges([(0, 4), (6, 8)], [(0, 2), (2, 4), (5, 6), (6, 8)]) == [(0, 1), (0, 1), (0, 1), (1, 2)]
    assert ranges([(3, 4)], [(0, 1), (3, 4)]) == [(0, 1), (0, 1)]
    assert ranges([], [(0, 1)]) == [(0, 0)]


def test_what_leaves_no_room_is_refused() -> None:
    backbone = tiny_backbone()
    with pytest.raises(RecipeError, match=r"token_head: max_length=3 leaves no room .* give at least 4"):
        Offsets.of(backbone, 3, None, "token_head")
    with pytest.raises(RecipeError, match=r"token_head: stride=8 tokens shared by windows of 8 leave nothing new"):
        Offsets.of(backbone, 10, 8, "token_head")


def test_a_stride_meant_for_a_longer_model_is_cut_to_measure() -> None:
    assert Offsets.of(tiny_backbone(), 384, 128, "span_head").stride == 62 // 4
    assert Offsets.of(tiny_backbone(), 384, 20, "span_head").stride == 20


@pytest.mark.parametrize(("family", "before", "after"), [("bert", 1, 1), ("t5", 0, 1), ("gpt2", 0, 0)])
def test_special_tokens_are_those_of_the_family(family: str, before: int, after: int) -> None:
    text = Offsets.of(tiny_backbone(family), 10, None, "token_head")
    assert (len(text.wrapping.before), len(text.wrapping.after), text.room) == (before, after, 10 - before - after)
    assert text.stride == text.room // 4
