"""What LoRA offers beside the paper: rsLoRA's scale, LoRA+'s rates, patterns, modules trained whole, and VeRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from pydantic import ValidationError

from tempering.errors import ModelError
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.train import hooks, optimizer
from tempering.tunings.lora import LoRA
from tempering.tunings.vera import VeRA, projections
from tests.laws.bench import run, stage_of, untrained
from tests.tiny import tiny_backbone
from tests.tunings.oracle import attached, check_against_peft, check_count, states, stir

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not (save|load) vera_A:UserWarning"),  # the key is stored: that is the point
]
LAYER = "encoder.layer.0.attention.self.query"


def test_published_counts() -> None:
    check_count(LoRA(r=8), "roberta-base", 294_912)
    check_count(LoRA(r=8, use_rslora=True, loraplus_lr_ratio=16.0), "roberta-base", 294_912)
    check_count(VeRA(), "bert-base", 24_576)
    check_count(VeRA(r=1024), "roberta-base", 43_008)  # a rank above that of the matrix: the pair is random


def test_rslora_divides_by_the_root() -> None:
    layer = attached(LoRA(r=16, lora_alpha=8, use_rslora=True)).model.get_submodule(LAYER)
    assert layer.lora.scaling == 2.0 and attached(LoRA(r=16, lora_alpha=8)).model.get_submodule(LAYER).lora.scaling == 0.5


@pytest.mark.parametrize("tuning", [LoRA(r=4, use_rslora=True), VeRA(r=6, target_modules=("query", "ffn_in")), VeRA(r=6)], ids=str)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_peft_is_the_oracle(tuning: Any, family: str, tmp_path: Path) -> None:
    check_against_peft(tuning, family, tmp_path)


def test_b_learns_faster_by_the_ratio() -> None:
    """Adam's first step is the rate itself: B moves 16 times as far as the head, and the head as without LoRA+."""
    stage = stage_of(LoRA(r=4, loraplus_lr_ratio=16.0))
    learner = untrained(stage)
    trained = learner.trained()
    (part,) = stage.acting
    folded = hooks.start([("lora", part)], learner, trained, 0)
    groups = optimizer.make(trained, stage, per_weight=folded.rates)
    optimizer.set_rates(groups, folded, 1.0, 0.0)
    rates = {group["names"][0]: group["lr"] for group in groups.param_groups}
    assert {n: r / stage.learning_rate for n, r in rates.items()} == {n: 16.0 if n.endswith("lora.B") else 1.0 for n in trained}


def test_peft_sets_the_same_rates_but_for_biases() -> None:
    model = peft.get_peft_model(tiny_backbone().model, peft.LoraConfig(r=4, target_modules=["query"]))
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    found = {id(w): group["lr"] for group in theirs.param_groups for w in group["params"]}
    rates = {n.split(".lora_")[1][0]: found[id(w)] for n, w in model.named_parameters() if w.requires_grad}
    assert rates == {"A": 1e-3, "B": 16e-3}


def test_a_ratio_of_one_is_the_plain_run() -> None:
    tuning = LoRA(r=2, loraplus_lr_ratio=1.0)
    assert tuning.neutral and not LoRA(loraplus_lr_ratio=2.0).neutral
    fast = run(stage_of(LoRA(r=2, loraplus_lr_ratio=8.0))).trained()
    plain = run(stage_of(tuning)).trained()
    assert any(not torch.equal(fast[n], plain[n]) for n in plain)


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        (r".*\.query", ["encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.query"]),
        (r"bert\.encoder\.layer\.1\..*(key|value)", ["encoder.layer.1.attention.self.key", "encoder.layer.1.attention.self.value"]),
        (r"encoder\.layer\.\d+\.output\.dense", ["encoder.layer.0.output.dense", "encoder.layer.1.output.dense"]),
    ],
)
def test_a_string_is_a_pattern_for_whole_names_as_in_peft(pattern: str, paths: list[str]) -> None:
    backbone = tiny_backbone()
    assert [path for path, _ in LoRA(target_modules=pattern).targets(backbone)] == paths
    body = peft.get_peft_model(tiny_backbone().model, peft.LoraConfig(target_modules=pattern.removeprefix(r"bert\."))).base_model.model
    assert [n.removesuffix(".lora_A") for n, _ in body.named_modules() if n.endswith(".lora_A")] == paths


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        (
            LoRA(target_modules=r".*\.nothing"),
            r"pattern '.*nothing' of target_modules matches no linear map .* give a pattern for whole names",
        ),
        (LoRA(target_modules="(open"), "is no regular expression"),
        (LoRA(modules_to_save=("attic",)), "modules_to_save names 'attic'"),
        (LoRA(modules_to_save=("attention",)), r"is to be trained whole, yet encoder\.layer\.0\.attention\.self\.query in it is a target"),
        (LoRA(r=64, use_rslora=True), "give r of at most 32"),
        (VeRA(target_modules=("nowhere",)), "vera: target_modules names 'nowhere'"),
    ],
)
def test_bad_use_is_refused_before_anything_is_changed(tuning: Any, said: str) -> None:
    backbone = tiny_backbone()
    with pytest.raises(ModelError, match=said):
        tuning.attach(backbone)
    assert all(w.requires_grad for w in backbone.parameters())


