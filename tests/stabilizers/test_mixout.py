"""Mixout: whole input columns take their start values, and the mean over masks is the weight itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tempering.errors import RecipeError
from tempering.stabilizers.mixout import Mixout, mix
from tempering.tunings.bitfit import BitFit


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def test_golden_values() -> None:
    """p = .5, W = 3, W0 = 1: values {5, 1}, mean 3."""
    mixed = mix(torch.full((1, 40_000), 3.0), torch.ones(1, 40_000), 0.5, _rng())
    assert set(mixed.unique().tolist()) == {1.0, 5.0}
    assert float(mixed.mean()) == pytest.approx(3.0, abs=0.05)


def test_the_formula_of_the_paper() -> None:
    """(M w + (1 - M) u - p u) / (1 - p) with the mask read back from the result."""
    torch.manual_seed(0)
    w, u, p = torch.randn(3, 50), torch.randn(3, 50), 0.25
    mixed = mix(w, u, p, _rng())
    kept = ((mixed - u).abs().sum(0) > 1e-6).float()
    torch.testing.assert_close(mixed, (kept * w + (1 - kept) * u - p * u) / (1 - p))
    assert 0 < float(kept.mean()) < 1


def test_one_draw_an_input_column_whichever_way_the_weight_lies() -> None:
    w, u = torch.full((6, 40), 3.0), torch.ones(6, 40)
    linear, conv = mix(w, u, 0.5, _rng(), axis=1), mix(w.T, u.T, 0.5, _rng(), axis=0)
    assert bool((linear == linear[:1]).all()) and len(linear[0].unique()) == 2
    assert torch.equal(conv.T, linear)


def test_the_gradient_is_that_of_the_formula() -> None:
    w = torch.full((1, 8), 3.0, requires_grad=True)
    mixed = mix(w, torch.ones(1, 8), 0.5, _rng())
    mixed.sum().backward()
    assert w.grad is not None
    assert torch.equal(w.grad, (mixed.detach() == 5.0) * 2.0)


def test_the_released_code_s_gradient_lacks_the_factor_and_its_values_do_not_differ() -> None:
    w = torch.full((2, 8), 3.0, requires_grad=True)
    plain, official = (mix(w, torch.ones(2, 8), 0.25, _rng(), official_grad=how) for how in (False, True))
    assert torch.equal(plain, official)
    (theirs,) = torch.autograd.grad(official.sum(), w)
    (ours,) = torch.autograd.grad(plain.sum(), w)
    assert set(theirs.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(ours, theirs / 0.75)


def test_p_0_is_the_weight_itself_and_p_1_is_refused() -> None:
    w, u = torch.randn(3, 5), torch.randn(3, 5)
    torch.testing.assert_close(mix(w, u, 0.0, _rng()), w)
    assert torch.equal(mix(w, u, 1.0, _rng()), u)
    with pytest.raises(ValueError, match="less than 1"):
        Mixout(1.0)


def test_at_the_start_it_changes_nothing(step: Callable[..., Any]) -> None:
    one = step([Mixout(0.5)])
    mixed = one.hooks.weights(one.trained, _rng())
    for name, weight in one.trained.items():
        torch.testing.assert_close(mixed[name], weight)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_which_weights_are_mixed(family: str, step: Callable[..., Any]) -> None:
    """Pretrained linear maps; not biases, norms, embeddings or the new head."""
    one = step([Mixout(0.5)], family=family)
    moved = {n: w + 1.0 for n, w in one.trained.items()}
    mixed = one.hooks.weights(moved, _rng())
    changed = {n for n in moved if not torch.equal(mixed[n], moved[n])}
    assert changed
    assert all(n.endswith(".weight") and n.startswith("backbone.model.") for n in changed)
    assert not [n for n in changed if "embeddings" in n or "wte" in n or "wpe" in n or "Norm" in n or "ln_" in n]
    assert {n for n in one.trained if "intermediate.dense.weight" in n or "c_fc.weight" in n} <= changed


def test_each_pass_draws_anew_and_evaluation_sees_the_weights_themselves(step: Callable[..., Any]) -> None:
    one = step([Mixout(0.5)])
    with torch.no_grad():
        for weight in one.trained.values():
            weight.add_(0.1)
    one.learner.eval()  # no dropout: what differs is mixout
    passes = one.passes()
    plain = one.learner(one.batch).only.logits
    first, second = (passes.student(i).only.logits for i in (0, 1))
    assert not torch.equal(first, second) and not torch.equal(first, plain)
    assert torch.equal(passes.student(0).only.logits, first) and torch.equal(one.passes().student(0).only.logits, first)
    assert torch.equal(passes.under({}).only.logits, plain)
    assert passes.made == 3


def test_start_values_travel_with_a_checkpoint(step: Callable[..., Any]) -> None:
    one, other = step([Mixout(0.5)]), step([Mixout(0.5)])
    state = {n: t + 1.0 for n, t in one.hooks.save().items()}
    other.hooks.restore(state)
    assert {n: t.tolist() for n, t in other.hooks.save().items()} == {n: t.tolist() for n, t in state.items()}
    mixed = other.hooks.weights(other.trained, _rng())
    assert not torch.equal(mixed[next(iter(state))], other.trained[next(iter(state))])


def test_where_no_linear_map_is_trained_it_is_refused(step: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="mixout mixes the weights of linear maps"):
        step([Mixout(0.5)], tuning=BitFit())
