"""Rows hold every token once, in order, each piece with its special tokens; packed rows are full."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering.contracts import RowForm
from tempering.corpora.rows import LEAST, Rows
from tempering.corpora.tokens import Tokens

FORM = RowForm(10, (1,), (2,))
PACKED = RowForm(12, (1,), (2,), packed=True)


def corpus(lengths: list[int], words: bool = False) -> Tokens:
    """Tokens 100, 101, ... so that each tells its place; a word begins at every third."""
    total = sum(lengths)
    starts = (np.arange(total) % 3 == 0).astype(np.uint8) if words else np.zeros(0, np.uint8)
    return Tokens(np.arange(100, 100 + total), np.cumsum(lengths), np.arange(len(lengths), dtype=np.uint64), starts)


def inside(row: list[int], sizes: tuple[int, ...]) -> list[list[int]]:
    """The segments of a row, without the special tokens that each must have."""
    found = []
    for size in sizes:
        part, row = row[:size], row[size:]
        assert part[0] == 1 and part[-1] == 2
        found.append(part[1:-1])
    assert not row
    return found


@given(st.lists(st.integers(0, 40), max_size=12), st.booleans(), st.integers(3, 20), st.data())
def test_every_token_comes_once_and_in_order(lengths: list[int], packed: bool, length: int, data: st.DataObject) -> None:
    form = RowForm(length, (1,), (2,), packed)
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(lengths) - 1)))) if lengths else [], np.int64)
    tokens = corpus(lengths)
    rows = Rows(tokens, chosen, form)
    prompts = rows[:]
    assert len(prompts) == len(rows) and list(rows.lengths) == [len(p.input_ids) for p in prompts]
    segments = [s for p in prompts for s in inside(list(p.input_ids), p.extra if packed else (len(p.input_ids),))]
    expected = [i for d in chosen for i in tokens.ids[slice(*tokens.span(int(d)))].tolist()]
    assert [i for s in segments for i in s] == expected and all(segments)
    assert all(len(p.input_ids) <= length for p in prompts)
    for segment in segments:  # no segment holds tokens of two documents
        assert len({int(np.searchsorted(tokens.ends, i - 100, side="right")) for i in segment}) == 1


def test_pieces_of_a_long_document() -> None:
    rows = Rows(corpus([3, 0, 20]), np.array([0, 1, 2]), FORM)
    assert [list(p.input_ids) for p in rows] == [
        [1, 100, 101, 102, 2],
        [1, *range(103, 111), 2],
        [1, *range(111, 119), 2],
        [1, *range(119, 123), 2],
    ]
    assert rows[-1] == rows[3] and rows[1:3] == [rows[1], rows[2]]
    with pytest.raises(IndexError):
        rows[4]


def test_packed_rows_are_full() -> None:
    rng = np.random.default_rng(0)
    form = RowForm(128, (1,), (2,), packed=True)
    rows = Rows(corpus(rng.integers(5, 300, 200).tolist()), np.arange(200), form)
    assert rows.fill > 0.98 and (rows.lengths[:-1] >= 128 - LEAST - 2).all()
    assert Rows(rows.tokens, np.arange(200), RowForm(128, (1,), (2,))).fill < 0.85


def test_a_cut_at_the_end_of_a_row_is_worth_some_tokens() -> None:
    rows = Rows(corpus([6, 30]), np.array([0, 1]), PACKED)  # 12 - 8 leaves room for 2 tokens: fewer than LEAST
    assert [p.extra for p in rows] == [(8,), (12,), (12,), (12,)]
    rows = Rows(corpus([6, 2]), np.array([0, 1]), PACKED)  # but a whole short text goes there
    assert [p.extra for p in rows] == [(8, 4)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_text_is_closed_and_a_piece_is_not(packed: bool) -> None:
    form = RowForm(6, (1,), packed=packed, closing=(9,))
    rows = Rows(corpus([3, 5, 7]), np.arange(3), form)
    flat = [i for p in rows for i in p.input_ids if i != 1]
    assert flat == [100, 101, 102, 9, *range(103, 108), 9, *range(108, 115), 9]
    assert all(len(p.input_ids) <= 6 for p in rows) and list(rows.lengths) == [len(p.input_ids) for p in rows]


def test_words_are_numbered_anew_in_each_row_and_never_run_into_the_next_text() -> None:
    rows = Rows(corpus([4, 3], words=True), np.array([0, 1]), PACKED)
    (row,) = rows
    assert row.extra == (6, 5) and row.target == [-1, 0, 0, 0, 1, -1, -1, 2, 2, 3, -1]


def test_nothing_at_all() -> None:
    for form in (FORM, PACKED):
        assert len(Rows(corpus([]), np.zeros(0, np.int64), form)) == Rows(corpus([0]), np.array([0]), form).fill


@pytest.mark.parametrize("packed", [False, True])
def test_a_document_takes_few_bytes(packed: bool) -> None:
    """A gigabyte of short lines is ten million documents, of which there may be a tenth of a kilobyte each."""
    count = 150_000
    tokens = Tokens(np.zeros(20 * count, np.uint16), np.arange(1, count + 1) * 20, np.zeros(count, np.uint64), np.zeros(0, np.uint8))
    tracemalloc.start()
    rows = Rows(tokens, np.arange(count), RowForm(128, (1,), (2,), packed=packed))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows[len(rows) // 2].input_ids) > 20 and held < 40 * count and peak < 110 * count
