"""Contextual calibration: the golden value, and what must hold whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.framings.asked.calibration import additive, content_free, diagonal, random_texts, remaining
from tempering.framings.asked.first_token import calibrated

P = torch.tensor([[0.6, 0.3, 0.1]]).log()
FREE = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.6, 0.25, 0.15]]).log()
rows = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3).map(lambda x: torch.tensor([x], dtype=torch.float64).log().log_softmax(-1))


def test_the_golden_value() -> None:
    prior = content_free(FREE)
    assert prior.exp().tolist() == pytest.approx([0.6, 0.25, 0.15])
    assert (P - prior).exp()[0].tolist() == pytest.approx([1.0, 1.2, 2 / 3], abs=1e-4)
    found = diagonal(P, prior)
    assert found.exp()[0].tolist() == pytest.approx([0.3488, 0.4186, 0.2326], abs=1e-4)
    assert int(P.argmax()) == 0 and int(found.argmax()) == 1
    shifted = additive(P, prior)
    assert shifted[0].tolist() == pytest.approx([0.0, 0.05, -0.05], abs=1e-6) and int(shifted.argmax()) == 1


def test_the_form_for_generation_takes_the_least() -> None:
    least = torch.tensor([0.5, 0.2, 0.1])
    assert content_free(FREE, "min").exp().tolist() == pytest.approx((least / least.sum()).tolist())


def test_of_what_is_written_the_first_token_alone_is_calibrated() -> None:
    pick = calibrated(lambda logp: logp.argmax(-1), content_free(FREE))
    assert [int(pick(P)) for _ in range(3)] == [1, 0, 0]
    left = remaining(P, content_free(FREE))
    assert left.exp()[0].tolist() == pytest.approx([0.0, 0.05, 0.0], abs=1e-6)
    assert torch.equal(remaining(P, P[0]), P)  # nowhere above: left as it is


def test_of_the_first_token_the_candidates_alone_are_weighed() -> None:
    """Zhao et al. 2021 for generation: p = (.5, .4) and p_cf = (.02, .005) are (.556, .444) and (.8, .2) over the two candidates."""
    p, least = (torch.tensor([[*head, *[rest / 20] * 20]]).log() for head, rest in (((0.5, 0.4), 0.1), ((0.02, 0.005), 0.975)))
    left = remaining(p, content_free(least), k=2)
    assert left.exp()[0, :2].tolist() == pytest.approx([0.0, 0.4 / 0.9 - 0.2]) and not left.exp()[0, 2:].any()
    assert int(p.argmax()) == int(additive(p, least).argmax()) == 0 and int(left.argmax()) == 1


@settings(deadline=None, max_examples=50)
@given(rows)
def test_one_input_without_content_becomes_exactly_uniform(p: torch.Tensor) -> None:
    assert diagonal(p, content_free(p)).exp()[0].tolist() == pytest.approx([1 / 3] * 3)


@settings(deadline=None, max_examples=50)
@given(st.lists(rows, min_size=2, max_size=4))
def test_of_several_the_mean_becomes_uniform(several: list[torch.Tensor]) -> None:
    given_ = torch.cat(several)
    mean = given_.exp().mean(0, keepdim=True).log()
    assert diagonal(mean, content_free(given_)).exp()[0].tolist() == pytest.approx([1 / 3] * 3)


@settings(deadline=None, max_examples=50)
@given(rows, rows)
def test_a_uniform_prior_changes_nothing_and_a_second_calibration_neither(p: torch.Tensor, free: torch.Tensor) -> None:
    uniform = torch.zeros(3, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(diagonal(p, uniform), p)
    once = diagonal(p, content_free(free))
    again = diagonal(once, content_free(diagonal(free, content_free(free))))
    torch.testing.assert_close(again, once)


@settings(deadline=None, max_examples=50)
@given(rows, rows, st.permutations([0, 1, 2]))
def test_the_order_of_labels_does_not_matter(p: torch.Tensor, free: torch.Tensor, order: list[int]) -> None:
    for change in (diagonal, additive):
        torch.testing.assert_close(change(p[:, order], content_free(free[:, order])), change(p, content_free(free))[:, order])


def test_a_prior_of_nearly_nothing_stays_a_number() -> None:
    p, free = torch.tensor([[1e-30, 1.0]]).log(), torch.tensor([[1e-30, 1.0]]).log()
    assert diagonal(p, content_free(free)).exp()[0].tolist() == pytest.approx([0.5, 0.5])
    never = torch.tensor([[-torch.inf, 0.0]])
    assert bool(content_free(never).isfinite().all())


def test_random_texts_are_made_of_the_words_there_are_and_as_long() -> None:
    texts = ["one two three", "four"]
    found = random_texts(texts, np.random.default_rng(0), count=50)
    assert {len(text.split()) for text in found} == {2}
    assert {word for text in found for word in text.split()} == {"one", "two", "three", "four"}
    assert random_texts(texts, np.random.default_rng(0), count=50) == found
    assert random_texts([""], np.random.default_rng(0), count=2) == ["", ""]
