"""Backbones: loading from a folder for every family, identity, heights, lengths, perturbation, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.passes import altered
from tempering.pretrained import loaded, locate
from tests.tiny import FAMILIES, LENGTH, save_tiny, tiny_backbone

TEXTS = ["the film was good", "bad"]
LAYERS = {"albert": 1, "bart": 4}  # BART reads with its decoder too


def _inputs(backbone: Backbone) -> dict[str, torch.Tensor]:
    return dict(backbone.tokenizer(TEXTS, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_loads_whole_and_the_same_twice(family: str, tmp_path: Path) -> None:
    folder = str(save_tiny(family, tmp_path / family))
    one, two, made = Backbone.load(folder), Backbone.load(folder, seed=9), tiny_backbone(family)
    assert one.fingerprint() == two.fingerprint() == made.fingerprint()
    assert one.fingerprint() != tiny_backbone(family, seed=1).fingerprint()
    assert one.pretrained == frozenset(one.model.state_dict())  # nothing had to be drawn, so the seed did not matter
    assert one.source == one.where == folder and not one.changed
    assert (one.hidden_size, one.max_length) == (32, LENGTH)
    assert one.tokenizer.pad_token_id == one.config.pad_token_id == made.tokenizer.pad_token_id
    assert 0 <= one.tokenizer.pad_token_id < one.embeddings.num_embeddings
    assert {w.dtype for w in one.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(one.eval().encode(_inputs(one)).last, made.eval().encode(_inputs(made)).last)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_view_of_what_the_body_says(family: str) -> None:
    backbone = tiny_backbone(family).eval()
    inputs = _inputs(backbone)
    assert ("token_type_ids" in inputs) == (family == "bert")
    out = backbone.encode(inputs, layers=True)
    assert out.layers is not None and len(out.layers) == 3 and backbone.encode(inputs).layers is None
    assert out.last.shape == (*inputs["input_ids"].shape, 32)
    assert (out.pooled is not None) == (family in ("bert", "albert"))
    assert len(backbone.blocks) == LAYERS.get(family, 2) and backbone.top == len(backbone.blocks) + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_reach_a_text(family: str) -> None:
    backbone = tiny_backbone(family).eval()
    padded, alone = _inputs(backbone), dict(backbone.tokenizer(TEXTS[1:], return_tensors="pt"))
    length = alone["input_ids"].shape[1]
    with torch.no_grad():
        side = slice(0, length) if backbone.tokenizer.padding_side == "right" else slice(-length, None)
        torch.testing.assert_close(backbone.encode(padded).last[1, side], backbone.encode(alone).last[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_depth_of_every_weight(family: str) -> None:
    """Blocks by their number; below them all that feeds the first one; above them what the last one feeds."""
    backbone = tiny_backbone(family)
    inside = {"encoder.layer", "transformer.layer", "layers", "h", "encoder.block", "encoder.albert_layer_groups.0.albert_layers"}
    assert backbone.layout.blocks in inside | {"encoder.layers"}
    above = ("pooler", "ln_f", "norm", "final_norm", "encoder.final_layer_norm")
    for name, _ in backbone.model.named_parameters():
        expected = 0
        if name.startswith(backbone.layout.blocks + "."):
            expected = 1 + int(name.removeprefix(backbone.layout.blocks + ".").split(".")[0])
        elif name.startswith("decoder.layers."):  # BART's decoder stands on its encoder
            expected = 3 + int(name.split(".")[2])
        elif name.startswith(above):
            expected = backbone.top
        assert backbone.depth(name) == backbone.depth(f"model.{name}") == backbone.depth(f"backbone.model.{name}") == expected, name
    assert {backbone.depth(n) for n, _ in backbone.model.named_parameters()} >= set(range(backbone.top))


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "albert"])
def test_perturbed_changes_one_layers_input_while_open(family: str, layer: int) -> None:
    backbone = tiny_backbone(family).eval()
    inputs = _inputs(backbone)
    seen: list[torch.Tensor] = []

    def shift(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x + torch.linspace(-1, 1, x.shape[-1])

    with torch.no_grad():
        plain = backbone.encode(inputs, layers=True)
        with altered(backbone, shift, layer):
            moved = backbone.encode(inputs, layers=True)
        assert torch.equal(backbone.encode(inputs).last, plain.last)
    assert len(seen) == 1 and plain.layers is not None and moved.layers is not None
    if layer and backbone.layout.kind != "encoder-decoder":  # there the layers are those of the decoder
        torch.testing.assert_close(seen[0], plain.layers[layer - 1])
    below = max(0, layer - 1)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers[:below], moved.layers[:below], strict=True))
    assert not torch.allclose(plain.last, moved.last, atol=1e-3)


def test_perturbed_where_blocks_share_their_weights() -> None:
    """The one block runs at every depth, so its input is changed each time; there is no second block."""
    backbone, seen = tiny_backbone("albert").eval(), []
    with altered(backbone, lambda x: seen.append(x) or x, 1):  # type: ignore[func-returns-value]
        backbone.encode(_inputs(backbone))
    assert len(seen) == 2
    with pytest.raises(ModelError, match="layer 2 of tiny-albert: it has 1 separate block"), altered(backbone, lambda x: x, 2):
        pass


def test_perturbed_is_closed_by_an_error_too() -> None:
    backbone = tiny_backbone().eval()
    before = backbone.encode(_inputs(backbone)).last
    with pytest.raises(ZeroDivisionError), altered(backbone, lambda x: x / (1 // 0)):
        backbone.encode(_inputs(backbone))
    assert torch.equal(backbone.encode(_inputs(backbone)).last, before)


def test_the_fingerprint_feels_one_weight_and_the_configuration() -> None:
    backbone = tiny_backbone()
    before = backbone.fingerprint()
    weight = next(backbone.parameters())
    weight.data[0, 0] += 1e-6
    changed = backbone.fingerprint()
    weight.data[0, 0] = tiny_backbone().model.embeddings.word_embeddings.weight.data[0, 0]
    assert changed != before == backbone.fingerprint()
    backbone.config.layer_norm_eps = 1e-3
    assert backbone.fingerprint() != before


def _step(backbone: Backbone) -> None:
    backbone.embeddings.weight.grad = torch.ones_like(backbone.embeddings.weight)  # type: ignore[assignment,arg-type,union-attr]
    torch.optim.AdamW([backbone.embeddings.weight], fused=True).step()  # type: ignore[list-item]


def _flip(backbone: Backbone) -> None:
    backbone.embeddings.weight.data[3, 1:7:2] *= -1  # type: ignore[index,operator,union-attr]


def _swap(backbone: Backbone) -> None:
    backbone.embeddings.weight.data[[4, 5]] = backbone.embeddings.weight.data[[5, 4]]  # type: ignore[index,operator,union-attr]


def _replace(backbone: Backbone) -> None:
    backbone.embeddings.weight = torch.nn.Parameter(backbone.embeddings.weight.detach() * 2)  # type: ignore[operator,union-attr]


@pytest.mark.parametrize(
    "change",
    [_step, _flip, _swap, _replace, lambda b: b.load_state_dict(tiny_backbone(seed=1).state_dict()), lambda b: setattr(b.config, "x", 1)],
)
def test_a_remembered_fingerprint_is_never_stale(change: Callable[[Backbone], object]) -> None:
    backbone = tiny_backbone()
    before = backbone.fingerprint()
    twin = copy.deepcopy(backbone)
    change(backbone)
    after = backbone.fingerprint()
    backbone._known = None  # forget
    assert after == backbone.fingerprint() != before == twin.fingerprint()


def test_an_unchanged_backbone_is_hashed_once_and_its_copies_never(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    backbone, real = tiny_backbone(), hashlib.blake2b
    monkeypatch.setattr(hashlib, "blake2b", lambda *a, **k: hashed.append(1) or real(*a, **k))
    found = {backbone.fingerprint(), backbone.fingerprint(), copy.deepcopy(backbone).fingerprint()}
    assert len(found) == 1 and len(hashed) == 1
    _flip(backbone)
    assert backbone.fingerprint() not in found and len(hashed) == 2


def test_weights_that_the_checkpoint_lacks_are_drawn_from_the_seed(tmp_path: Path) -> None:
    """A pooler, say, of a checkpoint that was trained without one."""
    from safetensors.torch import load_file, save_file

    folder = save_tiny("bert", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("pooler")}, folder / "model.safetensors", metadata={"format": "pt"})
    one, same, other = (Backbone.load(str(folder), seed=s) for s in (0, 0, 1))
    assert frozenset(one.model.state_dict()) - one.pretrained == {"pooler.dense.weight", "pooler.dense.bias"}
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_loading_disturbs_no_random_stream(tmp_path: Path) -> None:
    folder = str(save_tiny("bert", tmp_path))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Backbone.load(folder)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("before", ["true", None])
def test_every_process_reads_the_weights_whatever_a_launcher_says(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With this variable transformers leaves the weights out of all processes but the first."""
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    assert loaded(lambda where, local_files_only: os.environ[name], "a model") == "false"
    assert os.environ.get(name) == before


