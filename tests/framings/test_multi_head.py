"""MHLoss, several heads on one feature, against the checks of the specification."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from tempering.contracts import Batch, Kind, Scores, Slab
from tempering.framings.head import Head, HeadModule
from tempering.framings.losses import supervised_loss
from tempering.recipe import Recipe
from tests.tiny import tiny_backbone, tiny_task


def _slab(logits: torch.Tensor, targets: torch.Tensor, kind: Kind = "classification") -> Slab:
    return Slab(logits, targets, None, None, kind)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_one_head_is_the_plain_loss_to_the_bit_in_value_and_gradient(kind: Kind) -> None:
    torch.manual_seed(0)
    classes = 1 if kind == "regression" else 3
    logits = torch.randn(1, 6, classes, requires_grad=True)
    targets = {
        "classification": torch.randint(0, 3, (6,)),
        "multilabel": torch.randint(0, 2, (6, 3)).float(),
        "regression": torch.randn(6),
    }[kind]
    plain = {
        "classification": lambda: F.cross_entropy(logits[0], targets),
        "multilabel": lambda: F.binary_cross_entropy_with_logits(logits[0], targets),
        "regression": lambda: F.mse_loss(logits[0, :, 0], targets),
    }[kind]()
    ours = supervised_loss(_slab(logits, targets, kind))
    assert torch.equal(ours, plain)
    assert torch.equal(torch.autograd.grad(ours, logits)[0], torch.autograd.grad(plain, logits)[0])


@pytest.mark.parametrize("heads", [2, 10])
def test_identical_heads_have_the_loss_of_one(heads: int) -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(1, 5, 4, dtype=torch.float64), torch.randint(0, 4, (5,))
    one = supervised_loss(_slab(logits, targets))
    torch.testing.assert_close(supervised_loss(_slab(logits.expand(heads, -1, -1), targets)), one)


def test_several_heads_are_the_mean_of_their_losses_and_fold_into_one_map() -> None:
    """L = 1/H sum_m 1/n sum_i l(W_m h_i + b_m, y_i); the mean of logits is the folded map's."""
    torch.manual_seed(2)
    module = Head(heads=5).build(tiny_task(8), tiny_backbone()).double().eval()
    features, targets = torch.randn(7, 32, dtype=torch.float64), torch.randint(0, 2, (7,))
    logits = module.final(features).view(7, 5, 2).transpose(0, 1)
    weights, biases = module.final.weight.view(5, 2, 32), module.final.bias.view(5, 2)
    each = [F.cross_entropy(features @ w.T + b, targets) for w, b in zip(weights, biases, strict=True)]
    torch.testing.assert_close(supervised_loss(_slab(logits, targets)), torch.stack(each).mean())
    weight, bias = module.fold()
    torch.testing.assert_close(F.linear(features, weight, bias), logits.mean(0), atol=1e-12, rtol=0)


def _spread(heads: int, seeds: int = 24, steps: int = 50, rows: int = 40) -> float:
    """Mean distance between the directions that the mean of ``heads`` heads takes from different starts, on separable features."""
    draw = torch.Generator().manual_seed(0)
    targets = torch.arange(rows) % 2
    features = torch.randn(rows, 16, generator=draw, dtype=torch.float64)
    features[:, 0] += 2.0 * targets - 1.0
    start = torch.randn(seeds * heads, 2, 16, generator=draw, dtype=torch.float64) / 2**0.5
    weights = start.requires_grad_()
    for _ in range(steps):
        loss = supervised_loss(_slab(torch.einsum("nd,hcd->hnc", features, weights), targets))
        (grad,) = torch.autograd.grad(loss, weights)
        weights = (weights - 0.25 * len(weights) * grad).detach().requires_grad_()  # the mean over heads divides each head's rate
    folded = weights.detach().view(seeds, heads, 2, 16).mean(1)
    directions = F.normalize(folded[:, 1] - folded[:, 0], dim=-1)
    return float(torch.stack([(a - b).norm() for a, b in combinations(directions, 2)]).mean())


def test_the_spread_over_seeds_falls_with_the_root_of_the_number_of_heads() -> None:
    """The specification measured .520, .262, .177, .077 for 1, 5, 10, 50 heads, and asks for a ratio of first to last in [4, 9]."""
    found = [_spread(heads) for heads in (1, 5, 10, 50)]
    assert found == sorted(found, reverse=True)
    assert 4 <= found[0] / found[-1] <= 9
    assert found[0] / found[1] == pytest.approx(5**0.5, rel=0.35)


def test_the_recipe_has_ten_heads() -> None:
    assert Recipe.load("multi-head").stages[0].framing == Head(heads=10)


def test_the_sum_over_heads_trains_each_as_one_and_hands_the_body_all_their_gradients() -> None:
    torch.manual_seed(3)
    summed, mean = (Head(heads=4, reduction=how).build(tiny_task(8), tiny_backbone()).double().train() for how in ("sum", "mean"))
    mean.load_state_dict(summed.state_dict())
    features, targets = torch.randn(7, 32, dtype=torch.float64, requires_grad=True), torch.randint(0, 2, (7,))

    def gradients(module: HeadModule) -> tuple[torch.Tensor, torch.Tensor]:
        logits = module.final(features).view(7, 4, 2).transpose(0, 1)
        loss = module.loss(Scores((_slab(logits, targets),)), Batch({"features": features}))
        weight, feature = torch.autograd.grad(loss, (module.final.weight, features))
        return weight.view(4, 2, 32), feature

    (of_sum, body_sum), (of_mean, body_mean) = gradients(summed), gradients(mean)
    for weight, bias, grad in zip(summed.final.weight.view(4, 2, 32), summed.final.bias.view(4, 2), of_sum, strict=True):
        alone = weight.detach().requires_grad_()
        (single,) = torch.autograd.grad(F.cross_entropy(features.detach() @ alone.T + bias.detach(), targets), alone)
        torch.testing.assert_close(grad, single)
    torch.testing.assert_close(of_sum, 4 * of_mean)
    torch.testing.assert_close(body_sum, 4 * body_mean)


def test_one_head_has_the_same_loss_to_the_bit_summed_or_averaged() -> None:
    torch.manual_seed(4)
    scores, batch = Scores((_slab(torch.randn(1, 6, 2), torch.randint(0, 2, (6,))),)), Batch({"features": torch.zeros(6, 32)})
    found = [Head(reduction=how).build(tiny_task(8), tiny_backbone()).loss(scores, batch) for how in ("sum", "mean")]
    assert torch.equal(*found)
    assert torch.equal(found[0], F.cross_entropy(scores.only.logits[0], scores.only.targets))
