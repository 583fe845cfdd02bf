"""Parallel adapters: counts, the formula, the exact start, and their company."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tempering.errors import ModelError
from tempering.tunings.attach import attach_all
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.parallel import Parallel
from tests.tiny import FAMILIES, GATED, tiny_backbone
from tests.tunings.adapters import adapted, counted
from tests.tunings.shared import attached, disturb, one_step, states


@pytest.mark.parametrize(
    ("tuning", "large", "published"),
    [
        (Parallel(m=384), False, 7_091_712),
        (Parallel(), False, 304_320),
        (Parallel(m=48), False, 894_528),
        (Parallel(s="learned"), False, 304_320 + 12),
        (Parallel(), True, 811_392),
    ],
)
def test_counts_are_the_published_ones(tuning: Parallel, large: bool, published: int) -> None:
    assert counted(tuning, large) == published


@pytest.mark.parametrize("s", [2.0, 4.0, "learned"])
def test_the_formula(s: Any) -> None:
    """LN(x + FFN(x) + s (U relu(D x + b_D) + b_U))."""
    backbone = attached(Parallel(m=4, s=s))
    disturb(backbone)
    block, x = backbone.model.encoder.layer[0].eval(), torch.randn(2, 3, 32)
    output, adapter = block.output, block.output.dropout.parallel
    change = F.relu(x @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
    scale = adapter.s if s == "learned" else s
    ffn = output.dense(F.gelu(block.intermediate.dense(x)))
    torch.testing.assert_close(block.feed_forward_chunk(x), output.LayerNorm(x + ffn + scale * change), rtol=1e-5, atol=1e-5)
    assert adapter.source[0].held is None  # nothing outlives the pass


@pytest.mark.parametrize("family", [*FAMILIES, *GATED])
def test_the_start_is_the_backbone_to_the_bit_and_what_is_read_is_the_sub_layers_input(family: str) -> None:
    backbone = tiny_backbone(family)
    layout = backbone.layout
    before = states(backbone)
    with torch.random.fork_rng():
        Parallel(m=4).attach(backbone)
    assert torch.equal(states(backbone), before)
    read: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    first = backbone.blocks[0]
    first.get_submodule(layout.ffn_in).register_forward_hook(lambda _m, args, _o: read.append(args[0]))
    (adapter, *_) = adapted(backbone, "parallel")
    adapter.down.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    states(backbone)
    assert len(read) == len(seen) and all(a is b for a, b in zip(read, seen, strict=True))


def test_the_start_is_kaiming_uniform_with_zeros_behind() -> None:
    (adapter, *_) = adapted(attached(Parallel(m=8)), "parallel")
    down, up = adapter.down, adapter.up
    assert 0.9 / 32**0.5 < float(down.weight.detach().abs().max()) <= 1 / 32**0.5
    assert not any(bool(w.any()) for w in (down.bias, up.weight, up.bias))


@pytest.mark.parametrize("family", ["bert", "llama", "albert"])
def test_any_company_in_any_order(family: str) -> None:
    parts: list[Any] = [Houlsby(m=4, layer_norm=False), Parallel(m=4), LoRA(r=2, target_modules=("ffn_in", "ffn_out"))]
    one, other = tiny_backbone(family), tiny_backbone(family)
    attach_all(parts, one)
    attach_all(parts[::-1], other)
    disturb(one)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(states(one), states(other), rtol=1e-6, atol=2e-6)


def test_a_copy_reads_its_own_input() -> None:
    backbone = attached(Parallel(m=4))
    disturb(backbone)
    other = copy.deepcopy(backbone)
    for adapter in adapted(other, "parallel"):
        assert adapter.source[0] in set(other.modules()) and adapter.source[0] not in set(backbone.modules())
    backbone.model.encoder.layer[0].intermediate.dense(torch.ones(2, 32, requires_grad=True) * 2)  # half a pass: something is held
    copy.deepcopy(backbone)
    before = states(backbone)
    one_step(other)
    assert torch.equal(states(backbone), before) and not torch.equal(states(other), before)


def test_refusals() -> None:
    with pytest.raises(ModelError, match=r"parallel: m = 40.*1 to 32 units"):
        Parallel(m=40).attach(tiny_backbone())
    backbone = attached(Parallel(m=4))
    with pytest.raises(ModelError, match="earlier stage"):
        Parallel(m=4, s=4.0).attach(backbone)
