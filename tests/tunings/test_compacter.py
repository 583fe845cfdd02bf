"""Compacter: counts, Kronecker products, the one shared rule, and sizes that do not divide."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import tempering
from tempering.errors import ModelError
from tempering.tunings.compacter import RULE, Compact, Compacter, Kronecker, Rule
from tests.tiny import save_tiny, tiny_backbone
from tests.tunings.adapters import adapted, counted, trained
from tests.tunings.shared import attached, disturb, states


@pytest.mark.parametrize(
    ("plus", "large", "published"), [(False, False, 57_088), (True, False, 28_576), (False, True, 152_128), (True, True, 76_096)]
)
def test_counts_are_the_published_ones(plus: bool, large: bool, published: int) -> None:
    assert counted(Compacter(plus=plus, layer_norm=False), large) == published
    assert counted(Compacter(plus=plus), large) == published + (100_352 if large else 38_400)


def test_a_map_is_a_sum_of_kronecker_products() -> None:
    """W^T = sum over i of A_i (x) (s_i t_i)."""
    layer, rule, x = Kronecker(12, 8, 4), Rule(4, 1.0).A, torch.randn(2, 3, 12)
    torch.nn.init.normal_(layer.bias)
    matrix = sum(torch.kron(rule[i], layer.s[i] @ layer.t[i]) for i in range(4))
    torch.testing.assert_close(layer(x, rule), x @ matrix + layer.bias, rtol=1e-5, atol=1e-5)


def test_the_formula() -> None:
    """h + U gelu(D h + b_D) + b_U."""
    rule, h = Rule(2, 1.0), torch.randn(2, 3, 8)
    adapter = Compact(8, 4, 2, "gelu", rule)
    expected = h + adapter.up(F.gelu(adapter.down(h, rule.A)), rule.A)
    torch.testing.assert_close(adapter(h), expected)


def test_the_start_moves_the_states_by_less_than_a_millionth() -> None:
    before, backbone = states(tiny_backbone("roberta")), attached(Compacter(m=4), "roberta")
    assert float((states(backbone) - before).abs().max()) <= 1e-6
    bound = (6 / (32 / 4 + 1)) ** 0.5  # Glorot: sqrt(6 / (in + out)) of each factor
    for adapter in adapted(backbone, "compacter"):
        factor = adapter.down.s
        assert 0.5 * bound < float(factor.detach().abs().max()) <= bound


def test_one_rule_serves_every_block_and_follows_a_copy() -> None:
    backbone = attached(Compacter(m=4, plus=True))
    rules = [name for name, _ in backbone.named_parameters() if name.endswith(".A")]
    assert rules == [f"model.embeddings.word_embeddings.{RULE}.A"]
    disturb(backbone)
    other = copy.deepcopy(backbone)
    before = states(backbone)
    with torch.no_grad():
        getattr(other.embeddings, RULE).A.mul_(2)
    assert torch.equal(states(backbone), before) and not torch.equal(states(other), before)
    for adapter in adapted(other, "compacter"):
        assert adapter.rule[0] is getattr(other.embeddings, RULE)


def test_saved_once_and_loaded_with_equal_scores(tmp_path: Path) -> None:
    learner = trained(Compacter(n=2, m=4, init_std=0.1, layer_norm=False), save_tiny("bert", tmp_path / "base"))
    learner.save_pretrained(tmp_path / "model")
    stored = load_file(tmp_path / "model" / "delta.safetensors")
    assert sum(t.numel() for t in stored.values()) == learner.tuning.count(learner.backbone)
    assert torch.equal(states(tempering.load(tmp_path / "model").backbone), states(learner.backbone))


@pytest.mark.parametrize(("tuning", "advice"), [(Compacter(n=5, m=5), "give n=1"), (Compacter(n=4, m=6), "give n=2"), (Compacter(), "n=1")])
def test_sizes_that_n_does_not_divide_are_refused(tuning: Compacter, advice: str) -> None:
    backbone = tiny_backbone()
    with pytest.raises(ModelError, match=rf"n = {tuning.n} must divide.*{advice}"):
        tuning.attach(backbone)
    assert all(w.requires_grad for w in backbone.parameters()) and not hasattr(backbone.embeddings, RULE)
