"""How often, where and by what tokens are hidden."""

from __future__ import annotations

import numpy as np
import pytest

from tempering.framings.hidden.masking import MOST, SPANS, Choice, Masking

SPECIAL = (0, 1, 2)
MASK, VOCABULARY = 2, 1000


def masking(probability: float = 0.15, mask_share: float = 0.8, random_share: float = 0.1, choice: Choice = "token") -> Masking:
    special = np.isin(np.arange(VOCABULARY), SPECIAL)
    return Masking(probability, mask_share, random_share, MASK, VOCABULARY, special, choice)


def text(rows: int, length: int) -> np.ndarray:
    """Rows that begin and end with a special token."""
    ids = np.random.default_rng(1).integers(3, VOCABULARY, (rows, length))
    ids[:, 0], ids[:, -1] = 0, 1
    return ids


def test_rates_over_many_tokens() -> None:
    ids = text(2000, 102)
    hidden, positions = masking().corrupt(ids, None, None, np.random.default_rng(0))
    before, after = ids.reshape(-1)[positions], hidden.reshape(-1)[positions]
    assert len(positions) / (2000 * 100) == pytest.approx(0.15, abs=0.003)
    assert np.mean(after == MASK) == pytest.approx(0.8, abs=0.01)
    assert np.mean(after == before) == pytest.approx(0.1, abs=0.01)
    strangers = after[(after != MASK) & (after != before)]
    assert len(strangers) / len(after) == pytest.approx(0.1, abs=0.01)
    assert strangers.mean() == pytest.approx(VOCABULARY / 2, rel=0.05)
    untouched = np.delete(hidden.reshape(-1), positions) == np.delete(ids.reshape(-1), positions)
    assert untouched.all()


def test_special_and_padding_are_never_chosen() -> None:
    ids = text(50, 10)
    real = np.arange(10) < np.random.default_rng(2).integers(3, 10, 50)[:, None]
    hidden, positions = masking(1.0, 1.0, 0.0).corrupt(ids, real, None, np.random.default_rng(0))
    expected = real & ~np.isin(ids, SPECIAL)
    assert positions.tolist() == np.flatnonzero(expected).tolist()
    assert (hidden == np.where(expected, MASK, ids)).all()


