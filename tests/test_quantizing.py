"""A body in 8 or 4 bits: the formulas against their definition, the round trip, training over it, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tempering
from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.errors import ModelError, RecipeError, ResumeError
from tempering.fitting import fit, identity_of
from tempering.framings.masked_lm import MaskedLM
from tempering.outlining import outline
from tempering.plan import explain
from tempering.quantizing import BLOCK, GROUP, LEVELS, Packed, Quantize, pack, packed_bytes, packed_numbers, saved_bytes, unpack
from tempering.recipe import Recipe
from tempering.stages.checks import check_quantized
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.studying import compare
from tempering.tunings.attach import linear_maps, sizes
from tempering.tunings.bitfit import BitFit
from tempering.tunings.deltas import merge_deltas, switch
from tempering.tunings.frozen import Frozen
from tempering.tunings.lora import LoRA
from tests.tiny import FAMILIES, save_tiny, tiny_backbone, tiny_examples, tiny_task

METHODS: tuple[Quantize, ...] = ("8bit", "4bit")
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("bert")))


def recipe(name: str, **changes: object) -> Recipe:
    return Recipe.load(name).override({"max_steps": 12, "min_steps": 0, "learning_rate": 5e-3, **changes})


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    with torch_stream(seed, "matrix"):
        return torch.randn(rows, columns)


@given(SHAPES, st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_8_bits_are_rounded_to_a_127th_of_each_row(shape: tuple[int, int], seed: int) -> None:
    w = matrix(*shape, seed)
    parts = pack(w, "8bit")
    step = w.abs().amax(1, keepdim=True) / 127
    np.testing.assert_array_equal(parts["codes"].numpy(), torch.round(w / step).to(torch.int8).numpy())
    assert bool(((unpack(parts, shape, "8bit") - w).abs() <= step / 2 * 1.0001).all())


@given(SHAPES, st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_4_bits_are_the_nearest_level_of_each_block(shape: tuple[int, int], seed: int) -> None:
    """Written out number by number: the scale of a block is read back from its group, and the nearest of the 16 levels is taken."""
    w = matrix(*shape, seed)
    flat = w.flatten().double().numpy()
    blocks = np.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    top = np.abs(blocks).max(1)
    mean = top.mean()
    stored = np.empty_like(top)
    for start in range(0, len(top), GROUP):
        group = top[start : start + GROUP] - mean
        step = np.abs(group).max() / 127 or 1.0
        stored[start : start + GROUP] = np.round(group / step) * step + mean
    levels = np.array(LEVELS)
    expected = np.stack([levels[np.abs(b[:, None] / s - levels).argmin(1)] * s for b, s in zip(blocks, stored, strict=True)])
    found = unpack(pack(w, "4bit"), shape, "4bit")
    close = np.isclose(found.flatten().numpy(), expected.flatten()[: len(flat)], atol=1e-5)
    assert close.mean() > 0.995  # a number halfway between two levels may go either way in fp32
    widest = max(b - a for a, b in pairwise(LEVELS))
    assert float((found - w).abs().max()) <= widest * top.max()


def test_the_levels_are_those_of_qlora() -> None:
    """Quantiles of the normal distribution, 8 above and 7 below zero, scaled to one: appendix E of the paper gives the construction."""
    from scipy.stats import norm

    offset = 0.9677083
    above, below = norm.ppf(np.linspace(offset, 0.5, 9)[:-1]), -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    built = np.sort([*above, 0.0, *below])
    np.testing.assert_allclose(LEVELS, built / built.max(), atol=1e-5)


def test_torchao_packs_alike() -> None:
    """Same levels and blocks; torchao stores the scales of blocks in int8 too, around their mean."""
    nf4: Any = pytest.importorskip("torchao.quantization", reason="torchao is not installed: it is an oracle here, nothing else needs it")
    w = matrix(128, 256)
    mine = unpack(pack(w, "4bit"), (128, 256), "4bit")
    theirs = nf4.to_nf4(w, BLOCK, GROUP).get_original_weight()
    assert float((mine - w).square().mean()) <= 1.02 * float((theirs - w).square().mean())
    assert float((mine - theirs).abs().mean()) < 0.02 * float(w.abs().mean())
    eight = nf4.Int8Tensor.from_hp(w, nf4.PerRow()).dequantize()
    torch.testing.assert_close(unpack(pack(w, "8bit"), (128, 256), "8bit"), eight, atol=float(w.abs().max() / 127), rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(64, 32), (5, 7), (130, 129)])
def test_bytes_are_those_of_the_tensors(shape: tuple[int, int], method: Quantize) -> None:
    parts = pack(matrix(*shape), method)
    assert packed_bytes(shape, method) == sum(t.numel() * t.element_size() for t in parts.values())
    assert not torch.isnan(unpack(pack(torch.zeros(shape), method), shape, method)).any()


@pytest.mark.parametrize("method", METHODS)
def test_the_map_and_its_gradient_are_those_of_the_matrix_made_whole(method: Quantize) -> None:
    linear = torch.nn.Linear(32, 64)
    layer = Packed(linear.weight, linear.bias, method)
    x = matrix(5, 32).requires_grad_(True)
    expected = x @ layer.weight.T + linear.bias
    torch.testing.assert_close(layer(x), expected)
    (mine,) = torch.autograd.grad(layer(x).square().sum(), x)
    (theirs,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_family_packs_its_blocks_and_nothing_else(family: str, method: Quantize) -> None:
    plain, body = tiny_backbone(family), tiny_backbone(family)
    body.pack(method)
    assert body.quantized == method and body.fingerprint() == plain.fingerprint()
    assert {p: sizes(m) for p, m in linear_maps(body).items()} == {p: sizes(m) for p, m in linear_maps(plain).items()}
    packed = {p for p, m in linear_maps(body).items() if isinstance(m, Packed)}
    assert packed == {p for p in linear_maps(plain) if plain.inside(p) or (not plain.stacks and not p.startswith("pooler"))}
    whole = dict(plain.model.named_parameters())
    for name, weight in body.model.named_parameters():  # embeddings, norms and biases
        assert torch.equal(weight, whole[name])
    inputs = dict(plain.tokenizer(["the film was good", "a dull book"], padding=True, return_tensors="pt"))
    with torch.no_grad():
        before, after = plain.encode(inputs).last, body.encode(inputs).last
    off = float((before - after).norm() / before.norm())
    assert 0 < off < (0.05 if method == "8bit" else 0.6)
    assert packed_numbers(body) + sum(p.numel() for p in body.model.parameters()) == sum(p.numel() for p in whole.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_decoder_that_is_opened_is_packed_too(method: Quantize) -> None:
    plain, body = tiny_backbone("t5"), tiny_backbone("t5")
    body.pack(method)
    for backbone in (plain, body):
        backbone.open_decoder()
    assert body.fingerprint() == plain.fingerprint() and body.quantized == method
    assert sum(isinstance(m, Packed) for m in linear_maps(body).values()) == sum(plain.inside(p) for p in linear_maps(plain))


@pytest.mark.parametrize("method", METHODS)
def test_lora_trains_over_a_packed_base_and_comes_back_the_same(method: Quantize, bert: str, tmp_path: Path) -> None:
    """The loss falls, no packed bit moves, and the folder, which holds the change alone, gives equal predictions."""
    task = tiny_task(48)
    start = Backbone.load(bert, quantize=method)
    before = {n: b.clone() for n, b in start.named_buffers() if "codes" in n}
    learner = fit(recipe("lora", eval_strategy="steps", eval_steps=1), task, start, quantize=method)
    losses = [h["loss"] for h in learner.record["stage"]["history"] if "loss" in h]
    assert before and losses[-1] < losses[0]
    assert all(torch.equal(b, before[n]) for n, b in learner.backbone.named_buffers() if n in before)
    learner.save_pretrained(tmp_path / "model")
    meta = json.loads((tmp_path / "model/tempering.json").read_text())
    assert meta["format"] == "delta" and meta["base"]["quantize"] == method
    assert meta["base"]["fingerprint"] == Backbone.load(bert).fingerprint()
    again = tempering.load(tmp_path / "model")
    texts = [e.texts for e in tiny_examples(8, start=100)]
    assert again.backbone.quantized == method
    assert np.array_equal(again.predict_proba(texts), learner.predict_proba(texts))
    lent = tempering.load(tmp_path / "model", base_model=Backbone.load(bert))  # not packed: read anew
    assert lent.backbone.quantized == method


@pytest.mark.parametrize("name", ["bitfit", "houlsby", "prefix-tuning", "prompt-tuning", "ia3", "dora", "pissa", "vera", "adalora", "oft"])
def test_other_tunings_act_on_a_packed_base(name: str, bert: str, tmp_path: Path) -> None:
    narrow = {"tuning.m": 8} if name == "houlsby" else {}
    learner = fit(recipe(name, max_steps=2, **narrow), tiny_task(24), bert, quantize="8bit")
    learner.save_pretrained(tmp_path)
    texts = [e.texts for e in tiny_examples(6, start=100)]
    found, again = learner.predict_proba(texts), tempering.load(tmp_path).predict_proba(texts)
    assert np.array_equal(found, again)
    body = learner.backbone.model
    assert any(p.requires_grad and bool(p.ne(0).any()) for p in body.parameters()) and any(isinstance(m, Packed) for m in body.modules())


def test_memory_is_smaller_and_explain_knows_by_how_much(bert: str) -> None:
    plain = explain("lora", bert).stages[0].memory.weights
    for method, share in (("8bit", 0.6), ("4bit", 0.55)):
        plan = explain("lora", bert, quantize=method)
        real = Backbone.load(bert, quantize=method)
        stored = [*real.model.parameters(), *(b for m in real.modules() if isinstance(m, Packed) for b in m.buffers())]
        outlined = outline(bert, method)
        parameters = sum(p.numel() for p in outlined.model.parameters())
        expected = sum(t.numel() * t.element_size() for t in stored)
        assert 4 * parameters - saved_bytes(outlined.model, outlined.stacks, outlined.quantized) == expected
        assert plan.parameters == parameters == explain("lora", real).parameters
        loaded = explain("lora", Backbone.load(bert, quantize=method)).stages[0].memory.weights
        assert plan.stages[0].memory.weights == loaded < share * plain


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("full", {}, "tuning full trains or changes pretrained matrices"),
        ("top-layers", {}, "tuning top_layers"),
        ("truncate", {}, "tuning full"),
        ("fish", {}, "tuning fish"),
        ("diff-pruning", {}, "tuning diff_pruning"),
        ("grft", {}, "tuning grft"),
        ("lora", {"tuning.modules_to_save": ["pooler"]}, "tuning lora"),
        ("l2-sp", {"tuning": "bitfit"}, "l2_sp reads or sets pretrained weights"),
        ("tapt", {}, r"stages.0 \(train, tuning full\) changes the model that the next stage starts from"),
        ("tapt-lora", {"stages.0.tuning": "lora"}, r"stages.0 .*or keep what it adds apart, by keep_tuning"),
        ("tapt-lora", {"stages.0.tuning": "bitfit"}, r"stages.0 .*nor be saved as a base of their own"),
        ("prime", {"stages.0.sources": ["a", "b"]}, r"stages.0 \(prime"),
    ],
)
def test_what_writes_to_matrices_is_refused_before_anything_is_loaded(name: str, changes: dict[str, Any], said: str, bert: str) -> None:
    chosen = Recipe.load(name).override(changes)
    with pytest.raises(RecipeError, match=f"quantize 8bit: .*{said}|quantize 8bit: {said}"):
        explain(chosen, bert, quantize="8bit")
    with pytest.raises(RecipeError, match="quantize 4bit"):
        fit(chosen, tiny_task(24), "nowhere/at-all", quantize="4bit")
    check_quantized(chosen.stages, None)


LOOP: dict[str, Any] = {"max_steps": 3, "min_steps": 0, "learning_rate": 5e-3}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"tuning": LoRA(r=2), "keep_tuning": "start"}, {"tuning": LoRA(r=2), "reuse_tuning": "start"}),
        ({"tuning": Frozen(), "keep_head": "head"}, {"tuning": LoRA(r=2), "reuse_head": "head"}),
        ({"tuning": Frozen(), "framing": MaskedLM(), "text": "unlabeled"}, {"tuning": BitFit()}),
    ],
)
def test_stages_that_leave_the_matrices_as_they_are_follow_each_other_packed(
    first: dict[str, Any], second: dict[str, Any], bert: str, tmp_path: Path
) -> None:
    chosen = Recipe("two", (Train(**(LOOP | first)), Train(**(LOOP | second))))
    learner = fit(chosen, tiny_task(24), bert, quantize="8bit", output_dir=tmp_path / "out")
    packed, still = Backbone.load(bert, quantize="8bit"), {n: b for n, b in learner.backbone.model.named_buffers() if n.endswith("codes")}
    assert still and all(torch.equal(b, dict(packed.model.named_buffers())[n]) for n, b in still.items())
    assert not learner.backbone.changed and explain(chosen, bert, quantize="8bit").stages
    learner.save_pretrained(tmp_path / "saved")
    texts = [e.texts for e in tiny_examples(6, start=100)]
    expected = learner.predict_proba(texts)
    assert not (tmp_path / "saved" / "base").exists() and np.array_equal(tempering.load(tmp_path / "saved").predict_proba(texts), expected)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "stage-1")
    again = fit(chosen, tiny_task(24), bert, quantize="8bit", output_dir=tmp_path / "out", resume=True)
    assert np.array_equal(again.predict_proba(texts), expected) and not again.backbone.changed


def test_other_refusals(bert: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected 8bit or 4bit, found '3bit'"):
        Backbone.load(bert, quantize="3bit")
    with pytest.raises(RecipeError, match="loaded already"):
        fit("lora", tiny_task(24), Backbone.load(bert), quantize="8bit")
    learner = fit(recipe("lora", max_steps=1), tiny_task(24), bert, quantize="8bit")
    with pytest.raises(ModelError, match="packed in 8bit and can take nothing in"):
        learner.save_pretrained(tmp_path / "merged", merge=True)
    learner.save_pretrained(tmp_path / "a")
    fit(recipe("lora", max_steps=1), tiny_task(24), bert).save_pretrained(tmp_path / "b")
    with pytest.raises(ModelError, match="share one base model"):
        tempering.load_many([tmp_path / "a", tmp_path / "b"])
    assert tempering.load_many([tmp_path / "a"]).backbone.quantized == "8bit"


@pytest.mark.parametrize("name", ["lora", "dora", "pissa", "adalora", "vera", "ia3", "oft", "magnitude"])
def test_a_merge_by_hand_is_refused_and_changes_nothing(name: str) -> None:
    """A packed matrix hands out copies: what a merge wrote to them was lost without a word."""
    backbone, tuning = tiny_backbone(), Recipe.load(name).stages[0].tuning
    backbone.pack("8bit")
    tuning.attach(backbone)
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(ModelError, match=r"cannot be merged: the matrices of .* are packed in 8bit .*load the model without quantize"):
        tuning.merge(backbone)
    after = backbone.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(t, after[n]) for n, t in before.items())


def test_a_packed_base_is_neither_switched_nor_added_up(bert: str, tmp_path: Path) -> None:
    learner = fit(recipe("lora", max_steps=1), tiny_task(24), bert, quantize="8bit")
    folders = [learner.save_pretrained(tmp_path / name) for name in "ab"]
    with pytest.raises(ModelError, match=r"packed in 8bit, and a body of its own .*load the folder with tempering.load"):
        switch(learner, folders[0])
    with pytest.raises(ModelError, match=r"packed in 8bit and add nothing up; leave it out"):
        merge_deltas(folders)


def test_packing_is_part_of_every_identity(bert: str, tmp_path: Path) -> None:
    plain, packed = Backbone.load(bert), Backbone.load(bert, quantize="4bit")
    assert identity_of(packed) == f"{identity_of(plain)}, packed in 4bit"
    cache = TrunkCache()
    heads = [fit(recipe("head", max_steps=1), tiny_task(24), bert, quantize=m, cache=cache) for m in (None, "4bit")]
    prompts = [p for ps in heads[0].framing.render(tiny_examples(4), (), np.random.default_rng(0)) for p in ps]
    assert not torch.equal(cache.features(heads[0], prompts), cache.features(heads[1], prompts))
    task = tempering.Task.from_examples(train=tiny_examples(24), dev=tiny_examples(8, start=40), test=tiny_examples(8, start=60))
    study = compare([recipe("lora", max_steps=1)], task, bert, seeds=1, output_dir=tmp_path / "study", quantize="8bit")
    assert [r.status for r in study.records()] == ["done"] and study.info.quantize == "8bit"
    with pytest.raises(ResumeError, match="another quantization of the model"):
        compare([recipe("lora", max_steps=1)], task, bert, seeds=1, output_dir=tmp_path / "study")


def test_numbers_of_a_real_size() -> None:
    """BERT-base: 85 M numbers in the blocks' maps; int8 with a scale a row, NF4 at 0.516 bytes a number."""
    maps = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    numbers = 12 * sum(math.prod(s) for s in maps)
    assert numbers == 84_934_656
    assert 12 * sum(packed_bytes(s, "8bit") for s in maps) == numbers + 4 * 12 * (4 * 768 + 3072 + 768)
    assert 12 * sum(packed_bytes(s, "4bit") for s in maps) / numbers == pytest.approx(1 / 2 + 1 / 64 + 4 / (64 * 256), rel=1e-5)
