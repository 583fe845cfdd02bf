"""Which rows are most like a query."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tempering.contracts import Example
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
    assert nearest(scores, 3, "aabb", [], per_class=False) == [1, 2, 3]
    assert nearest(scores, 3, "aabb", [1], per_class=False) == [2, 3, 0]
    assert nearest(scores, 1, "aabb", [], per_class=True) == [1, 2]


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


def test_a_pair_stands_as_its_two_texts() -> None:
    assert joined(Example(("a b", "c"))) == "a b c"
