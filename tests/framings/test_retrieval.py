"""Which rows are most like a query."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tempering.contracts import Example
from tempering.framings.asked import retrieval
from tempering.framings.asked.retrieval import BM25, K1, B, Neighbors, embedded, joined, nearest, nearness
from tests.tiny import tiny_backbone

TEXTS = ["good film", "bad film film", "the room was warm and bright"]
ROWS = tuple(Example((text,), label, i) for i, (text, label) in enumerate(zip(TEXTS, ("good", "bad", "good"), strict=True)))


def test_bm25_is_its_formula() -> None:
    found = BM25(TEXTS).scores("film good")
    lengths, mean = [2, 3, 6], 11 / 3

    def part(often: int, length: int, holding: int) -> float:
        idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return idf * often * (K1 + 1) / (often + K1 * (1 - B + B * length / mean))

    assert found.tolist() == pytest.approx([part(1, 2, 2) + part(1, 2, 1), part(2, lengths[1], 2), 0.0])


def test_bm25_of_many_texts_is_the_sum_over_the_querys_words_text_by_text() -> None:
    rng = np.random.default_rng(0)
    pool = [" ".join(f"w{int(i)}" for i in rng.zipf(1.3, rng.integers(0, 30)) % 40) for _ in range(60)]
    counts = [Counter(text.split()) for text in pool]
    mean = sum(sum(found.values()) for found in counts) / len(pool)
    index = BM25(pool)
    for query in (*pool[:20], "w1 w1 W2 unheard", "", "unheard"):
        expected = np.zeros(len(pool))
        for word in query.lower().split():
            holding = sum(word in found for found in counts)
            idf = math.log(1 + (len(pool) - holding + 0.5) / (holding + 0.5))
            for i, found in enumerate(counts):
                length = sum(found.values())
                expected[i] += idf * found[word] * (K1 + 1) / (found[word] + K1 * (1 - B + B * length / mean))
        np.testing.assert_allclose(index.scores(query), expected, rtol=0, atol=1e-9)


def test_bm25_looks_only_at_texts_that_hold_a_word_of_the_query() -> None:
    index = BM25([*(f"common rare{i}" for i in range(50)), "other"])
    assert len(index.rows) == len(index.added) == 101 and index.scores("other").nonzero()[0].tolist() == [50]


def test_an_embedding_is_the_mean_of_the_texts_states_alone_or_in_a_batch() -> None:
    backbone = tiny_backbone("bert")
    found = embedded(backbone, TEXTS, batch_size=2)
    for text, vector in zip(TEXTS, found, strict=True):
        states = backbone.encode({"input_ids": torch.tensor([backbone.tokenizer(text)["input_ids"]])}).last[0]
        torch.testing.assert_close(vector, states.mean(0).detach(), rtol=0, atol=1e-5)


def test_cosine_and_distance_rank_by_different_things() -> None:
    pool, query = torch.tensor([[10.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert int(nearness(pool, query, "cosine").argmax()) == 0
    assert int(nearness(pool, query, "euclidean").argmax()) == 1
    assert nearness(pool, query, "euclidean")[0].tolist() == pytest.approx([-math.sqrt(82), -1.0])


def test_the_nearest_first_ties_by_number_excluded_aside() -> None:
    scores = np.array([0.1, 0.9, 0.9, 0.5])
    classes = np.array([0, 0, 1, 1])
    assert nearest(scores, 3, classes, [], per_class=False) == [1, 2, 3]
    assert nearest(scores, 3, classes, [1], per_class=False) == [2, 3, 0]
    assert nearest(scores, 1, classes, [], per_class=True) == [1, 2]
    assert nearest(scores, 2, classes, [1], per_class=True) == [2, 3, 0]


def test_a_query_never_finds_itself() -> None:
    neighbors = Neighbors(ROWS, [e.label for e in ROWS], 2, False, "cosine", ())
    assert list(neighbors.of(ROWS[:1], None)) == [(1, 2)]
    assert list(neighbors.of([Example(("film",))], None)) == [(1, 0)]


def test_neighbors_by_embedding() -> None:
    backbone = tiny_backbone("bert")
    embeddings = embedded(backbone, TEXTS)
    neighbors = Neighbors(ROWS, [e.label for e in ROWS], 1, False, "cosine", (backbone,))
    queries = [Example(("good film good",)), Example(("the room was warm",))]
    near = nearness(embeddings, embedded(backbone, [joined(q) for q in queries]), "cosine")
    assert list(neighbors.of(queries, embeddings)) == [(int(row.argmax()),) for row in near]
    assert list(neighbors.of([], embeddings)) == []


def test_nearness_is_held_for_some_queries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, seen = tiny_backbone("bert"), []
    neighbors = Neighbors(ROWS, [e.label for e in ROWS], 2, False, "cosine", (backbone,))
    queries = [Example((f"the {w} film",)) for w in ("good", "bad", "happy", "sad", "very")]
    whole = list(neighbors.of(queries, embedded(backbone, TEXTS)))

    def spied(pool: torch.Tensor, asked: torch.Tensor, metric: Any) -> torch.Tensor:
        seen.append(len(asked))
        return nearness(pool, asked, metric)

    monkeypatch.setattr(retrieval, "CHUNK", 2)
    monkeypatch.setattr(retrieval, "nearness", spied)
    assert list(neighbors.of(queries, embedded(backbone, TEXTS))) == whole and seen == [2, 2, 1]


def test_a_pair_stands_as_its_two_texts() -> None:
    assert joined(Example(("a b", "c"))) == "a b c"
