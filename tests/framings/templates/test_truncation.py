"""What is cut where a prompt is too long, and what never is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.framings.templates.gathering import gathered, tail_of
from tempering.framings.templates.laying import Part, cut_to, lay, size
from tempering.framings.templates.truncation import shortened
from tempering.framings.wrapping import Wrapping

HOWS: Any = st.sampled_from(["longest", "tail", "head", "balanced"])
WRAPPING = Wrapping((1,), (2,))
MASK, LABEL, SOFT = 900, 901, 902


def one_by_one(lengths: list[int], room: int) -> list[int]:
    """The definition: one token after the other off the longest, of equal ones the later."""
    left = list(lengths)
    while sum(left) > room:
        i = max(range(len(left)), key=lambda i: (left[i], i))
        left[i] -= 1
    return left


@given(st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(0, 80))
def test_longest_is_one_token_after_the_other(lengths: list[int], room: int) -> None:
    assert [end - start for start, end in shortened(lengths, room, "longest")] == one_by_one(lengths, room)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=5), st.integers(0, 60), HOWS)
def test_every_way_fills_the_room_exactly(lengths: list[int], room: int, how: Any) -> None:
    kept = shortened(lengths, room, how)
    assert sum(end - start for start, end in kept) == min(room, sum(lengths))
    assert all(0 <= start <= end <= n for (start, end), n in zip(kept, lengths, strict=True))
    if sum(lengths) <= room:
        assert kept == [(0, n) for n in lengths]


def test_where_each_way_cuts() -> None:
    assert shortened([6, 4], 7, "longest") == [(0, 4), (0, 3)]
    assert shortened([6, 4], 7, "tail") == [(0, 6), (0, 1)]
    assert shortened([6, 4], 3, "tail") == [(0, 3), (0, 0)]
    assert shortened([6, 4], 7, "head") == [(3, 6), (0, 4)]  # off the front, and the rest stays
    assert shortened([6, 4], 3, "head") == [(6, 6), (1, 4)]
    assert shortened([6, 4], 5, "balanced") == [(0, 3), (0, 2)]
    assert shortened([5, 5], 7, "balanced") == [(0, 4), (0, 3)]


def field(n: int, start: int = 10) -> Part:
    return Part(list(range(start, start + n)), "field", True)


def query(first: int, second: int, masks: int = 1, vectors: int = 0) -> list[Part]:
    soft = [Part([SOFT] * vectors, "soft", vectors=tuple(range(vectors)))]
    return [field(first), Part([7, 8]), *soft, Part([MASK] * masks, "mask"), Part([9]), field(second)]


@settings(max_examples=80)
@given(st.integers(0, 400), st.integers(0, 400), st.integers(1, 3), st.integers(0, 4), HOWS)
def test_masks_vectors_and_words_of_the_template_are_never_cut(first: int, second: int, masks: int, vectors: int, how: Any) -> None:
    parts, length = query(first, second, masks, vectors), 40
    before = copy.deepcopy(parts)
    cut = cut_to(parts, length - 2, how)
    laid = lay([parts], WRAPPING, 1, cut=cut)
    assert len(laid.ids) <= length and laid.ids[0] == 1 and laid.ids[-1] == 2
    assert [laid.ids[i] for i in laid.places.masks] == [MASK] * masks == [i for i in laid.ids if i == MASK]
    assert [laid.ids[i] for i in laid.places.soft] == [SOFT] * vectors and laid.places.vectors == tuple(range(vectors))
    assert {7, 8, 9} <= set(laid.ids)
    assert cut == (size(before) > length - 2)
    if not cut:
        assert parts == before


def demo(n: int, label: int, pair: bool = False) -> list[Part]:
    return [field(n), Part([8]), Part([label, label], "label"), *([field(n)] if pair else [])]


DEMOS = st.lists(st.lists(st.integers(0, 150), min_size=2, max_size=2), min_size=0, max_size=4)


@settings(max_examples=80)
@given(st.integers(0, 300), DEMOS, HOWS, st.booleans())
def test_an_example_keeps_its_label_or_goes_whole(first: int, rounds: list[list[int]], how: Any, pair: bool) -> None:
    parts, length, floor = query(first, 3), 60, 4
    shown = [[demo(n, 500 + c, pair) for c, n in enumerate(found)] for found in rounds]
    total = size(parts) + sum(size(d) + 1 for found in shown for d in found)
    stays, cut = gathered(parts, shown, length - 2, 1, floor, how)
    laid = lay([parts, *stays], WRAPPING, 2, cut=cut)
    assert len(laid.ids) <= length and len(laid.places.masks) == 1 and laid.ids[laid.places.masks[0]] == MASK
    assert laid.ids.count(500) == laid.ids.count(501) == len(stays)  # two label tokens each, as many examples of each class
    assert all(p.ids[0] == p.ids[1] for d in stays for p in d if p.role == "label")
    assert cut == (total > length - 2)
    if stays:  # the query is not touched while there is an example left
        assert len(parts[0].ids) == first
        assert all(
            len(p.ids) >= min(floor, 150) or len(p.ids) == len(o.ids) for d in stays for p, o in zip(d, demo_like(d, shown), strict=True)
        )


def demo_like(d: list[Part], shown: list[list[list[Part]]]) -> list[Part]:
    """The example itself: those that stay are shortened in place."""
    return next(other for found in shown for other in found if other is d)


def test_the_longest_example_is_shortened_first() -> None:
    shown = [[demo(20, 500), demo(12, 501)]]
    stays, cut = gathered(query(5, 0), shown, 9 + (20 + 3) + (12 + 3) + 2 - 6, 1, 4, "longest")
    assert cut and [len(d[0].ids) for d in stays] == [14, 12]


def test_rounds_go_before_the_query_is_touched() -> None:
    shown = [[demo(10, 500), demo(10, 501)], [demo(10, 500), demo(10, 501)]]
    one_round_at_the_floor = 9 + 2 * (4 + 3 + 1)
    stays, cut = gathered(query(5, 0), shown, one_round_at_the_floor, 1, 4, "longest")
    assert cut and len(stays) == 2 and [len(d[0].ids) for d in stays] == [4, 4]
    parts = query(5, 0)
    assert gathered(parts, shown, one_round_at_the_floor - 1, 1, 4, "longest") == ([], True) and len(parts[0].ids) == 5


@given(st.integers(0, 100), st.lists(st.integers(0, 40), max_size=8))
def test_examples_before_the_query_are_cut_at_the_head_and_never_by_half(first: int, lengths: list[int]) -> None:
    demos = [demo(n, 500 + i) for i, n in enumerate(lengths)]
    parts, room = query(first, 0), 70
    stays, cut = tail_of(parts, demos, room, 1, "longest")
    assert size(parts) + sum(size(d) + 1 for d in stays) <= room
    assert (
        stays == demos[len(demos) - len(stays) :] and stays == [demo(n, 500 + i) for i, n in enumerate(lengths)][len(demos) - len(stays) :]
    )
    assert cut == (first + 4 + sum(n + 4 for n in lengths) > room)


@pytest.mark.parametrize(("segments", "expected"), [(1, None), (2, [0, 0, 0, 1, 1, 1, 1]), (3, [0, 0, 0, 1, 1, 2, 2])])
def test_segments_stay_within_the_models_table(segments: int, expected: list[int] | None) -> None:
    groups = [[Part([5])], [Part([6])], [Part([7])]]
    laid = lay(groups, WRAPPING, segments)
    assert laid.ids == [1, 5, 2, 6, 2, 7, 2] and laid.types == expected
    inside = lay([[Part([5]), Part([2], raises=True), Part([6])]], WRAPPING, segments)
    assert inside.types == (None if segments == 1 else [0, 0, 0, 1, 1])


def test_a_model_that_reads_from_left_to_right_sees_nothing_of_the_mask() -> None:
    laid = lay([[field(3), Part([MASK], "mask")]], Wrapping((1,), (2,)), 1, causal=True)
    assert laid.ids == [1, 10, 11, 12] and laid.places.masks == (3,)
