"""PiSSA: its decomposition re-derived, PEFT's own as the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import tempering
from tempering.recipe import Recipe
from tempering.tunings.lora import LoRA
from tempering.tunings.pissa import PiSSA, principal
from tests.laws.bench import dev, logits, stage_of
from tests.tiny import save_tiny, tiny_backbone, tiny_task
from tests.tunings.oracle import attached, check_against_peft, check_count, inputs, states, stir

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def test_as_many_as_a_lora() -> None:
    check_count(PiSSA(), "roberta-base", 294_912)


def test_the_principal_part_is_the_best_of_its_rank() -> None:
    weight = torch.randn(12, 9, generator=torch.Generator().manual_seed(0))
    a, b = principal(weight, 3, 2.0, None)
    left = torch.linalg.svdvals(weight - 2 * b @ a)
    torch.testing.assert_close(left[:6], torch.linalg.svdvals(weight)[3:], rtol=1e-4, atol=1e-4)
    assert left[6:].abs().max() < 1e-4
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0), rtol=1e-4, atol=1e-4)  # split evenly


def test_a_randomized_decomposition_is_close() -> None:
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    a, b = principal(weight, 20, 1.0, 4)
    torch.testing.assert_close(b @ a, weight, rtol=1e-4, atol=1e-4)


def test_the_start_is_the_backbone_and_its_weights_stay() -> None:
    plain, backbone = tiny_backbone(), attached(PiSSA(r=4))
    assert torch.equal(states(plain), states(backbone))
    assert all(torch.equal(t, backbone.state_dict()[n]) for n, t in plain.state_dict().items())


def test_a_saved_folder_is_read_without_a_decomposition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_tiny("bert", tmp_path / "base")
    learner = tempering.fit(Recipe("mine", (stage_of(PiSSA(r=2)),)), tiny_task(24), str(base))
    folder, scored = learner.save_pretrained(tmp_path / "saved"), logits(learner, dev())
    monkeypatch.setattr(torch.linalg, "svd", lambda *_, **__: pytest.fail("decomposed what the folder holds"))
    assert torch.equal(logits(tempering.load(folder), dev()), scored)
    with pytest.raises(pytest.fail.Exception):
        PiSSA(r=2).attach(tiny_backbone())  # only while loading


def _theirs(backbone: Any) -> Any:
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"], init_lora_weights="pissa")
    return peft.get_peft_model(backbone.model, config)


def test_one_step_of_training_is_that_of_peft() -> None:
    """PEFT writes the residual into the weights, we take the frozen part off: the same function and the same gradients."""
    mine, other = attached(PiSSA(r=4, lora_alpha=6)), tiny_backbone()
    theirs = _theirs(other).train(False)
    torch.testing.assert_close(theirs(**inputs(mine)).last_hidden_state, states(mine), rtol=1e-4, atol=1e-5)
    for model in (mine.model.eval(), theirs):
        model(**inputs(mine)).last_hidden_state.pow(3).sum().backward()
    for path in ("encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.value"):
        ours, peer = mine.model.get_submodule(path), other.model.get_submodule(path)
        product = ours.pissa.B.detach() @ ours.pissa.A.grad  # free of the signs of singular vectors
        expected = peer.lora_B["default"].weight.detach() @ peer.lora_A["default"].weight.grad
        torch.testing.assert_close(product, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_peft_reads_it_as_a_lora_of_twice_the_rank(family: str, tmp_path: Path) -> None:
    loaded = check_against_peft(PiSSA(r=4, lora_alpha=6, target_modules=("query", "ffn_in")), family, tmp_path)
    config = loaded.peft_config["default"]
    assert config.r == 8 and config.lora_alpha == 12


def test_it_starts_where_a_lora_does_not() -> None:
    """Both begin as the backbone, but the first gradient step of PiSSA moves A as well as B."""
    for tuning, moved in ((PiSSA(r=4), True), (LoRA(r=4), False)):
        backbone = attached(tuning)
        backbone.encode(inputs(backbone)).last.square().sum().backward()
        a = next(w for n, w in backbone.named_parameters() if n.endswith(".A"))
        assert a.grad is not None and bool(a.grad.any()) is moved


def test_stirred_it_is_no_longer_the_backbone() -> None:
    backbone = attached(PiSSA(r=4))
    before = states(backbone)
    stir(backbone)
    assert not torch.allclose(states(backbone), before, atol=1e-2)
