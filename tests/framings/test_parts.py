"""Texts that are drawn together and read apart: the same vectors and gradients, and hardly any padding."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

import tempering.framings.vectored.parts as parts
from tempering.contracts import Batch, Example
from tempering.framings.contrastive import Contrastive
from tempering.framings.pairs import Pairs
from tempering.framings.vectored.parts import in_parts
from tempering.passes import altered, watched
from tests.tiny import FAMILIES, WORDS, tiny_backbone, tiny_task


@pytest.fixture(autouse=True)
def _cheap_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass costs as much as four tokens, so that small batches are cut too."""
    monkeypatch.setattr(parts, "spare_on", lambda device: 4)


def texts(count: int = 9) -> list[Example]:
    """Of one to twenty words, in no order."""
    draw = random.Random(0)
    return [Example((" ".join(draw.choices(WORDS, k=draw.choice((1, 2, 2, 9, 20)))),), ("bad", "good")[i % 2], i) for i in range(count)]


def batch_of(module: Any, rows: list[Example]) -> Batch:
    rng = np.random.default_rng(0)
    prompts = [p for found in module.render(rows, (), rng) for p in found]
    return module.collate(prompts, rng)  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_vectors_and_gradients_are_those_of_the_whole_batch(family: str, pool: Any) -> None:
    backbone = tiny_backbone(family).eval()
    module = Pairs(pool=pool).build(tiny_task(), backbone)
    batch = batch_of(module, texts())
    found = []
    for read in (module.trunk, module.pooling.read):
        backbone.zero_grad()
        vectors = read(backbone, batch)
        (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
        grads = {name: w.grad.clone() for name, w in backbone.named_parameters() if w.grad is not None}
        found.append((vectors.detach(), grads))
    (apart, some), (whole, all_) = found
    assert torch.allclose(apart, whole, atol=1e-5) and not (apart[1:] - whole[:-1]).abs().max() < 1e-3
    assert some.keys() == all_.keys() and all(torch.allclose(some[n], all_[n], atol=1e-4) for n in some)


def shapes(backbone: Any, batch: Batch) -> list[tuple[int, int]]:
    """[rows, length] of each call of the body, and that a row that was padded says so."""
    seen = []

    def read(part: Batch) -> torch.Tensor:
        ids, mask = part.inputs["input_ids"], part.inputs.get("attention_mask")
        assert ids.shape[1] == (ids.shape[1] if mask is None else int(mask.sum(1).max()))
        assert mask is None or not mask.all()
        seen.append((ids.shape[0], ids.shape[1]))
        return ids[:, :1].float()

    assert torch.equal(in_parts(read, batch), batch.inputs["input_ids"][:, :1].float())
    return seen


def test_next_to_no_padding_is_computed() -> None:
    backbone = tiny_backbone()
    batch = batch_of(Contrastive().build(tiny_task(), backbone), texts(32))
    mask = batch.inputs["attention_mask"]
    seen = shapes(backbone, batch)
    assert sum(rows for rows, _ in seen) == 32 and 1 < len(seen) < 10
    assert sum(rows * length for rows, length in seen) < 1.2 * int(mask.sum()) < 0.7 * mask.numel()
    alike = {name: x[[0, 0, 0]] for name, x in batch.inputs.items()}
    assert len(shapes(backbone, Batch({**alike, "attention_mask": mask[[0, 1, 0]]}))) <= 2


@pytest.mark.parametrize("look", [lambda b: altered(b, lambda x: x), lambda b: altered(b, lambda x: x, 1), watched])
def test_what_looks_into_a_pass_sees_all_rows_at_once(look: Any) -> None:
    backbone = tiny_backbone()
    module = Pairs().build(tiny_task(), backbone)
    batch = batch_of(module, texts())
    with look(backbone) as seen:
        assert len(shapes(backbone, batch)) == 1
        module.trunk(backbone, batch)
        assert seen is None or [len(x) for x in seen] == [len(batch)] * len(backbone.blocks)
    assert len(shapes(backbone, batch)) > 1


def test_processes_call_the_body_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    batch = batch_of(Pairs().build(tiny_task(), backbone), texts())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert len(shapes(backbone, batch)) == 1