def test_what_is_not_a_model_folder_is_refused(tmp_path: Path) -> None:
    for missing in ("./nowhere", str(tmp_path / "nowhere"), "a/b/c"):
        with pytest.raises(ModelError, match=r"--model .*there is no such folder; give an existing folder"):
            locate(missing)
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        Backbone.load(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter as PEFT saves it, .* merge_and_unload"):
        Backbone.load(str(tmp_path))
    (tmp_path / "tempering.json").write_text("{}")
    with pytest.raises(ModelError, match="holds what was trained on top of a model, .* temper merge .*--output-dir MODEL"):
        Backbone.load(str(tmp_path))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"not tensors"), "header"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (lambda f: (f / "config.json").write_text(json.dumps({"model_type": "no-such-family"})), "no-such-family"),
        (lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], "tokenizer"),
    ],
    ids=["no weights", "bad weights", "bad config", "unknown family", "no tokenizer"],
)
def test_a_spoiled_folder_is_one_readable_line(spoil, said: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = save_tiny("bert", tmp_path)
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        Backbone.load(str(folder))
    message = str(caught.value)
    assert message.startswith(f"--model {folder}") and said in message and "\n" not in message


def test_a_tokenizer_without_any_padding_token_is_refused(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in ("eos_token", "unk_token")}))
    with pytest.raises(ModelError, match="padding"):
        Backbone.load(str(folder))


def test_the_alias_resolves_to_a_folder_or_the_hub_name() -> None:
    where = locate("minilm")
    assert where == "sentence-transformers/all-MiniLM-L6-v2" or (Path(where) / "config.json").exists()
