"""Curating: an exact search, and documents like the task's texts found among others."""

from __future__ import annotations

import numpy as np
import pytest

from tempering.corpora import nearest as module
from tempering.corpora.nearest import Curate, choose, nearest
from tests.tiny import tiny_backbone

FILM = [f"the film was {tone} and the story {end}" for tone in ("good", "bad", "dull", "great") for end in ("lovely", "sad", "silly")]
FOOD = [f"a meal with w{i} in a room" for i in range(10)]
CORPUS = [text for pair in zip(FOOD, FILM[:10], strict=True) for text in pair]
ALL = np.arange(len(CORPUS))


def test_the_search_is_exact_however_the_corpus_is_cut() -> None:
    rng = np.random.default_rng(0)
    wanted, corpus = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(50, 5)).astype(np.float32)
    expected = np.argsort(-(wanted @ corpus.T), axis=1)[:, :4]
    for size in (1, 3, 50):
        chunks = [(np.arange(i, min(i + size, 50)), corpus[i : i + size]) for i in range(0, 50, size)]
        assert (nearest(wanted, chunks, 4) == expected).all()
    assert nearest(corpus, [(np.arange(50), corpus)], 1).shape == (50, 1)


def _sorted_whole(wanted: np.ndarray, corpus: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(wanted @ corpus.T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("k", [1, 4, 9, 60])
@pytest.mark.parametrize("block", [2, 1000])
def test_of_equals_the_first_is_taken_however_both_sides_are_cut(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers: nearly every place is shared, and sums are exact."""
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(1)
    wanted, corpus = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (7, 60))
    wanted[2] = 0  # as near to every document
    for size in (1, 7, 16, 60):
        chunks = [(np.arange(i, min(i + size, 60)), corpus[i : i + size]) for i in range(0, 60, size)]
        assert (nearest(wanted, chunks, k) == _sorted_whole(wanted, corpus, k)).all()


@pytest.mark.parametrize("by", ["tfidf", "backbone"])
def test_a_text_in_the_pool_is_its_own_nearest(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    backbone = tiny_backbone().train()
    for i in (1, 4, 19):
        found = choose(Curate(1, by, dimensions=64), CORPUS, [CORPUS[i]], ALL, backbone)  # type: ignore[arg-type]
        assert [CORPUS[j] for j in found] == [CORPUS[i]]
    assert backbone.training  # it was put to evaluation for a moment only


def test_films_find_films() -> None:
    found = choose(Curate(3, dimensions=4), CORPUS, FILM[10:], ALL, tiny_backbone())
    assert len(found) >= 3 and all("film" in CORPUS[i] for i in found) and sorted(set(found)) == list(found)


def test_what_is_not_allowed_is_never_found() -> None:
    allowed = np.array([i for i in ALL if i != 4])
    for by in ("tfidf", "random"):
        found = choose(Curate(4, by, dimensions=64), CORPUS, [CORPUS[4]], allowed, tiny_backbone())  # type: ignore[arg-type]
        assert 4 not in found and len(found) == 4
    assert len(choose(Curate(50), CORPUS, FILM, ALL, tiny_backbone())) == 20  # no more than there are


def test_random_documents_are_as_many_and_repeat_with_their_seed() -> None:
    one, again, other = (choose(Curate(2, "random", seed=s), CORPUS, FILM[:4], ALL, tiny_backbone()).tolist() for s in (0, 0, 1))
    assert one == again != other and len(one) == 8 == len(set(one))
