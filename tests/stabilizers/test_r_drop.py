"""R-Drop: two dropout passes, averaged cross-entropies, half the sum of both divergences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tempering.stabilizers.r_drop import RDrop
from tempering.stages.train import Train
from tempering.train.fit import supervised


def test_the_loss_is_that_of_the_paper(step: Callable[..., Any]) -> None:
    """(CE1 + CE2) / 2 + alpha (KL(p1 || p2) + KL(p2 || p1)) / 2, mean over rows, written out from the two passes' logits."""
    one = step([RDrop(0.7)])
    passes = one.passes()
    loss = one.folded.loss(passes, supervised)
    a, b = (passes.student(i).only.logits[0] for i in (0, 1))
    assert not torch.equal(a, b)
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    entropies = 0.5 * (F.cross_entropy(a, one.batch.targets) + F.cross_entropy(b, one.batch.targets))
    divergences = F.kl_div(p, q, reduction="batchmean", log_target=True) + F.kl_div(q, p, reduction="batchmean", log_target=True)
    torch.testing.assert_close(loss, entropies + 0.7 * 0.5 * divergences)


def test_it_makes_two_passes_and_says_so(step: Callable[..., Any]) -> None:
    one = step([RDrop()])
    passes = one.passes()
    one.folded.loss(passes, supervised)
    assert passes.made == Train(stabilizers=(RDrop(),)).passes_per_step == 2


def test_without_dropout_the_term_is_zero_and_the_loss_is_cross_entropy(step: Callable[..., Any]) -> None:
    one = step([RDrop(5.0)])
    one.learner.eval()
    passes = one.passes()
    torch.testing.assert_close(one.folded.loss(passes, supervised), F.cross_entropy(passes.student().only.logits[0], one.batch.targets))


def test_both_passes_receive_gradient(step: Callable[..., Any]) -> None:
    one = step([RDrop()])
    passes = one.passes()
    logits = [passes.student(i).only.logits for i in (0, 1)]
    for grad in torch.autograd.grad(one.hooks.term(passes), logits):
        assert grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_kinds_of_task_have_their_own_distance(kind: str, step: Callable[..., Any]) -> None:
    one = step([RDrop()], kind=kind)
    passes = one.passes()
    term = one.hooks.term(passes)
    a, b = (passes.student(i).only.logits for i in (0, 1))
    expected = (a - b).square().mean() if kind == "regression" else 0.5 * ((a.sigmoid() - b.sigmoid()) * (a - b)).sum(-1).mean()
    torch.testing.assert_close(term, expected)


def test_a_negative_alpha_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        RDrop(-1.0)
