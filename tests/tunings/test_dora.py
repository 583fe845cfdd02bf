"""DoRA: its formula re-derived, PEFT as the oracle, the published count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tempering.errors import ModelError
from tempering.tunings.attach import attach_all
from tempering.tunings.dora import Decomposed, DoRA
from tempering.tunings.lora import LoRA
from tests.tiny import tiny_backbone
from tests.tunings.oracle import attached, check_against_peft, check_count, states, stir

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def test_the_published_count() -> None:
    check_count(DoRA(), "bert-base", 313_344)
    check_count(DoRA(), "roberta-base", 313_344)


def test_the_formula() -> None:
    """y = m (W + s B A) / ||W + s B A|| x + b, norms over inputs, a row each."""
    backbone = attached(DoRA(r=4, lora_alpha=6))
    stir(backbone)
    layer = backbone.model.encoder.layer[1].attention.self.value
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    added = layer.dora
    moved = layer.weight + 1.5 * added.B @ added.A
    expected = x @ (added.m[:, None] * moved / moved.norm(dim=1, keepdim=True)).T + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_lengths_by_expansion_are_the_norms() -> None:
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    added = Decomposed(weight, 2, 3.0, 0.0)
    added.B.data.normal_(generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(added.lengths(weight), (weight + 1.5 * added.B @ added.A).norm(dim=1))


def test_norms_carry_no_gradient() -> None:
    """dL/dA is that of fixed norms: s B' (m/n * dL/dW')."""
    backbone = attached(DoRA(r=4, lora_alpha=8))
    stir(backbone)
    layer = backbone.model.encoder.layer[0].attention.self.query
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    layer(x).square().sum().backward()
    added, y = layer.dora, layer(x).detach()
    n = (layer.weight + 2 * added.B @ added.A).norm(dim=1).detach()
    whole = (added.m / n).detach()[:, None] * (2 * y.T @ x)
    torch.testing.assert_close(added.A.grad, 2 * added.B.detach().T @ whole, rtol=1e-3, atol=1e-2)


def test_dropout_leaves_the_pretrained_path() -> None:
    backbone = attached(DoRA(r=4, lora_dropout=0.5))
    layer = backbone.model.encoder.layer[0].attention.self.query.train()
    x = torch.randn(4, 32)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    stir(backbone)
    assert not torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
def test_peft_is_the_oracle(family: str, tmp_path: Path) -> None:
    check_against_peft(DoRA(r=4, target_modules=("query", "ffn_out")), family, tmp_path)


def test_beside_a_lora_on_the_same_layer_the_order_does_not_matter() -> None:
    one, other = tiny_backbone(), tiny_backbone()
    attach_all((DoRA(r=4), LoRA(r=4)), one)
    attach_all((LoRA(r=4), DoRA(r=4)), other)
    stir(one)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(states(one), states(other), rtol=1e-5, atol=1e-5)
    before = states(one)
    for tuning in (DoRA(r=4), LoRA(r=4)):  # merge_order says so
        tuning.merge(one)
    torch.testing.assert_close(states(one), before, rtol=1e-5, atol=1e-5)


def test_too_large_a_rank_is_refused_in_its_own_name() -> None:
    with pytest.raises(ModelError, match=r"^dora: r = 33 is more than the 32"):
        DoRA(r=33).attach(tiny_backbone())
