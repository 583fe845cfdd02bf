"""What all tunings share: composition, swapped weights, copies, random streams, and later stages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tempering.errors import ModelError
from tempering.streams import torch_stream
from tempering.tunings.attach import attach_all
from tempering.tunings.frozen import Frozen
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tests.tiny import tiny_backbone
from tests.tunings.shared import ALL, attached, disturb, inputs, one_step, states, trained


@pytest.mark.parametrize("target", [("query",), ("attention_out", "ffn_out")])
@pytest.mark.parametrize("family", ["bert", "llama", "distilbert"])
def test_lora_and_houlsby_on_one_body_in_either_order(family: str, target: tuple[str, ...]) -> None:
    """Llama's adapters hang under the very maps that LoRA changes: LoRA must act first, whichever came first."""
    pair = (LoRA(r=4, target_modules=target), Houlsby(m=8, layer_norm=False))
    first, second = tiny_backbone(family), tiny_backbone(family)
    attach_all(pair, first)
    attach_all(pair[::-1], second)
    assert set(trained(first)) == set(trained(second))
    assert sum(w.numel() for w in trained(first).values()) == sum(t.count(tiny_backbone(family)) for t in pair)
    disturb(first)
    second.load_state_dict(first.state_dict())
    assert torch.equal(states(first), states(second))
    before = states(first)
    pair[0].merge(first)
    torch.testing.assert_close(states(first), before, rtol=1e-5, atol=1e-5)
    one_step(second)
    assert all(w.grad is not None for w in trained(second).values())


@pytest.mark.parametrize("name", ["lora", "houlsby", "bitfit"])
def test_functional_call_and_copies_reach_the_added_weights(name: str) -> None:
    backbone = attached(ALL[name])
    other = copy.deepcopy(backbone)
    with torch_stream("other"):
        swapped = {n: w.detach() + 0.3 * torch.randn_like(w) for n, w in trained(backbone).items()}
    other.load_state_dict(backbone.state_dict() | swapped)
    before, expected = states(backbone), states(other)
    assert float((before - expected).abs().max()) > 0.01  # the copy's weights are its own
    with torch.no_grad():
        body = {n.removeprefix("model."): w for n, w in swapped.items()}
        called = torch.func.functional_call(backbone.model, body, kwargs=inputs(backbone)).last_hidden_state
    assert torch.equal(called, expected) and torch.equal(states(backbone), before)
    if name == "lora":
        ALL[name].merge(other)
        torch.testing.assert_close(states(other), expected, rtol=1e-5, atol=1e-5)
        assert not torch.equal(states(other), states(backbone))


@pytest.mark.parametrize("name", ["lora", "houlsby"])
def test_new_weights_come_from_the_stream_around_attach(name: str) -> None:
    one, same, other = (attached(ALL[name], seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)
    torch.manual_seed(5)
    ALL[name].attach(tiny_backbone())
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert not torch.equal(torch.rand(1), drawn)  # it reads the global generator, and does not seed it


@pytest.mark.parametrize(("first", "other"), [(LoRA(r=4), LoRA(r=2)), (LoRA(r=4), LoRA(r=4, lora_alpha=8)), (Houlsby(m=8), Houlsby(m=4))])
def test_a_later_stage_trains_the_same_module_on_and_refuses_another_setting(first: Any, other: Any) -> None:
    backbone = attached(first)
    disturb(backbone)
    before = states(backbone)
    Frozen().attach(backbone)
    assert trained(backbone) == {}
    first.attach(backbone)
    assert torch.equal(states(backbone), before)
    assert sum(w.numel() for w in trained(backbone).values()) == first.count(backbone)
    with pytest.raises(ModelError, match="earlier stage"):
        other.attach(backbone)


def test_a_language_model_head_of_an_earlier_stage_is_frozen_too() -> None:
    backbone = tiny_backbone()
    backbone.lm_head = nn.Linear(32, 8)
    LoRA().attach(backbone)
    assert not any(n.startswith("lm_head") for n in trained(backbone))
