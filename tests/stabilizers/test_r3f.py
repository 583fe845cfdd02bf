"""R3F and R4F: agreement under noise, and a head of spectral norm one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tempering.contracts import Slab
from tempering.errors import RecipeError
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stabilizers.divergence import both_ways
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.r3f import R3F
from tempering.stabilizers.r4f import R4F, normalized
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.self_distillation import SelfDistillation
from tempering.stages.train import Train
from tests.laws.bench import run, stage_of


def _log(*p: float) -> Slab:
    return Slab(torch.tensor(p, dtype=torch.float64).log().view(1, 1, -1), None, None, None, "classification")


def test_the_golden_value_of_the_specification() -> None:
    """p = (.5, .5), q = (.9, .1): the sum of both divergences is 0.878890."""
    assert float(both_ways(_log(0.5, 0.5), _log(0.9, 0.1))) == pytest.approx(0.878890, abs=5e-7)


def _noisy(one: Any, passes: Any, i: int) -> torch.Tensor:
    """The pass with R3F's own noise, made by hand."""
    rng = one.passes().stream("r3f")

    def change(x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * (2 * torch.from_numpy(rng.random(tuple(x.shape), "float32")) - 1)

    return passes.perturbed(change, i=i).only.logits[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("shared", "i"), [(True, 0), (False, 1)])
def test_the_loss_is_that_of_the_paper(shared: bool, i: int, step: Callable[..., Any]) -> None:
    """CE + weight (KL(p || q) + KL(q || p)), batch-averaged, with the dropout of the clean pass or masks of its own."""
    one = step([R3F(0.7, eps=0.2, shared_dropout=shared)])
    passes = one.passes()
    loss = one.folded.loss(passes, lambda found: found.supervised())
    a, b = passes.student().only.logits[0], _noisy(one, passes, i)
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    divergences = F.kl_div(p, q, reduction="batchmean", log_target=True) + F.kl_div(q, p, reduction="batchmean", log_target=True)
    torch.testing.assert_close(loss, F.cross_entropy(a, one.batch.targets) + 0.7 * divergences)
    assert float(divergences.detach()) > 1e-4


def test_normal_noise_is_another_one(step: Callable[..., Any]) -> None:
    terms = [step([R3F(eps=0.1, noise=kind, shared_dropout=True)]) for kind in ("uniform", "normal")]
    values = [float(one.hooks.term(one.passes()).detach()) for one in terms]
    assert values[0] != values[1] and all(v > 0 for v in values)


def test_noised_embeddings_are_cut_from_the_table(step: Callable[..., Any]) -> None:
    one = step([R3F(eps=0.2)])
    passes = one.passes()
    table = one.trained["backbone.model.embeddings.word_embeddings.weight"]
    fixed = passes.student()
    noisy = passes.perturbed(lambda x: x.detach())
    (grad,) = torch.autograd.grad(noisy.only.logits.sum(), table, allow_unused=True)
    assert grad is None
    (grad,) = torch.autograd.grad(fixed.only.logits.sum(), table, allow_unused=True)
    assert grad is not None and bool(grad.any())


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_kinds_of_task(kind: str, step: Callable[..., Any]) -> None:
    one = step([R3F(eps=0.2, shared_dropout=True)], kind=kind)
    passes = one.passes()
    term = one.hooks.term(passes)
    a, b = passes.student(0).only.logits[0], _noisy(one, passes, 0)
    expected = (a - b).square().mean() if kind == "regression" else ((a.sigmoid() - b.sigmoid()) * (a - b)).sum(-1).mean()
    torch.testing.assert_close(term, expected)


def test_without_noise_it_is_off() -> None:
    assert R3F(eps=0.0).neutral and R3F(0.0).neutral and not R3F().neutral
    assert Train(stabilizers=(R3F(eps=0.0),)).passes_per_step == 1


@pytest.mark.parametrize("heads", [1, 3])
def test_every_head_has_spectral_norm_one(heads: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(heads * 4, 7, requires_grad=True)
    found = normalized(weight, heads)
    for before, after in zip(weight.view(heads, 4, 7), found.view(heads, 4, 7), strict=True):
        assert float(torch.linalg.svdvals(after.detach())[0]) == pytest.approx(1.0, abs=1e-6)
        torch.testing.assert_close(after * torch.linalg.svdvals(before)[0], before)
    (grad,) = torch.autograd.grad(found.sum(), weight)
    assert bool(grad.isfinite().all())
    torch.testing.assert_close((grad * weight).sum(), torch.zeros(()), atol=1e-4, rtol=0)  # the scale of W does not matter


def test_r4f_trains_evaluates_and_saves_the_normalized_head(step: Callable[..., Any]) -> None:
    one = step([R4F(eps=0.1)])
    head = one.trained["framing.final.weight"]
    slab = one.passes().student().only
    torch.testing.assert_close(slab.logits[0], F.linear(slab.features, normalized(head), one.trained["framing.final.bias"]))
    torch.testing.assert_close(one.hooks.final()["framing.final.weight"], normalized(head))
    for best in (True, False):
        learner = run(stage_of(stabilizers=[R4F()], stage=Train(max_steps=2, load_best_model_at_end=best, learning_rate=1e-2)))
        assert float(torch.linalg.matrix_norm(learner.framing.final.weight.detach(), 2)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("stabilizers", "framing", "said"),
    [
        ((R4F(), Mixout()), None, "r4f and mixout each replaces the weights|mixout"),
        ((R4F(), SelfDistillation()), None, "r4f trains through other weights .* self_distillation .*keep one"),
        ((R4F(),), MaskedLM(), "r4f reads labels, and framing masked_lm has none; use framing head"),
    ],
)
def test_what_r4f_cannot_go_with(stabilizers: tuple[Any, ...], framing: Any, said: str) -> None:
    text = "unlabeled" if framing else "labeled"
    with pytest.raises(RecipeError, match=said):
        Recipe("r", (Train(stabilizers=stabilizers, text=text, **({"framing": framing} if framing else {})),)).check()


def test_beside_r_drop_both_read_the_same_first_pass(step: Callable[..., Any]) -> None:
    one = step([R3F(eps=0.1), RDrop()])
    passes = one.passes()
    one.folded.loss(passes, lambda found: found.supervised())
    assert passes.made == Train(stabilizers=(R3F(), RDrop())).passes_per_step == 3
