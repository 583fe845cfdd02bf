"""The order of demonstrations: permutations, entropies, and the probes a model writes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tempering.framings.asked.ordering import entropy, global_entropy, local_entropy, orders_of, probes, some_permutations
from tempering.framings.asked.prompt_text import FORMATS, Pattern


def test_the_golden_entropies() -> None:
    assert float(entropy(torch.tensor([0.5, 0.5]))) == pytest.approx(0.693147, abs=1e-6)
    assert float(entropy(torch.tensor([0.9, 0.1]))) == pytest.approx(0.325083, abs=1e-6)


def test_the_global_entropy_is_that_of_the_predicted_labels() -> None:
    said = torch.tensor([[0.9, 0.1]] * 9 + [[0.1, 0.9]]).log()
    assert global_entropy(said) == pytest.approx(0.325083, abs=1e-4)
    assert global_entropy(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()) == pytest.approx(math.log(2), abs=1e-6)
    one = global_entropy(torch.tensor([[0.6, 0.4]] * 5).log())
    assert 0 < one < 1e-3  # smoothed, not nothing


def test_the_local_entropy_is_the_mean_over_probes() -> None:
    said = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    assert local_entropy(said) == pytest.approx((0.693147 + 0.325083) / 2, abs=1e-6)


def test_all_orders_of_few_and_different_ones_of_many() -> None:
    rng = np.random.default_rng(0)
    assert len(some_permutations(4, 24, rng)) == 24 and len(set(some_permutations(3, 24, rng))) == 6
    many = some_permutations(8, 24, rng)
    assert len(set(many)) == 24 and all(sorted(order) == list(range(8)) for order in many)
    assert some_permutations(8, 24, np.random.default_rng(1)) == some_permutations(8, 24, np.random.default_rng(1))
    assert some_permutations(1, 24, rng) == [(0,)]
    assert [orders_of(count, 24) for count in (0, 1, 3, 4, 5, 1000)] == [1, 1, 6, 24, 24, 24]


def test_probes_are_what_the_model_wrote_in_the_form_of_the_template() -> None:
    pattern = Pattern.of(FORMATS["sst2"].template)
    written = [
        "Review: a film that is rather good\nSentiment: Positive\n\nReview: and more",
        "Review: too short\nSentiment: Negative",
        "Review: a film that is rather good\nSentiment: Negative",
        "Something else altogether that is no review",
        "Review: one that ends where the model stopped",
    ]
    assert probes(written, pattern) == [("a film that is rather good",), ("one that ends where the model stopped",)]


def test_probes_of_pairs_have_both_texts() -> None:
    pattern = Pattern.of(FORMATS["plain_pair"].template)
    written = ["Sentence 1: one two three four five\nSentence 2: six seven\nLabel: x", "Sentence 1: one two three four five"]
    assert probes(written, pattern) == [("one two three four five", "six seven")]
