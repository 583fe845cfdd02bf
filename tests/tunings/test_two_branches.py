"""Tunings where the feed-forward sub-layer multiplies two branches, wo (act(wi_0 x) * wi_1 x): T5 1.1, flan-t5, T0 and mT5."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch.nn import functional as F

import tempering
from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.tunings.bitfit import BitFit
from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tempering.tunings.parallel import Parallel
from tests.tiny import save_tiny, tiny_backbone, tiny_config, tiny_examples, tiny_task
from tests.tunings.oracle import attached, check_against_peft, check_count, stir

FEED = ("ffn_in", "ffn_out")
T0 = {"d": 2048, "f": 5120, "blocks": 48}  # T0-3B, both halves


def named(kind: str) -> Backbone:
    """A tiny gated body of either family: the one that always is, and the one whose configuration tells."""
    if kind == "mt5":
        return tiny_backbone(kind)
    config = tiny_config("t5")
    config.feed_forward_proj, config.is_gated_act, config.dense_act_fn = "gated-gelu", True, "gelu_new"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Backbone(transformers.AutoModelForTextEncoding.from_config(config).eval(), tiny_backbone("t5").tokenizer, "tiny-t5-gated")


def test_counts_at_the_shape_of_t0() -> None:
    d, f, blocks = T0["d"], T0["f"], T0["blocks"]
    check_count(LoRA(target_modules=("ffn_in",)), "t0-3b", blocks * 8 * (d + f))
    check_count(LoRA(target_modules=("wi_0", *FEED)), "t0-3b", blocks * 3 * 8 * (d + f))
    check_count(Parallel(m=16), "t0-3b", blocks * (2 * 16 * d + 16 + d))


@pytest.mark.parametrize("kind", ["mt5", "t5"])
def test_every_method_hangs_at_the_linear_branch(kind: str) -> None:
    for tuning, child in ((LoRA(r=2, target_modules=("ffn_in",)), "lora"), (IA3(before_activation=True), "ia3"), (Parallel(m=4), "")):
        backbone = named(kind)
        tuning.attach(backbone)
        for block in backbone.blocks:
            inner = block.get_submodule("layer.1.DenseReluDense")
            assert hasattr(inner.wi_1, child or "parallel_input") and not list(inner.wi_0.children())


@pytest.mark.parametrize("before", [False, True])
def test_ia3_rescales_the_product_wherever_it_is_put(before: bool) -> None:
    """wo (l * gelu(wi_0 x) * wi_1 x): the factor of the linear branch goes through the product unchanged."""
    backbone = attached(IA3(before_activation=before), "mt5")
    stir(backbone)
    inner = backbone.model.encoder.block[1].layer[1].DenseReluDense
    factors = inner.wi_1.ia3.vector if before else inner.wo.ia3_in.vector
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    product = F.gelu(x @ inner.wi_0.weight.T, approximate="tanh") * (x @ inner.wi_1.weight.T)
    torch.testing.assert_close(inner(x), (factors * product) @ inner.wo.weight.T, rtol=1e-5, atol=1e-5)
    assert factors.shape == (64,) and bool((factors != 1).all())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_authors_place_is_pefts_own_for_this_family() -> None:
    """T-Few names k, v and wi_1 (its file ia3.json); so does PEFT, decoder and cross-attention included."""
    backbone = tiny_backbone("mt5")
    backbone.open_decoder()
    theirs = peft.get_peft_model(copy.deepcopy(backbone.model), peft.IA3Config())
    scaled = {name.removeprefix("base_model.model.") for name, m in theirs.named_modules() if hasattr(m, "ia3_l")}
    tuning = IA3(before_activation=True)
    assert scaled == {path for path, *_ in tuning._outputs(backbone)}
    assert tuning.count(backbone) == IA3().count(backbone) == theirs.get_nb_trainable_parameters()[0] == 2 * 128 + 2 * 192


def test_two_branches_in_one_map_are_told_apart() -> None:
    """ModernBERT's Wi gives both; the linear one is the last half."""
    backbone = attached(IA3(before_activation=True), "modernbert")
    layer = backbone.model.layers[0].mlp.Wi
    with torch.no_grad():
        layer.ia3.vector.fill_(2.0)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), torch.cat(((x @ layer.weight.T)[:, :64], 2 * (x @ layer.weight.T)[:, 64:]), 1))
    assert IA3(before_activation=True).count(backbone) == IA3().count(backbone)


def test_a_parallel_adapter_reads_what_both_branches_read() -> None:
    backbone = attached(Parallel(m=4, s=3.0), "mt5")
    stir(backbone)
    layer = backbone.model.encoder.block[0].layer[1].eval()
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    normed, adapter = layer.layer_norm(x), layer.dropout.parallel
    change = F.relu(normed @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(layer(x), x + layer.DenseReluDense(normed) + 3.0 * change, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("before", [False, True])
def test_peft_reads_what_is_saved(before: bool, tmp_path: Path) -> None:
    check_against_peft(IA3(before_activation=before), "mt5", tmp_path)


@pytest.mark.parametrize("tuning", [LoRA(r=2, target_modules=FEED), Parallel(m=4)], ids=["lora", "parallel"])
def test_trained_saved_and_loaded_it_scores_the_same(tuning: Any, tmp_path: Path) -> None:
    base = save_tiny("mt5", tmp_path / "base")
    stage = Train(tuning=tuning, framing=Head(), max_steps=2, learning_rate=1e-2, per_device_train_batch_size=8)
    learner = fit(Recipe("test", (stage,)), tiny_task(12), str(base))
    texts = [e.texts[0] for e in tiny_examples(6, seed=9)]
    learner.save_pretrained(tmp_path / "model")
    assert tempering.load(tmp_path / "model").predict_proba(texts) == learner.predict_proba(texts)


def test_what_has_no_biases_says_so_and_not_that_a_map_is_missing() -> None:
    with pytest.raises(ModelError, match=r"bitfit cannot serve .*none; use lora"):
        BitFit(subset=True).attach(tiny_backbone("mt5"))
