"""Supervised contrastive learning, written out row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tempering.errors import MemoryShort, RecipeError
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.supcon import SupCon, contrastive
from tempering.stages.train import Train
from tempering.train.fit import supervised
from tempering.train.memory import refuse_back_off


def _row_by_row(features: torch.Tensor, targets: list[int], temperature: float) -> float:
    z = [f / f.norm() for f in features]
    total = 0.0
    for i, mine in enumerate(targets):
        friends = [j for j, other in enumerate(targets) if other == mine and j != i]
        below = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in range(len(z)) if k != i)
        total += sum(-math.log(math.exp(float(z[i] @ z[j]) / temperature) / below) for j in friends) / max(1, len(friends))
    return total / len(z)


@pytest.mark.parametrize("targets", [[0, 1, 0, 1, 1], [0, 1, 2, 0, 3], [2, 2, 2, 2, 2]])
def test_the_formula_of_the_paper(targets: list[int]) -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 7, dtype=torch.float64)
    assert float(contrastive(features, torch.tensor(targets), 0.3)) == pytest.approx(_row_by_row(features, targets, 0.3))


def test_golden_values() -> None:
    """Two rows of a class: 0. Two classes, two rows each, at right angles: log(1 + 2 exp(-1 / temperature))."""
    assert float(contrastive(torch.randn(2, 3), torch.tensor([1, 1]), 0.3)) == pytest.approx(0.0, abs=1e-6)
    apart = torch.eye(2, dtype=torch.float64).repeat(2, 1)
    assert float(contrastive(apart, torch.tensor([0, 1, 0, 1]), 0.5)) == pytest.approx(math.log(1 + 2 * math.exp(-2)))


@pytest.mark.parametrize("targets", [[0], [0, 1, 2]])
def test_rows_alone_in_their_class_add_nothing_and_break_nothing(targets: list[int]) -> None:
    features = torch.randn(len(targets), 4, requires_grad=True)
    value = contrastive(features, torch.tensor(targets), 0.1)
    value.backward()
    assert float(value.detach()) == 0.0 and features.grad is not None and bool((features.grad == 0).all())


def test_the_loss_is_the_published_mixture(step: Callable[..., Any]) -> None:
    one = step([SupCon(0.9, temperature=0.3)])
    passes = one.passes()
    loss = one.folded.loss(passes, supervised)
    slab = passes.student().only
    entropy = F.cross_entropy(slab.logits[0], one.batch.targets)
    expected = 0.1 * float(entropy.detach()) + 0.9 * _row_by_row(slab.features.detach(), one.batch.targets.tolist(), 0.3)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert passes.made == Train(stabilizers=(SupCon(),)).passes_per_step == 1


def test_beside_r_drop_both_parts_are_means_over_its_passes(step: Callable[..., Any]) -> None:
    one = step([SupCon(0.4, temperature=0.3), RDrop()])
    passes = one.passes()
    loss = one.folded.loss(passes, supervised)
    slabs = [passes.student(i).only for i in (0, 1)]
    entropy = sum(F.cross_entropy(s.logits[0], one.batch.targets) for s in slabs) / 2
    pulled = sum(contrastive(s.features, one.batch.targets, 0.3) for s in slabs) / 2
    torch.testing.assert_close(loss, 0.6 * entropy + 0.4 * pulled + one.folded.hooks[1][1].term(passes))
    assert passes.made == 2


@pytest.mark.parametrize(("kind", "what"), [("regression", "has values"), ("multilabel", "has several labels a row")])
def test_other_kinds_of_task_are_refused_before_training(kind: str, what: str, step: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=f"supcon.*{what}; use mmr"):
        step([SupCon()], kind=kind)


def test_without_labels_it_is_refused_and_batches_are_not_cut() -> None:
    with pytest.raises(RecipeError, match="supcon reads labels"):
        Recipe("r", (Train(framing=MaskedLM(), text="unlabeled", stabilizers=(SupCon(),)),)).check()
    feed: Any = type("F", (), {"settings": Train()})
    with pytest.raises(MemoryShort, match="supcon couples the rows"):
        refuse_back_off([("supcon", SupCon())], feed, 1)
    with pytest.raises(ValueError, match="less than 1"):
        SupCon(1.0)