def test_the_same_stream_repeats_and_another_differs() -> None:
    ids = text(8, 40)
    first, again, other = (masking().corrupt(ids, None, None, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (first[0] == again[0]).all() and first[1].tolist() == again[1].tolist()
    assert first[1].tolist() != other[1].tolist()


def test_at_least_one_token_is_chosen() -> None:
    ids, rng = text(1, 4), np.random.default_rng(0)
    found = [masking(1e-9).corrupt(ids, None, None, rng)[1].tolist() for _ in range(40)]
    assert {tuple(f) for f in found} == {(1,), (2,)}


def test_a_batch_of_special_tokens_only_asks_for_one_and_hides_none() -> None:
    ids = np.array([[0, 1]])
    hidden, positions = masking(1.0).corrupt(ids, None, None, np.random.default_rng(0))
    assert positions.tolist() == [0] and hidden.tolist() == [[0, 1]]


def test_words_are_chosen_whole_at_the_same_rate_of_tokens() -> None:
    ids = text(2000, 62)
    words = np.repeat(np.arange(-1, 20), 3)[None, 2:-1].repeat(2000, 0)  # [-1, 0, 0, 0, 1, 1, 1, ..., -1]
    words = np.concatenate([words, np.full((2000, 62 - words.shape[1]), -1)], 1)
    ids[words < 0] = 0
    _, positions = masking().corrupt(ids, None, words, np.random.default_rng(0))
    chosen = np.zeros(ids.size, bool)
    chosen[positions] = True
    chosen = chosen.reshape(ids.shape)
    assert not chosen[words < 0].any()
    by_word = np.stack([chosen[:, words[0] == w].mean(1) for w in range(20)], 1)
    assert set(np.unique(by_word)) == {0.0, 1.0}
    assert by_word.mean() == pytest.approx(0.15, abs=0.005)


def test_the_one_word_that_must_be_chosen_is_whole_and_in_one_row() -> None:
    ids = np.array([[0, 10, 11, 12, 1], [0, 20, 21, 22, 1]])
    words = np.array([[-1, 0, 0, 1, -1], [-1, 0, 0, 0, -1]])
    rng = np.random.default_rng(0)
    found = {tuple(masking(1e-9).corrupt(ids, None, words, rng)[1].tolist()) for _ in range(60)}
    assert found == {(1, 2), (3,), (6, 7, 8)}


def lines(rows: int, words: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of [special, words of ``size`` tokens each, special] and their word numbers."""
    numbers = np.concatenate([[-1], np.repeat(np.arange(words), size), [-1]])[None].repeat(rows, 0)
    ids = np.random.default_rng(1).integers(3, VOCABULARY, numbers.shape)
    ids[numbers < 0] = 0
    return ids, numbers


def runs(chosen: np.ndarray) -> list[int]:
    """Lengths of the stretches of chosen tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


def test_the_lengths_of_spans_are_those_of_the_paper() -> None:
    assert len(SPANS) == MOST == 10 and SPANS.sum() == pytest.approx(1.0)
    assert (SPANS * np.arange(1, 11)).sum() == pytest.approx(3.8, abs=0.01)  # Joshi et al. 2020, section 3.1
    assert SPANS[0] / SPANS[1] == pytest.approx(1 / 0.8)


@pytest.mark.parametrize(("words", "size"), [(100, 1), (40, 2), (6, 1)])
def test_spans_reach_the_rate_in_long_and_in_short_rows(words: int, size: int) -> None:
    ids, numbers = lines(64, words, size)
    found = [masking(choice="span").corrupt(ids, None, numbers, np.random.default_rng(s))[1] for s in range(12)]
    assert np.mean([len(f) for f in found]) / (64 * words * size) == pytest.approx(0.15, abs=0.003)


def test_a_span_is_of_whole_neighboring_words_of_one_row_and_one_fate() -> None:
    ids, numbers = lines(4000, 60, 2)
    ids[:, 61], numbers[:, 61] = 0, -1  # a special token in the middle: two texts in one row
    hidden, positions = masking(0.02, 0.5, 0.0, "span").corrupt(ids, None, numbers, np.random.default_rng(0))
    chosen = np.zeros(ids.size, bool)
    chosen[positions] = True
    chosen = chosen.reshape(ids.shape)
    assert not chosen[numbers < 0].any()
    lengths = [length for row in chosen for length in runs(row)]
    assert np.mean(lengths) / 2 == pytest.approx(3.8, rel=0.08) and max(lengths) >= 20
    odd = [length for length in lengths if length % 2]
    assert len(odd) < 0.04 * len(lengths)  # only where the special token cut a word
    masked = (hidden == MASK) & chosen
    assert masked[chosen].mean() == pytest.approx(0.5, abs=0.05)
    fates = [len(set(masked[r][chosen[r]].tolist())) for r in range(4000) if len(runs(chosen[r])) == 1]
    assert len(fates) > 500 and np.mean(np.array(fates) == 1) > 0.97  # but where two spans touch


def test_spans_repeat_with_their_stream_and_one_is_enough() -> None:
    ids, numbers = lines(4, 30, 1)
    first, again, other = (masking(choice="span").corrupt(ids, None, numbers, np.random.default_rng(s)) for s in (3, 3, 4))
    assert (first[0] == again[0]).all() and first[1].tolist() == again[1].tolist() != other[1].tolist()
    short, two = lines(1, 2, 1)
    few = [masking(1e-9, choice="span").corrupt(short, None, two, np.random.default_rng(s))[1].tolist() for s in range(9)]
    assert {tuple(f) for f in few} == {(1,), (2,)}
    everything = masking(1.0, choice="span").corrupt(ids, None, numbers, np.random.default_rng(0))[1]
    assert len(everything) == 120
