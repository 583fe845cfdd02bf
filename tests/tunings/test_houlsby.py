"""Houlsby adapters: formula, start, and the place before the residual addition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tempering.errors import ModelError
from tempering.streams import torch_stream
from tempering.tunings.attach import norms
from tempering.tunings.bottleneck import ACTIVATIONS, Bottleneck
from tempering.tunings.houlsby import Houlsby
from tests.tiny import FAMILIES, tiny_backbone


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_formula(name: str) -> None:
    """h + U act(D h + b_D) + b_U."""
    with torch_stream(0):
        adapter, h = Bottleneck(6, 3, 0.5, name), torch.randn(2, 4, 6)
        nn.init.normal_(adapter.down.bias)
        nn.init.normal_(adapter.up.bias)
    inner = getattr(F, name)(torch.einsum("md,btd->btm", adapter.down.weight, h) + adapter.down.bias)
    torch.testing.assert_close(adapter(h), h + torch.einsum("dm,btm->btd", adapter.up.weight, inner) + adapter.up.bias)


def test_the_start_is_a_normal_cut_at_two_sigma_with_zero_biases() -> None:
    with torch_stream(0):
        adapter = Bottleneck(256, 64, 1e-2, "gelu")
    for layer in (adapter.down, adapter.up):
        weights = layer.weight.detach()
        assert float(weights.abs().max()) <= 2e-2
        assert float(weights.std()) == pytest.approx(0.8796e-2, rel=0.02)  # the spread of N(0, 1) cut at two sigma is 0.8796
        assert not layer.bias.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_it_fires_twice_a_block_on_the_sub_layers_result(family: str) -> None:
    """With U = 0 and a constant b_U the adapter adds that constant to each sub-layer's output: once a place and block, no more."""
    backbone = tiny_backbone(family).eval()
    Houlsby(m=4).attach(backbone)
    seen: list[tuple[int, ...]] = []
    adapters = [m for m in backbone.modules() if isinstance(m, Bottleneck)]
    for adapter in adapters:
        adapter.register_forward_hook(lambda _m, args, _out: seen.append(tuple(args[0].shape)))
    rows = backbone.tokenizer(["good film"], return_tensors="pt")
    length = rows["input_ids"].shape[1]
    backbone.encode(dict(rows))
    crossed = 2 if backbone.opened else 0  # one more in each of a decoder's blocks
    assert len(adapters) == 2 * len(backbone.blocks) + crossed
    assert seen == [(1, length, 32)] * (len(adapters) if not backbone.layout.shared_blocks else 2 * backbone.config.num_hidden_layers)


@pytest.mark.parametrize("m", [33, 640])
def test_a_bottleneck_wider_than_the_hidden_size_is_refused(m: int) -> None:
    for work in (Houlsby(m=m).attach, Houlsby(m=m).count):
        with pytest.raises(ModelError, match=f"houlsby: m = {m}, but a bottleneck in tiny-bert has 1 to 32 units .*give m of at most 32"):
            work(tiny_backbone())
    Houlsby(m=32).attach(tiny_backbone())


def test_it_acts_before_the_residual_addition_and_the_norm() -> None:
    backbone = tiny_backbone("bert").eval()
    Houlsby(m=4, init_std=1e-12).attach(backbone)
    output = backbone.model.encoder.layer[0].output
    shift = torch.linspace(-1, 1, 32)
    output.dropout.houlsby.up.bias.data.copy_(shift)
    hidden, residual = torch.randn(1, 3, 64), torch.randn(1, 3, 32)
    expected = output.LayerNorm(output.dense(hidden) + shift + residual)
    torch.testing.assert_close(output(hidden, residual), expected, rtol=1e-5, atol=1e-5)


NORMS = {"bert": 5, "distilbert": 5, "electra": 5, "albert": 3, "modernbert": 5, "deberta-v2": 6, "llama": 5, "t5": 5}


@pytest.mark.parametrize(("family", "count"), NORMS.items())
def test_all_norms_are_trained_and_nothing_else_that_was_pretrained(family: str, count: int) -> None:
    backbone = tiny_backbone(family)
    Houlsby(m=4).attach(backbone)
    found = norms(backbone)
    assert len(found) == count
    own = {f"model.{path}.{n}" for path, norm in found.items() for n, _ in norm.named_parameters()}
    trained = {n for n, w in backbone.named_parameters() if w.requires_grad}
    assert {n for n in trained if ".houlsby." not in n} == own
