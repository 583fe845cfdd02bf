"""Packed rows: every text comes out as it would alone, in value and gradient, in every family that can; where none can it is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tempering.contracts import Example, Prompt
from tempering.framings.causal_lm import CausalLM
from tempering.framings.hidden.packing import Packing, segmented, sizes_of
from tempering.framings.masked_lm import MaskedLM
from tempering.layouts import layout_of
from tempering.tunings.prompt_tuning import PromptTuning
from tests.tiny import FAMILIES, tiny_backbone, tiny_config

DECODERS = [f for f in FAMILIES if layout_of(tiny_config(f)).kind == "decoder"]
ENCODERS = [f for f in FAMILIES if layout_of(tiny_config(f)).kind == "encoder" and f not in ("t5", "bart")]
ALONE = ("deberta-v2",)  # its mask has no room for another for each position
TEXTS = [list(range(10, 22)), list(range(30, 35)), list(range(40, 62)), [70]]


def rows() -> tuple[list[Prompt], list[Prompt]]:
    """Four texts in two packed rows of unlike length, and each in a row of its own."""
    packed = [Prompt([*TEXTS[0], *TEXTS[1]], extra=(12, 5)), Prompt([*TEXTS[2], *TEXTS[3]], extra=(22, 1))]
    return packed, [Prompt(text) for text in TEXTS]


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_hidden_states_are_those_of_each_text_alone(family: str) -> None:
    backbone = tiny_backbone(family).eval()
    packing = Packing.of(backbone, 40)
    if family in ALONE:
        assert packing is None
        return
    assert packing is not None
    framing: Any = (CausalLM if family in DECODERS else MaskedLM)(packed=True).build(None, backbone)
    packed, single = rows()
    batch = framing.collate(packed, np.random.default_rng(0))
    batch.inputs["input_ids"] = torch.tensor([[*p.input_ids, *[0] * (23 - len(p.input_ids))] for p in packed])  # nothing is hidden
    with torch.no_grad():
        found = packing.hidden(backbone, batch)
        alone = [backbone.encode({"input_ids": torch.tensor([p.input_ids])}).last[0] for p in single]
        loose = backbone.encode({"input_ids": batch.inputs["input_ids"][1:]}).last[0]
    parts = [found[0, :12], found[0, 12:17], found[1, :22], found[1, 22:23]]
    for mine, theirs in zip(parts, alone, strict=True):
        assert (mine - theirs).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))
    assert (loose[22] - alone[3][0]).abs().max() > 1e-2  # without the mask it does see its neighbor


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "gpt2", "llama"])
def test_loss_and_gradients_are_those_of_the_texts_apart(family: str) -> None:
    decoder = family in DECODERS
    found = []
    for packed in (True, False):
        backbone = tiny_backbone(family).eval()
        framing: Any = CausalLM(packed=packed) if decoder else MaskedLM(packed=packed)
        torch.manual_seed(0)  # the head is drawn
        module = framing.build(None, backbone)
        batch = module.collate(rows()[not packed], np.random.default_rng(0))
        if not decoder:  # mask the fourth token of each longer text, here as there
            ids = batch.inputs["input_ids"]
            ids[:] = torch.tensor([[*p.input_ids, *[module.pad_id] * (ids.shape[1] - len(p.input_ids))] for p in rows()[not packed]])
            places = torch.tensor([3, 15, ids.shape[1] + 3] if packed else [3, ids.shape[1] + 3, 2 * ids.shape[1] + 3])
            batch.targets, batch.extra["positions"] = ids.flatten()[places].clone(), places
            ids.view(-1)[places] = backbone.tokenizer.mask_token_id
        loss = module.loss(module.scores(backbone, batch), batch)
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}))
    (mine, grads), (theirs, others) = found
    assert mine == pytest.approx(float(theirs), abs=1e-5)
    positions = {n for n in grads if "position" in n or "wpe" in n}
    assert set(grads) == set(others) and len(grads) > 10
    assert all(torch.allclose(grads[n], others[n], atol=1e-4) for n in grads) and (positions or family in ("modernbert", "llama"))


def test_segments_and_places() -> None:
    packed, single = rows()
    marks = segmented(sizes_of([packed[1], single[3]]), 25)
    assert marks["segments"][0].tolist() == [0] * 22 + [1] + [-1] * 2
    assert marks["places"][0].tolist() == [*range(22), 0, 0, 0]
    assert marks["segments"][1].tolist() == [0] + [-1] * 24


@pytest.mark.parametrize(("family", "tuning"), [("deberta-v2", None), ("bert", PromptTuning(p=3))])
def test_where_rows_cannot_be_packed_each_text_has_its_own(family: str, tuning: Any, examples: list[Example]) -> None:
    backbone = tiny_backbone(family)
    if tuning is not None:
        tuning.attach(backbone)
    module = MaskedLM(packed=True, max_length=24).build(None, backbone)
    assert not module.row_form.packed and f"packed rows cannot serve tiny-{family} ({family})" in module.notes[0]
    batch = module.collate([p[0] for p in module.render(examples, (), np.random.default_rng(0))], np.random.default_rng(0))
    assert "segments" not in batch.extra and torch.isfinite(module.loss(module.scores(backbone, batch), batch))


def test_trying_leaves_the_mode_as_it_is() -> None:
    backbone = tiny_backbone("bert").train()
    backbone.model.encoder.eval()
    Packing.of(backbone, 16)
    assert backbone.training and not backbone.model.encoder.training and backbone.model.embeddings.training


def test_some_rows_of_a_packed_batch() -> None:
    backbone = tiny_backbone("bert").eval()
    module = MaskedLM(0.4, packed=True).build(None, backbone)
    batch = module.collate(rows()[0], np.random.default_rng(0))
    parts = [module.part(batch, slice(rank, None, 2)) for rank in (0, 1)]
    with torch.no_grad():
        whole = module.scores(backbone, batch).only.logits[0]
        found = torch.cat([module.scores(backbone, part).only.logits[0] for part in parts])
    assert torch.allclose(whole, found, atol=1e-5)
    assert batch.targets is not None and batch.targets.tolist() == [t for part in parts for t in part.targets.tolist()]
