"""The search for label words on planted logits, against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tempering.framings.verbalizers.word_search import (
    accuracy_of,
    apart,
    ascent,
    autoprompt_words,
    best_assignments,
    ce,
    likeliest,
    llr,
    log1mexp,
    nearest,
    pearson_of,
    petal_words,
)
from tempering.streams import numpy_stream

VOCABULARY, ROWS = 40, 30


def planted(classes: int, strength: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits in which token 10 + c is likelier in rows of class c."""
    torch.manual_seed(classes)
    targets = torch.arange(ROWS) % classes
    logits = torch.randn(ROWS, VOCABULARY)
    logits[torch.arange(ROWS), 10 + targets] += strength
    return logits, targets


def test_g15() -> None:
    chances, mine = torch.tensor([0.6, 0.5, 0.1, 0.2]).log().unsqueeze(-1), torch.tensor([True, True, False, False])
    assert float(llr(chances, mine)) == pytest.approx(3.98898, abs=1e-5)
    assert float(llr(chances, mine, normalize=False)) == pytest.approx(3.98898, abs=1e-5)  # as many rows in the class as outside
    uneven = llr(chances[:3], mine[:3])
    assert float(uneven) == pytest.approx(0.5 * np.log(0.6 / 0.4) + np.log(0.9 / 0.1), abs=1e-5)
    assert float(ce(chances, mine)) == pytest.approx(np.log([0.6, 0.5, 0.9, 0.8]).sum(), abs=1e-5)


def test_log_of_one_minus_p_at_both_ends() -> None:
    x = torch.tensor([-1e-4, -0.5, -30.0, 0.0], dtype=torch.float64)
    assert log1mexp(x)[:3].tolist() == pytest.approx(np.log(-np.expm1(x[:3].numpy())).tolist())
    assert log1mexp(x)[3].isfinite()


def test_the_likeliest_words_by_mean_logit_and_by_mean_log_probability_are_the_same() -> None:
    logits, targets = planted(3)
    a = likeliest(logits, targets, 3, range(5, VOCABULARY), 6)
    assert a == likeliest(logits.log_softmax(-1), targets, 3, range(5, VOCABULARY), 6)
    assert [row[0] for row in a] == [10, 11, 12]
    assert all(i >= 5 for row in a for i in row) and all(len(row) == 6 for row in a)


def brute(logits: torch.Tensor, targets: torch.Tensor, candidates: Any) -> list[tuple[float, tuple[int, ...]]]:
    found = []
    for ids in itertools.product(*candidates):
        right = [int(row[list(ids)].argmax()) == int(t) for row, t in zip(logits, targets, strict=True)]
        found.append((sum(right) / len(right) if len(set(ids)) == len(ids) else -1.0, ids))
    return sorted(found, key=lambda pair: -pair[0])


@pytest.mark.parametrize("classes", [2, 3])
def test_the_search_is_brute_force_and_finds_planted_words(classes: int) -> None:
    logits, targets = planted(classes)
    candidates = likeliest(logits, targets, classes, range(VOCABULARY), 7)
    found = best_assignments(candidates, accuracy_of(logits, targets), 20)
    expected = brute(logits, targets, candidates)[:20]
    assert [a.ids for a in found] == [ids for _, ids in expected]
    assert [a.score for a in found] == pytest.approx([score for score, _ in expected])
    strong, targets = planted(classes, strength=8.0)
    best = best_assignments(likeliest(strong, targets, classes, range(VOCABULARY), 7), accuracy_of(strong, targets), 1)[0]
    assert best == (1.0, tuple(range(10, 10 + classes)))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = planted(3)
    candidates = likeliest(logits, targets, 3, range(VOCABULARY), 6)
    whole = best_assignments(candidates, accuracy_of(logits, targets), 15)
    monkeypatch.setattr("tempering.framings.verbalizers.word_search.CHUNK", 7)
    assert best_assignments(candidates, accuracy_of(logits, targets), 15) == whole


def test_one_word_for_two_classes_is_never_chosen() -> None:
    logits, targets = planted(2)
    found = best_assignments([[3, 4], [4, 3]], accuracy_of(logits, targets), 4)
    assert [a.score for a in found[2:]] == [-1.0, -1.0]
    assert all(len(set(a.ids)) == 2 for a in found[:2])


