"""Pfeiffer adapters: counts, the two wirings, what stays frozen, and whose company they keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tempering.errors import ModelError
from tempering.layouts import LAYOUTS
from tempering.tunings.attach import attach_all
from tempering.tunings.bottleneck import Narrow
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.pfeiffer import Pfeiffer
from tests.tiny import FAMILIES, tiny_backbone, tiny_model
from tests.tunings.adapters import counted
from tests.tunings.shared import attached, disturb, inputs, states
from tests.tunings.shared import trained as weights

POST = ("bert", "roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2", "bart")


@pytest.mark.parametrize(
    ("tuning", "large", "published"),
    [
        (Pfeiffer(), False, 894_528),
        (Pfeiffer(m=16), False, 304_320),
        (Pfeiffer(m=64), False, 1_189_632),
        (Pfeiffer(m=16), True, 811_392),
        (Pfeiffer(), True, 3_171_840),
        (Pfeiffer(reduction=2, invertible=True), False, 12 * (2 * 384 * 768 + 384 + 768) + 296_064),
    ],
)
def test_counts_are_the_published_ones(tuning: Pfeiffer, large: bool, published: int) -> None:
    assert counted(tuning, large) == published


def _change(adapter: Any, h: torch.Tensor) -> torch.Tensor:
    """U relu(D h + b_D) + b_U."""
    return F.relu(h @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias


def test_norms_after_the_addition_run_twice() -> None:
    """LN(x + h + U relu(D LN(x + h)))."""
    backbone = attached(Pfeiffer(m=4))
    disturb(backbone)
    output = backbone.model.encoder.layer[1].output.eval()
    inner, x = torch.randn(2, 3, 64), torch.randn(2, 3, 32)
    h, norm = output.dense(inner), output.LayerNorm
    expected = norm.forward(x + h + _change(norm.pfeiffer, norm.forward(x + h)))
    torch.testing.assert_close(output(inner, x), expected)
    assert float((expected - norm.forward(x + h)).detach().abs().max()) > 0.01


def test_norms_before_the_sub_layer_leave_its_result_to_the_adapter() -> None:
    """h + U relu(D h), before the residual addition."""
    backbone = attached(Pfeiffer(m=4), "gpt2")
    mlp, x = backbone.model.h[0].mlp.eval(), torch.randn(2, 3, 32)
    plain = tiny_backbone("gpt2").model.h[0].mlp.eval()(x)
    disturb(backbone)
    torch.testing.assert_close(mlp(x), plain + _change(mlp.dropout.pfeiffer, plain))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_says_which_norms_follow_the_addition(family: str) -> None:
    """Where a family has such a norm, a block's output is that norm's output."""
    layout, model = LAYOUTS[family], tiny_model(family)
    assert bool(layout.ffn_norm) == (family in POST)
    if not layout.ffn_norm:
        return
    said: dict[str, torch.Tensor] = {}
    block = model.get_submodule(layout.blocks)[-1]
    block.get_submodule(layout.ffn_norm).register_forward_hook(lambda _m, _a, out: said.update(norm=out))
    block.register_forward_hook(lambda _m, _a, out: said.update(block=out[0] if isinstance(out, tuple) else out))
    model(**inputs(tiny_backbone(family)))
    assert torch.equal(said["norm"], said["block"])


@pytest.mark.parametrize("family", FAMILIES)
def test_one_adapter_a_block_starts_near_and_only_adapters_are_trained(family: str) -> None:
    before, backbone = states(tiny_backbone(family)), attached(Pfeiffer(), family)
    assert 0 < float((states(backbone) - before).abs().max()) < 1e-4
    assert len([m for m in backbone.modules() if isinstance(m, Narrow)]) == len(backbone.blocks)
    assert all(".pfeiffer." in name for name in weights(backbone))
    disturb(backbone)
    assert float((states(backbone) - before).abs().max()) > 0.05


@pytest.mark.parametrize(("tuning", "said"), [(Pfeiffer(m=33), "m = 33"), (Pfeiffer(reduction=64), "reduction = 64 makes it 0")])
def test_a_width_without_sense_is_refused_before_anything_is_frozen(tuning: Pfeiffer, said: str) -> None:
    backbone = tiny_backbone()
    with pytest.raises(ModelError, match=rf"pfeiffer: {said}.*1 to 32 units.*give m of at most 32"):
        tuning.attach(backbone)
    assert all(w.requires_grad for w in backbone.parameters())


@pytest.mark.parametrize("order", [1, -1])
def test_beside_houlsby_it_is_welcome_after_a_norm_and_refused_at_the_same_place(order: int) -> None:
    pair: list[Any] = [Houlsby(m=4, layer_norm=False), Pfeiffer(m=4)][::order]
    one, other = tiny_backbone(), tiny_backbone()
    attach_all(pair, one)
    attach_all(pair[::-1], other)
    disturb(one)
    other.load_state_dict(one.state_dict())
    assert torch.equal(states(one), states(other))
    with pytest.raises(ModelError, match="both put an adapter at h.0.mlp.dropout"):
        attach_all(pair, tiny_backbone("gpt2"))


def test_a_later_stage_trains_on_and_refuses_another_width() -> None:
    backbone = attached(Pfeiffer(m=4))
    disturb(backbone)
    before = states(backbone)
    Pfeiffer(reduction=8).attach(backbone)
    assert torch.equal(states(backbone), before)
    with pytest.raises(ModelError, match="earlier stage"):
        Pfeiffer(m=5).attach(backbone)
