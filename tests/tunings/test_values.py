"""What every tuning promises, on every family: run or refuse with a reason, count, identity, freezing, merging."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tempering.contracts import Tuning
from tempering.errors import ModelError
from tempering.layouts import LAYOUTS, Layout
from tempering.tunings.attach import body_weights
from tempering.tunings.bitfit import BitFit
from tempering.tunings.bottleneck import Bottleneck
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA, LowRank
from tempering.tunings.top_layers import TopLayers
from tests.tiny import tiny_backbone
from tests.tunings.shared import ALL, REFUSED, SERVED, attached, disturb, loss_of, one_step, states, trained


@pytest.mark.parametrize("tuning", ALL.values(), ids=ALL)
def test_every_value_satisfies_the_protocol_hashes_and_cannot_be_changed(tuning: Any) -> None:
    assert isinstance(tuning, Tuning)
    assert tuning.trains_backbone == (not isinstance(tuning, Frozen)) and tuning.trunk_eval == isinstance(tuning, Frozen)
    assert hash(tuning) == hash(copy.deepcopy(tuning)) and tuning == copy.deepcopy(tuning)
    with pytest.raises(AttributeError, match="cannot assign"):
        tuning.k = 3


def test_trains_pretrained_says_whether_any_body_weight_is_trained() -> None:
    for tuning in ALL.values():
        backbone = attached(tuning)
        assert tuning.trains_pretrained == bool(set(trained(backbone)) & {f"model.{n}" for n in body_weights(backbone)})


@pytest.mark.parametrize(("family", "name"), SERVED)
def test_count_identity_and_gradients(family: str, name: str) -> None:
    tuning, backbone = ALL[name], tiny_backbone(family)
    before, counted = states(backbone), tuning.count(backbone)
    tuning.attach(backbone)
    assert sum(w.numel() for w in trained(backbone).values()) == counted == tuning.count(backbone)
    gap = float((states(backbone) - before).abs().max())
    assert gap == 0 if tuning.identity == "exact" else 0 < gap < 1e-3
    if name != "frozen":
        disturb(backbone)
        backbone.zero_grad()
        loss_of(backbone).backward()
        gone = {n: w.grad is None for n, w in backbone.named_parameters()}
        assert [n for n in trained(backbone) if gone[n]] == []
        assert all(gone[n] for n in gone if n not in trained(backbone))
        # a key bias shifts all scores of a row alike, so softmax gives it no gradient; all else must feel the loss
        still = [n for n, w in trained(backbone).items() if not w.grad.any() and "key" not in n and "k_lin" not in n and ".k." not in n]
        assert [n for n in still if "embed" not in n and "relative" not in n] == []


@pytest.mark.parametrize(("family", "name"), sorted(REFUSED))
def test_refusals_give_a_reason_and_leave_the_backbone_alone(family: str, name: str) -> None:
    backbone = tiny_backbone(family)
    with pytest.raises(ModelError, match=r"none; use lora|share one set of weights"):
        ALL[name].attach(backbone)
    assert all(w.requires_grad for w in backbone.parameters())


@pytest.mark.parametrize("name", [n for n in ALL if n != "frozen"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_step_moves_what_is_trained_and_nothing_else(family: str, name: str) -> None:
    if (family, name) in REFUSED:
        return
    backbone = attached(ALL[name], family)
    before = {n: w.detach().clone() for n, w in backbone.named_parameters()}
    one_step(backbone)
    moved = {n for n, w in backbone.named_parameters() if not torch.equal(w, before[n])}
    assert moved <= set(trained(backbone))
    unmoved = set(trained(backbone)) - moved  # A waits for B to leave zero, but for weight decay
    assert not [n for n in unmoved if "key" not in n and "embed" not in n]


@pytest.mark.parametrize(("family", "name"), [(f, n) for f, n in SERVED if ALL[n].merges])
def test_merged_and_unmerged_agree_and_leave_no_trace(family: str, name: str) -> None:
    backbone = attached(ALL[name], family)
    names = set(tiny_backbone(family).state_dict())
    disturb(backbone)
    before = states(backbone)
    ALL[name].merge(backbone)
    torch.testing.assert_close(states(backbone), before, rtol=1e-5, atol=1e-5)
    assert set(backbone.state_dict()) == names
    assert not [m for m in backbone.modules() if m._forward_hooks]


def test_without_a_merge_the_disturbed_model_differs() -> None:
    """The test above can fail: the disturbance is seen."""
    backbone = attached(ALL["lora"])
    before = states(backbone)
    disturb(backbone)
    assert float((states(backbone) - before).abs().max()) > 0.05


def test_merging_twice_or_what_was_never_attached_changes_nothing() -> None:
    backbone = attached(LoRA())
    disturb(backbone)
    LoRA().merge(backbone)
    once = states(backbone)
    LoRA().merge(backbone)
    assert torch.equal(states(backbone), once)


def test_houlsby_refuses_to_merge() -> None:
    with pytest.raises(ModelError, match="non-linear map"):
        Houlsby(m=8).merge(attached(Houlsby(m=8)))


def test_a_family_that_is_not_in_the_table_is_refused_where_a_place_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LAYOUTS, "bert")
    for tuning in (TopLayers(1), Houlsby(), LoRA(target_modules="all-linear"), LoRA(target_modules=("ffn_in",))):
        backbone = tiny_backbone()
        assert backbone.layout == Layout("bert")
        with pytest.raises(ModelError, match=r"full and frozen.*layouts\.py"):
            tuning.attach(backbone)
    for tuning in (Full(), Frozen(), BitFit(), LoRA(target_modules=("query", "intermediate.dense"))):  # the last by the maps' own names
        backbone = attached(tuning)
        assert sum(w.numel() for w in trained(backbone).values()) == tuning.count(backbone)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: LoRA(r=0), "r"),
        (lambda: LoRA(lora_alpha=0), "lora_alpha"),
        (lambda: LoRA(lora_dropout=1.0), "lora_dropout"),
        (lambda: TopLayers(k=0), "k"),
        (lambda: Houlsby(m=0), "m"),
        (lambda: Houlsby(activation="swish"), "activation"),  # type: ignore[arg-type]
        (lambda: LoRA(rank=8), "rank"),  # type: ignore[call-arg]
    ],
)
def test_impossible_settings_name_the_field(make: Any, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make()
    assert field in str(caught.value)


def test_added_modules_are_what_they_say() -> None:
    lora, houlsby = attached(LoRA(r=4)), attached(Houlsby(m=8))
    assert sum(isinstance(m, LowRank) for m in lora.modules()) == 4 and sum(isinstance(m, Bottleneck) for m in houlsby.modules()) == 4
