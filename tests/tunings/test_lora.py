"""LoRA: its formula re-derived, its targets, and PEFT as the oracle of its file format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.streams import torch_stream
from tempering.tunings.lora import PLACES, LoRA, LowRank
from tempering.tunings.peft_format import peft_config, peft_names
from tests.tiny import FAMILIES, save_tiny, tiny_backbone

# PEFT 0.21 reads an attribute that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TEXTS = ["the film was good", "a very dull and awful book"]
HEADS = {"bert": ["classifier"], "roberta": ["classifier"], "distilbert": ["pre_classifier", "classifier"], "gpt2": ["score"]}
TARGETS: list[Any] = [("query", "value"), "all-linear", ("ffn_out",)]


def _random(backbone: Backbone, seed: int = 0) -> None:
    with torch_stream(seed, "delta"):
        for name, weight in backbone.named_parameters():
            if weight.requires_grad:
                weight.data = 0.2 * torch.randn_like(weight)
                assert ".lora." in name


def _inputs(backbone: Backbone) -> dict[str, torch.Tensor]:
    return dict(backbone.tokenizer(TEXTS, padding=True, return_tensors="pt"))


def test_the_formula() -> None:
    """y = W x + b + (alpha / r) B A x."""
    backbone = tiny_backbone()
    LoRA(r=4, lora_alpha=6).attach(backbone)
    _random(backbone)
    layer = backbone.model.encoder.layer[1].attention.self.value
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora.A, layer.lora.B
    assert a.shape == (4, 32) and b.shape == (32, 4)
    expected = x @ layer.weight.T + layer.bias + 1.5 * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_the_fused_matrix_of_transposed_maps() -> None:
    backbone = tiny_backbone("gpt2")
    LoRA(r=4, target_modules=("query", "key", "value")).attach(backbone)  # one matrix holds all three
    _random(backbone)
    layer = backbone.model.h[0].attn.c_attn
    assert layer.lora.A.shape == (4, 32) and layer.lora.B.shape == (96, 4)
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), x @ layer.weight + layer.bias + 4 * x @ layer.lora.A.T @ layer.lora.B.T, rtol=1e-5, atol=1e-5)


def test_the_start_is_that_of_the_paper() -> None:
    backbone = tiny_backbone()
    with torch_stream(0):
        LoRA(r=16, target_modules=PLACES).attach(backbone)
    for module in backbone.modules():
        if isinstance(module, LowRank):
            bound = module.A.shape[1] ** -0.5
            assert 0.9 * bound < float(module.A.detach().abs().max()) <= bound and not module.B.any()


def test_dropout_falls_on_the_added_path_alone() -> None:
    backbone = tiny_backbone()
    LoRA(r=4, lora_dropout=0.5, target_modules=("ffn_in",)).attach(backbone)
    layer = backbone.model.encoder.layer[0].intermediate.dense.train()
    x = torch.randn(4, 32)
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), plain)  # B is zero
    _random(backbone)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x)) and not torch.equal(layer(x), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_place_is_found_in_every_block(family: str) -> None:
    backbone = tiny_backbone(family)
    paths = [path for path, _ in LoRA(target_modules=PLACES).targets(backbone)]
    per_block = len({getattr(backbone.layout, place) for place in PLACES})
    crossed = 4 * 2 if backbone.opened else 0  # the maps of cross-attention in a decoder's two blocks
    assert len(paths) == per_block * len(backbone.blocks) + crossed == len(set(paths))
    inside = {path for path, _ in LoRA(target_modules="all-linear").targets(backbone)}
    assert set(paths) <= inside


def test_targets_by_the_models_own_names() -> None:
    backbone = tiny_backbone("distilbert")
    by_name = LoRA(target_modules=("q_lin", "v_lin")).targets(backbone)
    assert [p for p, _ in by_name] == [p for p, _ in LoRA().targets(backbone)]
    assert [p for p, _ in LoRA(target_modules=("layer.1.ffn.lin1",)).targets(backbone)] == ["transformer.layer.1.ffn.lin1"]
    assert LoRA(target_modules="q_lin").target_modules == ("q_lin",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        (LoRA(target_modules=("q_lin",)), r"'q_lin'.*query, key.*dense, key, query, value"),
        (LoRA(target_modules=("LayerNorm",)), "'LayerNorm'"),
        (LoRA(target_modules=()), "is empty"),
        (LoRA(r=33), r"r = 33 is more than the 32 .*encoder\.layer\.0\.attention\.self\.query"),
    ],
)
def test_impossible_targets_are_refused_before_anything_is_changed(tuning: LoRA, said: str) -> None:
    backbone = tiny_backbone()
    with pytest.raises(ModelError, match=said):
        tuning.attach(backbone)
    assert all(w.requires_grad for w in backbone.parameters()) and not any(isinstance(m, LowRank) for m in backbone.modules())


def test_a_model_built_differently_from_its_family_says_what_it_has() -> None:
    odd = tiny_backbone("t5")
    for block in odd.blocks:
        inner = block.get_submodule("layer.1.DenseReluDense")
        inner.add_module("first", inner.get_submodule("wi"))
        del inner.wi
    with pytest.raises(ModelError, match=r"no encoder\.block\.0\..*wi .* it has first, k, .*; use lora with names among these"):
        LoRA(target_modules=("ffn_in",)).attach(odd)
    assert len(LoRA(target_modules=("first", "wo")).targets(odd)) == 4


def _classifier(folder: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder, num_labels=3)
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    with torch_stream("head"):
        return transformers.AutoModelForSequenceClassification.from_pretrained(folder, config=config).eval()


def _backbone(folder: Path) -> Backbone:
    return Backbone.load(str(folder)).eval()


@pytest.fixture(params=list(HEADS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A family with its saved tiny model."""
    return request.param, save_tiny(request.param, tmp_path / "base")


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_peft_reads_what_we_write(folder: tuple[str, Path], targets: Any, tmp_path: Path) -> None:
    family, base = folder
    value, backbone, classifier = LoRA(r=4, target_modules=targets), _backbone(base), _classifier(base)
    layout = backbone.layout
    assert layout.head is not None
    value.attach(backbone)
    _random(backbone)
    state, names = backbone.state_dict(), peft_names(backbone, layout.head.body)
    tensors = {key: state[name].contiguous() for name, key in names.items()}
    with torch_stream("new head"):
        heads = {n: torch.randn_like(w) for n, w in classifier.named_parameters() if n.split(".")[0] in HEADS[family]}
    save_file(tensors | {f"base_model.model.{n}": w for n, w in heads.items()}, tmp_path / "adapter_model.safetensors")
    config = peft_config(value, backbone, "SEQ_CLS", HEADS[family], str(base))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))

    loaded = peft.PeftModel.from_pretrained(classifier, tmp_path).eval()
    written = {n for n, _ in loaded.named_parameters() if ".lora_" in n}
    assert len(written) == len(tensors)  # PEFT adapts exactly our layers
    inputs = _inputs(backbone)
    with torch.no_grad():
        theirs = loaded(**inputs, output_hidden_states=True)
        torch.testing.assert_close(theirs.hidden_states[-1], backbone.encode(inputs, layers=True).layers[-1], rtol=1e-5, atol=1e-5)
        value.merge(backbone)
        plain = _classifier(base)
        getattr(plain, layout.head.body).load_state_dict(backbone.model.state_dict())
        plain.load_state_dict(heads, strict=False)
        torch.testing.assert_close(theirs.logits, plain.eval()(**inputs).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_we_hold_what_peft_writes(folder: tuple[str, Path], targets: Any, tmp_path: Path) -> None:
    """PEFT's own adapter: the same names, the same shapes, and its weights in our layers give its hidden states."""
    family, base = folder
    value, backbone = LoRA(r=4, target_modules=targets), _backbone(base)
    assert backbone.layout.head is not None
    mine = peft_config(value, backbone, "SEQ_CLS", HEADS[family])
    fields = ("task_type", "r", "lora_alpha", "target_modules", "modules_to_save", "fan_in_fan_out")
    with torch_stream("peft"):
        theirs = peft.get_peft_model(_classifier(base), peft.LoraConfig(**{f: mine[f] for f in fields}, init_lora_weights=False)).eval()
    theirs.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {k for k, v in mine.items() if k not in written or (k in fields[:3] and written[k] != v)} == set()
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    value.attach(backbone)
    names = peft_names(backbone, backbone.layout.head.body)
    assert set(names.values()) == {k for k in tensors if ".lora_" in k}
    backbone.load_state_dict(backbone.state_dict() | {name: tensors[key] for name, key in names.items()})
    inputs = _inputs(backbone)
    with torch.no_grad():
        expected = theirs(**inputs, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(backbone.encode(inputs, layers=True).layers[-1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_body_of_every_family_loads_as_features(family: str, tmp_path: Path) -> None:
    base = save_tiny(family, tmp_path / "base")
    backbone, again = _backbone(base), _backbone(base)
    value = LoRA(r=2, lora_alpha=2.5)
    value.attach(backbone)
    _random(backbone)
    state = backbone.state_dict()
    save_file({key: state[name].contiguous() for name, key in peft_names(backbone, "").items()}, tmp_path / "adapter_model.safetensors")
    config = peft_config(value, backbone, "FEATURE_EXTRACTION", (), str(base))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    loaded = peft.PeftModel.from_pretrained(again.model, tmp_path).eval()
    inputs = _inputs(backbone)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).last_hidden_state, backbone.encode(inputs).last, rtol=1e-5, atol=1e-5)


def test_short_names_where_they_suffice() -> None:
    bert, roberta = tiny_backbone("bert"), tiny_backbone("roberta")
    assert peft_config(LoRA(), bert, "SEQ_CLS")["target_modules"] == ["query", "value"]
    assert len(peft_config(LoRA(target_modules=("ffn_out",)), bert, "SEQ_CLS")["target_modules"]) == 2  # dense means more than these
    assert "dense" not in peft_config(LoRA(target_modules="all-linear"), roberta, "SEQ_CLS")["target_modules"]  # the head has one too
