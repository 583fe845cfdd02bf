"""LayerNormOnly: the norms of every family, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tempering.errors import ModelError
from tempering.tunings.attach import norms
from tempering.tunings.layer_norm import LayerNormOnly
from tests.tiny import FAMILIES, tiny_backbone
from tests.tunings.shared import one_step, states, trained

GAIN_ONLY = ("llama", "qwen2", "t5", "modernbert")


@pytest.mark.parametrize("family", FAMILIES)
def test_gains_and_biases_of_all_norms_are_trained(family: str) -> None:
    backbone = tiny_backbone(family)
    LayerNormOnly().attach(backbone)
    found = set(trained(backbone))
    stems = {n.rpartition(".")[0] for n in found}
    assert stems == {f"model.{path}" for path in norms(backbone)} and len(stems) >= 3
    leaves = {n.rpartition(".")[2] for n in found}
    assert leaves == ({"weight"} if family in GAIN_ONLY else {"weight", "bias"})


def test_the_count_is_two_d_for_each_of_two_l_plus_one_norms() -> None:
    assert LayerNormOnly().count(tiny_backbone("bert")) == 2 * 32 * (2 * 2 + 1)
    assert LayerNormOnly().count(tiny_backbone("llama")) == 32 * (2 * 2 + 1)


def test_a_step_moves_norms_only_and_the_weights_are_not_decayed() -> None:
    backbone = tiny_backbone()
    LayerNormOnly().attach(backbone)
    before, start = states(backbone), {n: w.detach().clone() for n, w in backbone.named_parameters()}
    one_step(backbone)
    moved = {n for n, w in backbone.named_parameters() if not torch.equal(w, start[n])}
    assert moved and moved <= set(trained(backbone)) and all("LayerNorm" in n for n in moved)
    assert all(w.ndim == 1 for w in trained(backbone).values())  # the loop decays matrices only
    assert not torch.equal(states(backbone), before)


def test_a_body_without_norms_is_refused() -> None:
    backbone = tiny_backbone()
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, nn.Identity())
    with pytest.raises(ModelError, match="layer_norm cannot serve tiny-bert: it trains norms"):
        LayerNormOnly().attach(backbone)
    assert all(w.requires_grad for w in backbone.parameters())