def test_a_ratio_must_be_positive() -> None:
    with pytest.raises(ValidationError):
        LoRA(loraplus_lr_ratio=0.0)


def test_modules_trained_whole() -> None:
    tuning = LoRA(r=2, modules_to_save=("pooler", "layer.1.output"))
    backbone = tiny_backbone()
    count = tuning.count(backbone)
    tuning.attach(backbone)
    trained = {n for n, w in backbone.named_parameters() if w.requires_grad}
    paths = ("pooler.dense", "encoder.layer.1.output.dense", "encoder.layer.1.output.LayerNorm")
    assert {n for n in trained if ".lora." not in n} == {f"model.{p}.{w}" for p in paths for w in ("weight", "bias")}
    assert count == sum(w.numel() for w in backbone.parameters() if w.requires_grad) == 2 * 2 * 2 * 64 + 1056 + (64 * 32 + 32 + 64)
    assert tuning.trains_pretrained and not LoRA().trains_pretrained


def test_modules_trained_whole_go_through_peft(tmp_path: Path) -> None:
    check_against_peft(LoRA(r=2, modules_to_save=("pooler",)), "bert", tmp_path)


def test_a_learner_with_modules_trained_whole_comes_back(tmp_path: Path) -> None:
    from tests.laws.test_round_trip import check_elsewhere, check_learner, fitted
    from tests.tiny import save_tiny

    learner = fitted(stage_of(LoRA(r=2, modules_to_save=("pooler",), use_rslora=True)), save_tiny("bert", tmp_path / "base"))
    check_learner(learner, tmp_path / "model")
    check_elsewhere(learner, tmp_path / "model", "classification")


def test_vera_draws_its_pair_from_the_key_alone() -> None:
    a, b = projections(6, 32, 64, 3)
    assert a.shape == (6, 32) and b.shape == (64, 6)
    assert float(a.abs().max()) <= (6 / 32) ** 0.5 and float(b.abs().max()) <= 1.0
    one, other = attached(VeRA(r=6, projection_prng_key=3)), attached(VeRA(r=6, projection_prng_key=4))
    for backbone in (one, other):
        stir(backbone)
    assert not torch.equal(states(one), states(other))
    assert not [n for n in one.state_dict() if n.endswith(("vera.A", "vera.B"))]  # not stored


def test_vera_formula() -> None:
    backbone = attached(VeRA(r=6, d_initial=0.5))
    stir(backbone)
    layer = backbone.model.get_submodule(LAYER)
    a, b = projections(6, 32, 32, 0)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    expected = layer.bias + x @ layer.weight.T + layer.vera.b * ((layer.vera.d * (x @ a.T)) @ b.T)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_recipes() -> None:
    assert Recipe.load("lora-plus").stages[0].tuning == LoRA(loraplus_lr_ratio=16.0)
    assert Recipe.load("rslora").stages[0].tuning == LoRA(r=64, use_rslora=True)
    assert Recipe("p", (Train(tuning=LoRA(target_modules=r".*\.query")),)) == Recipe.from_yaml(
        Recipe("p", (Train(tuning=LoRA(target_modules=r".*\.query")),)).to_yaml()
    )
