"""(IA)3: placement re-derived, exact merge, PEFT as the oracle, published counts."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch

from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tests.tiny import FAMILIES, GATED, tiny_backbone
from tests.tunings.oracle import attached, check_against_peft, check_count, inputs, states, stir

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def test_published_counts() -> None:
    check_count(IA3(), "bert-base", 55_296)
    check_count(IA3(before_activation=True), "bert-base", 55_296)
    for before in (False, True):  # both halves: L (2 d + f) and L (4 d + f); the gate's linear branch is as wide as its product
        check_count(IA3(before_activation=before), "t0-3b", 540_672)
    check_count(IA3(), "gpt2", 55_296)  # the query part of a fused map is spared


def test_keys_and_values_after_the_map_and_the_inner_activation_before_it() -> None:
    backbone = attached(IA3())
    stir(backbone)
    block = backbone.model.encoder.layer[0]
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    key, out = block.attention.self.key, block.output.dense
    torch.testing.assert_close(key(x), key.ia3.vector * (x @ key.weight.T + key.bias))
    inner = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(out(inner), (out.ia3_in.vector * inner) @ out.weight.T + out.bias)
    for untouched in (block.attention.self.query, block.attention.output.dense, block.intermediate.dense):
        assert not hasattr(untouched, "ia3") and not hasattr(untouched, "ia3_in")


def test_before_the_activation_is_another_function() -> None:
    """Ones but for one inner unit: scaled after GELU it is linear in the factor, before it is not."""
    found = []
    for tuning, name, child in ((IA3(), "output.dense", "ia3_in"), (IA3(before_activation=True), "intermediate.dense", "ia3")):
        backbone = attached(tuning)
        vector = backbone.model.encoder.layer[1].get_submodule(name).get_submodule(child).vector
        with torch.no_grad():
            vector[:32] = 3.0
        found.append(states(backbone))
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_the_fused_map_scales_key_and_value_alone() -> None:
    layer = attached(IA3(), "gpt2").model.h[0].attn.c_attn
    with torch.no_grad():
        layer.ia3.vector.fill_(2.0)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    plain = x @ layer.weight + layer.bias
    torch.testing.assert_close(layer(x), torch.cat((plain[:, :32], 2 * plain[:, 32:]), 1))


@pytest.mark.parametrize("family", [*FAMILIES, *GATED])
@pytest.mark.parametrize("before", [False, True])
def test_merging_is_exact_in_every_family(family: str, before: bool) -> None:
    backbone = attached(IA3(before_activation=before), family)
    stir(backbone)
    scaled = states(backbone)
    IA3(before_activation=before).merge(backbone)
    torch.testing.assert_close(states(backbone), scaled, rtol=1e-4, atol=1e-5)
    assert set(backbone.state_dict()) == set(tiny_backbone(family).state_dict())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "modernbert"])
def test_peft_is_the_oracle(family: str, tmp_path: Path) -> None:
    check_against_peft(IA3(), family, tmp_path)


def test_the_pattern_leaves_the_attentions_output_alone(tmp_path: Path) -> None:
    """PEFT's own default for this family scales it too: 64,512 numbers for BERT-base and not the paper's 55,296."""
    loaded = check_against_peft(IA3(), "bert", tmp_path)
    config = loaded.peft_config["default"]
    assert config.feedforward_modules == r"(.*\.)?(encoder\.layer\.\d+\.output\.dense)"
    ours = sum(w.numel() for n, w in attached(IA3()).named_parameters() if w.requires_grad)
    theirs = peft.get_peft_model(tiny_backbone().model, peft.IA3Config()).get_nb_trainable_parameters()[0]
    assert theirs - ours == 2 * 32


def test_beside_a_lora_the_low_rank_part_is_scaled_too() -> None:
    backbone = tiny_backbone()
    for tuning in (IA3(), LoRA(r=4, target_modules=("key", "ffn_out"))):
        tuning.attach(backbone)
    for weight in backbone.parameters():
        weight.requires_grad_(True)
    with torch.no_grad():
        for name, weight in backbone.named_parameters():
            if ".lora." in name or ".ia3" in name:
                weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    before = states(backbone)
    for tuning in sorted((IA3(), LoRA(r=4)), key=lambda t: getattr(t, "merge_order", 0)):
        tuning.merge(backbone)
    torch.testing.assert_close(states(backbone), before, rtol=1e-4, atol=1e-5)


def test_many_tasks_at_once_are_each_on_its_own() -> None:
    from tempering.tunings.ia3 import Scale

    modules = [Scale(4, 6), Scale(4, 6)]
    for i, module in enumerate(modules):
        module.vector.data.fill_(i + 2.0)
    x = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
    owner = torch.tensor([1, 0, 1])
    found = Scale.rowwise(modules, x, owner)
    assert torch.equal(found, torch.stack([modules[int(o)](row) for o, row in zip(owner, x, strict=True)]))


def test_the_start_is_the_backbone() -> None:
    plain = tiny_backbone()
    with torch.no_grad():
        assert torch.equal(states(attached(IA3())), plain.encode(inputs(plain)).last)