def test_beyond_the_limit_coordinate_ascent_climbs_to_planted_words() -> None:
    logits, targets = planted(5, strength=8.0)
    candidates = [[*range(20, 28), 10 + c] for c in range(5)]
    assert 9**5 > 1000
    found = best_assignments(candidates, accuracy_of(logits, targets), 3, limit=1000, rng=numpy_stream(0))
    assert found[0] == (1.0, (10, 11, 12, 13, 14)) and len(found) == 3
    assert found == best_assignments(candidates, accuracy_of(logits, targets), 3, limit=1000, rng=numpy_stream(0))
    small = [[10, 20, 21], [11, 22, 23]]
    score = accuracy_of(*planted(2))
    assert ascent(small, score, 1, numpy_stream(0))[0].score == best_assignments(small, score, 1)[0].score


def test_values_are_ranked_by_pearson() -> None:
    torch.manual_seed(0)
    values = torch.rand(ROWS) * 5
    logits = torch.randn(ROWS, VOCABULARY)
    logits[:, 11] += values - 2.5
    logits[:, 10] -= values - 2.5
    score = pearson_of(logits, values)
    pairs = torch.tensor([[10, 11], [11, 10], [7, 7]])
    p = logits[:, [10, 11]].softmax(-1)[:, 1].numpy()
    assert float(score(pairs)[0]) == pytest.approx(np.corrcoef(p, values.numpy())[0, 1], abs=1e-5)
    assert float(score(pairs)[1]) == pytest.approx(-float(score(pairs)[0]), abs=1e-5)
    assert float(score(pairs)[2]) == -1.0
    above = (values > values.median()).long()
    assert best_assignments(likeliest(logits, above, 2, range(VOCABULARY), 5), score, 1)[0].ids == (10, 11)


def test_neighbors_by_cosine() -> None:
    matrix = torch.eye(6, 4)
    matrix[4], matrix[5] = torch.tensor([1.0, 0.5, 0, 0]), torch.tensor([5.0, 0.1, 0, 0])
    assert nearest(matrix, 0, [1, 2, 4, 5], 2) == [5, 4]


@pytest.mark.parametrize("score", ["llr", "ce"])
def test_petal_finds_planted_words(score: Any) -> None:
    logits, targets = planted(3, strength=4.0)
    found = petal_words(logits.log_softmax(-1), targets, 3, range(5, VOCABULARY), score, 2, 20)
    assert [row[0] for row in found] == [10, 11, 12]
    flat = [i for row in found for i in row]
    assert len(flat) == len(set(flat)) and all(len(row) <= 2 for row in found)


def test_petal_by_hand() -> None:
    logits, targets = planted(2)
    p = logits.softmax(-1)
    own = targets == 0
    by_hand = [float((p[own, i] / (1 - p[own, i])).log().sum() + ((1 - p[~own, i]) / p[~own, i]).log().sum()) for i in range(VOCABULARY)]
    assert llr(p.log(), own).tolist() == pytest.approx(by_hand, rel=1e-4, abs=1e-3)
    pruned = petal_words(p.log(), targets, 2, range(VOCABULARY), "llr", 40, 6)
    kept = p.log()[own].sum(0).topk(6).indices.tolist()
    assert set(pruned[0]) <= set(kept)


def test_words_are_told_apart() -> None:
    ranks = torch.tensor([[3.0, 2.0, 1.0], [1.0, 5.0, 0.0]])
    assert apart(ranks, torch.tensor([7, 8, 9]), 2) == [[7, 9], [8]]


def test_autoprompt_finds_the_words_that_lie_along_the_classes() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(VOCABULARY, 16)
    targets = torch.arange(60) % 2
    states = torch.randn(60, 16) * 0.1 + 3 * matrix[10 + targets]
    matrix[20] = 3 * matrix[10] - 3 * matrix[11]
    matrix[21] = -matrix[20]
    found = autoprompt_words(states, targets, matrix, 2, range(VOCABULARY), 1, 300, numpy_stream(0))
    assert found == [[20], [21]]
    assert found == autoprompt_words(states, targets, matrix, 2, range(VOCABULARY), 1, 300, numpy_stream(0))
