"""The max-margin regularizer against the checks of the specification."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch

from tempering.contracts import Kind, Slab
from tempering.errors import MemoryShort, RecipeError
from tempering.recipe import Recipe
from tempering.stabilizers.mmr import MMR
from tempering.stages.train import Train
from tempering.train.fit import supervised
from tempering.train.memory import refuse_back_off
from tempering.tunings.frozen import Frozen


def _of(features: torch.Tensor, targets: Any, kind: Kind = "classification", value: MMR | None = None) -> torch.Tensor:
    slab = Slab(torch.zeros(1, len(features), 2), torch.as_tensor(targets), None, features, kind)
    return (value or MMR())._of(slab)


def _rows(*values: float) -> torch.Tensor:
    return torch.tensor([[v, 1.0] for v in values], dtype=torch.float64)


def test_golden_values() -> None:
    """Class means 3 apart: 0.25; equal means: 1."""
    assert float(_of(_rows(0, 2, 3, 5), [0, 0, 1, 1])) == 0.25
    assert float(_of(_rows(1, 3, 0, 4), [0, 0, 1, 1])) == 1.0


def test_it_falls_as_one_class_moves_away() -> None:
    found = [float(_of(_rows(0, 2, shift, shift + 1), [0, 0, 1, 1])) for shift in (2.0, 2.5, 4.0, 9.0)]
    assert found == sorted(found, reverse=True) and len(set(found)) == 4


def test_more_classes_are_a_mean_over_pairs_of_those_present() -> None:
    torch.manual_seed(0)
    features, targets = torch.randn(9, 4, dtype=torch.float64), torch.tensor([0, 5, 2, 0, 2, 5, 5, 0, 2])
    means = [features[targets == c].mean(0) for c in (0, 2, 5)]
    expected = sum(1 / (1 + float((a - b).norm())) for a, b in combinations(means, 2)) / 3
    assert float(_of(features, targets)) == pytest.approx(expected)


def test_a_batch_of_one_class_adds_zero() -> None:
    features = torch.randn(3, 2, requires_grad=True)
    assert float(_of(features, [1, 1, 1])) == 0.0
    assert float(_of(features, torch.ones(3, 2), "multilabel")) == 0.0
    assert float(_of(features, [2.0, 2.0, 2.0], "regression")) == 0.0


def test_the_gradient_is_finite_where_means_coincide_and_parts_them_elsewhere() -> None:
    features = _rows(1, 1, 1, 1).requires_grad_()
    (grad,) = torch.autograd.grad(_of(features, [0, 0, 1, 1]), features)
    assert bool(grad.isfinite().all())
    features = _rows(0, 0, 1, 1).requires_grad_()
    (grad,) = torch.autograd.grad(_of(features, [0, 0, 1, 1]), features)
    assert bool((grad[:2, 0] > 0).all()) and bool((grad[2:, 0] < 0).all())  # down its gradient they move apart


def test_normalized_it_does_not_depend_on_scale() -> None:
    torch.manual_seed(1)
    features, targets = torch.randn(6, 4), [0, 1, 0, 1, 1, 0]
    plain, scaled = (_of(f, targets, value=MMR(normalize=True)) for f in (features, 50 * features))
    torch.testing.assert_close(plain, scaled)
    assert float(_of(50 * features, targets)) < float(_of(features, targets))


def test_each_label_of_several_is_a_pair() -> None:
    torch.manual_seed(2)
    features, on = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1]])
    pairs = [(features[on[:, c] == 1].mean(0), features[on[:, c] == 0].mean(0)) for c in (0, 2)]  # label 1 is in no row
    expected = sum(1 / (1 + float((a - b).norm())) for a, b in pairs) / 2
    assert float(_of(features, on, "multilabel")) == pytest.approx(expected)


def test_values_are_split_at_the_median() -> None:
    features = torch.randn(4, 3)
    assert torch.equal(_of(features, [0.1, 7.0, 0.3, 0.9], "regression"), _of(features, [0, 1, 0, 1]))


def test_the_loss_adds_alpha_times_it(step: Callable[..., Any]) -> None:
    one = step([MMR(3.0)])
    passes = one.passes()
    loss = one.folded.loss(passes, supervised)
    slab = passes.student().only
    means = [slab.features[slab.targets == c].mean(0) for c in (0, 1)]
    torch.testing.assert_close(loss, supervised(passes) + 3.0 / (1 + (means[0] - means[1]).norm()))
    assert passes.made == 1
    one.hooks.term(passes).backward()
    assert any("layer.0" in n and w.grad is not None and bool(w.grad.any()) for n, w in one.trained.items())


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_kinds_train(kind: str, step: Callable[..., Any]) -> None:
    one = step([MMR()], kind=kind)
    assert 0 < float(one.hooks.term(one.passes()).detach()) < 1


def test_refusals() -> None:
    with pytest.raises(RecipeError, match="mmr moves what the model makes of texts.*tuning frozen trains none of those"):
        Recipe("r", (Train(tuning=Frozen(), stabilizers=(MMR(),)),)).check()
    feed: Any = type("F", (), {"settings": Train()})
    with pytest.raises(MemoryShort, match="mmr couples the rows"):
        refuse_back_off([("mmr", MMR())], feed, 1)
    with pytest.raises(RecipeError, match="mmr compares what the last linear map reads"):
        MMR()._of(Slab(torch.zeros(1, 2, 2), torch.tensor([0, 1]), None, None, "classification"))
