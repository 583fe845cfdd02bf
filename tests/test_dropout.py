"""Our dropout is dropout: its share, its mean, its attention path; and nothing outside the block sees it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from tempering.dropout import DropoutStream, WideAttention, dropout_stream, keep_mask
from tests.laws.bench import STAGE, run

CPU = torch.device("cpu")


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_share_and_mean_of_a_mask(p: float) -> None:
    n = 200_000
    mask = keep_mask(torch.Size([n]), p, _rng())
    kept = int((mask > 0).sum())
    assert abs(kept - n * (1 - p)) < 5 * (n * p * (1 - p)) ** 0.5
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=1e-4)
    assert float(mask.mean()) == pytest.approx(1.0, abs=5 * (p / (1 - p) / n) ** 0.5)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5, 7), (0, 4)])
def test_masks_have_the_shape_that_is_asked_for(shape: tuple[int, ...]) -> None:
    assert keep_mask(torch.Size(shape), 0.5, _rng()).shape == shape


@pytest.mark.parametrize("p", [0.0, 1e-9])
def test_nothing_is_dropped_at_p_0(p: float) -> None:
    assert torch.equal(keep_mask(torch.Size([1000]), p, _rng()), torch.ones(1000))


def test_everything_is_dropped_at_p_1() -> None:
    assert not keep_mask(torch.Size([1000]), 1.0, _rng()).any()
    with DropoutStream(_rng()):
        assert not F.dropout(torch.ones(100), 1.0).any()


def test_counts_in_blocks_follow_the_binomial_as_torch_s_do() -> None:
    """Elements are independent: kept ones in blocks of 16 neighbours are binomial, for both generators."""
    torch.manual_seed(0)
    ours = keep_mask(torch.Size([20_000, 16]), 0.3, _rng())
    theirs = F.dropout(torch.ones(20_000, 16), 0.3)
    expected = stats.binom.pmf(np.arange(17), 16, 0.7) * 20_000
    pooled = expected > 20
    for mask in (ours, theirs):
        seen = np.bincount((mask > 0).sum(1).numpy(), minlength=17)
        observed = np.append(seen[pooled], seen[~pooled].sum())
        wanted = np.append(expected[pooled], expected[~pooled].sum())
        assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-4


def test_modules_draw_from_the_stream_in_training_only() -> None:
    layer, x = nn.Dropout(0.5), torch.ones(4, 6)
    with DropoutStream(_rng()):
        dropped = layer(x)
        assert layer.eval()(x) is x
    assert torch.equal(dropped, keep_mask(torch.Size([4, 6]), 0.5, _rng()))
    assert torch.equal(F.dropout(x, 0.5, training=False), x)


def test_precision_is_kept() -> None:
    with DropoutStream(_rng()):
        assert F.dropout(torch.ones(8, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16


def _qkv(heads: int = 2, kv_heads: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, heads, 5, 4), torch.randn(3, kv_heads, 5, 4), torch.randn(3, kv_heads, 5, 4)


BOOL = torch.ones(3, 1, 5, 5, dtype=torch.bool).tril()
FLOAT = torch.linspace(-3, 3, 75).view(3, 1, 5, 5)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": BOOL},
    "float": {"attn_mask": FLOAT},
    "scale": {"scale": 0.3},
}


@pytest.mark.parametrize("case", CASES)
def test_attention_with_next_to_no_dropout_is_torch_s(case: str) -> None:
    q, k, v = _qkv()
    with DropoutStream(_rng()):
        mine = F.scaled_dot_product_attention(q, k, v, dropout_p=1e-9, **CASES[case])
    torch.testing.assert_close(mine, F.scaled_dot_product_attention(q, k, v, **CASES[case]), rtol=1e-5, atol=1e-6)


BLIND = torch.ones(3, 1, 5, 5, dtype=torch.bool)
BLIND[0, 0, 1:3] = False


@pytest.mark.parametrize("mask", [BLIND, torch.zeros(3, 1, 5, 5).masked_fill(~BLIND, -torch.inf)], ids=["boolean", "float"])
def test_a_query_that_may_attend_to_nothing_gets_zeros_and_no_gradient(mask: torch.Tensor) -> None:
    q, k, v = (t.requires_grad_() for t in _qkv())
    with DropoutStream(_rng()):
        mine = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=1e-9)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert not mine[0, :, 1:3].any() and mine[0, :, 0].all()
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    (got, *others), (wanted, *theirs_too) = (torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (mine, theirs))
    assert not got[0, :, 1:3].any()
    torch.testing.assert_close([got, *others], [wanted, *theirs_too], rtol=1e-4, atol=1e-5)


def test_grouped_queries_share_keys_and_values() -> None:
    q, k, v = _qkv(4, 2)
    with DropoutStream(_rng()):
        mine = F.scaled_dot_product_attention(q, k, v, dropout_p=1e-9, enable_gqa=True)
    torch.testing.assert_close(mine, F.scaled_dot_product_attention(q, k, v, enable_gqa=True), rtol=1e-5, atol=1e-6)


def test_attention_drops_weights_after_the_softmax() -> None:
    """The same mask, applied by hand: softmax, mask, values; and the same gradients."""
    q, k, v = (t.requires_grad_() for t in _qkv())
    with DropoutStream(_rng()):
        mine = F.scaled_dot_product_attention(q, k, v, attn_mask=FLOAT, dropout_p=0.4)
    mask = keep_mask(torch.Size([3, 2, 5, 5]), 0.4, _rng())
    expected = ((q @ k.transpose(-2, -1) / 2.0 + FLOAT).softmax(-1) * mask) @ v
    torch.testing.assert_close(mine, expected)
    gradients = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (mine, expected)]
    torch.testing.assert_close(*gradients)


def test_the_mean_over_masks_is_attention_without_dropout() -> None:
    q, k, v = _qkv()
    wide = [t.repeat(3000, 1, 1, 1) for t in (q, k, v)]
    with DropoutStream(_rng()):
        mean = F.scaled_dot_product_attention(*wide, dropout_p=0.3).view(3000, 3, 2, 5, 4).mean(0)
    torch.testing.assert_close(mean, F.scaled_dot_product_attention(q, k, v), rtol=0.0, atol=0.12)


def _draws() -> tuple[torch.Tensor, ...]:
    return F.dropout(torch.ones(50), 0.5), torch.rand(3)


@pytest.mark.parametrize("native", [False, True])
def test_a_stream_is_keyed_and_leaves_torch_s_generator_as_it_was(native: bool) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()

    def under(*key: object) -> list[list[float]]:
        with dropout_stream(*key, device=CPU, native=native):
            return [t.tolist() for t in _draws()]

    assert under(0, 1) == under(0, 1) != under(0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_inside_leaves_it_too() -> None:
    before = torch.get_rng_state()

    def fail() -> None:
        with dropout_stream("x", device=CPU):
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(F.dropout(torch.ones(50)), keep_mask(torch.Size([50]), 0.5, _rng()))


def test_a_training_run_moves_no_global_generator() -> None:
    states: list[Callable[[], Any]] = [lambda: torch.get_rng_state().tolist(), lambda: np.random.get_state()[1].tolist(), random.getstate]
    before = [state() for state in states]
    run(STAGE)
    assert [state() for state in states] == before


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", [WideAttention, lambda: DropoutStream(_rng())], ids=["alone", "beside dropout"])
def test_attention_of_halves_without_dropout_has_the_gradient_of_whole_numbers(case: str, mode: Callable[[], Any]) -> None:
    halves = [t.bfloat16().requires_grad_() for t in _qkv()]
    whole = [t.detach().float().requires_grad_() for t in halves]
    given = {name: v.bfloat16() if case == "float" and isinstance(v, torch.Tensor) else v for name, v in CASES[case].items()}
    with mode(), torch.autocast("cpu", torch.bfloat16):
        mine = F.scaled_dot_product_attention(*halves, **given)
    as_floats = {name: v.float() if case == "float" and isinstance(v, torch.Tensor) else v for name, v in given.items()}
    theirs = F.scaled_dot_product_attention(*whole, **as_floats)
    assert mine.dtype == torch.bfloat16 and torch.equal(mine, theirs.bfloat16())
    got = torch.autograd.grad(mine.float().sum(), halves)
    wanted = torch.autograd.grad(theirs.sum(), whole)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g.float(), w, rtol=2**-7, atol=1e-3)


def test_attention_stays_as_it_is_where_no_gradient_is_asked_for() -> None:
    q, k, v = (t.bfloat16() for t in _qkv())
    with torch.no_grad(), WideAttention():
        assert torch.equal(F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q.clone(), k, v))
    with WideAttention():
        assert F.scaled_dot_product_attention(*_qkv()).dtype == torch.float32
