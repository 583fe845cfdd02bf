"""The output matrix: worked out where a tuning changes the embeddings, once for a whole text, and not where nobody reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tempering.contracts import Example
from tempering.framings.asked.left_to_right import Prefix, log_probabilities, picker, run, write
from tempering.framings.output_head import language_head, output_matrix
from tempering.framings.verbalizers.base import VerbalizerModule, reading
from tests.framings.test_text_to_text_writing import said, uncached, writer
from tests.tiny import tiny_backbone, tiny_examples


class Change(nn.Module):
    """Changes a weight as a sparse tuning does, and counts how often."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.add, self.times = nn.Parameter(torch.randn(shape)), 0

    def changed(self, name: str, weight: Tensor) -> Tensor:
        assert name == "weight"
        self.times += 1
        return weight + self.add


class Reads(VerbalizerModule):
    def __init__(self, wants: Any) -> None:
        super().__init__()
        self.wants, self.ids = wants, (3, 5)

    def forward(self, read: Tensor) -> Tensor:
        return read[:, 0]


def hung(backbone: Any) -> Change:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        change = Change(backbone.embeddings.weight.shape)
    backbone.embeddings.add_module("change", change)
    return change


def own_matrix(backbone: Any) -> None:
    head = language_head(backbone)
    width, vocabulary = head.shape  # type: ignore[union-attr]
    head.own = nn.Linear(width, vocabulary, bias=False)


@pytest.mark.parametrize(("wants", "own", "times"), [("hidden", False, 0), ("states", False, 0), ("logits", False, 1), ("logits", True, 0)])
@torch.no_grad()
def test_a_verbalizer_asks_for_it_only_where_it_reads_it(wants: Any, own: bool, times: int) -> None:
    backbone = tiny_backbone("gpt2")
    if own:
        own_matrix(backbone)
    language_head(backbone)
    change, hidden = hung(backbone), torch.randn(2, 1, backbone.hidden_size)
    read = reading(Reads(wants), backbone, hidden)
    assert change.times == times
    if wants == "logits":
        matrix = language_head(backbone).own.weight if own else backbone.embeddings.weight + change.add  # type: ignore[union-attr,operator]
        torch.testing.assert_close(read, hidden @ matrix[[3, 5]].T)


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_a_written_text_takes_it_once(family: str) -> None:
    found, rows = writer(family), tiny_examples(2)
    plain = said(found, rows)
    change = hung(found.backbone)
    texts = said(found, rows)
    assert change.times == 1 and texts != plain
    assert texts == [found.framing._text(uncached(found, row), None) for row in rows]
    assert said(found, rows, size=1) == texts  # and none is held from one batch to the next
    before = change.times
    change.add.data.zero_()
    assert said(found, rows) == plain and change.times == before + 1


def test_guidance_takes_it_once_more() -> None:
    found, rows = writer("t5", guidance_scale=1.5), tiny_examples(2)
    change = hung(found.backbone)
    said(found, rows)
    assert change.times == 2


def test_a_matrix_of_its_own_leaves_the_embeddings_alone() -> None:
    found = writer("gpt2")
    own_matrix(found.backbone)
    change, row = hung(found.backbone), Example(("a film",))
    assert said(found, [row]) == [found.framing._text(uncached(found, row), None)]
    assert output_matrix(language_head(found.backbone), found.backbone) is language_head(found.backbone).own.weight  # type: ignore[union-attr]
    assert change.times == 0


@torch.no_grad()
def test_prompting_takes_it_once_for_all_tokens() -> None:
    backbone = tiny_backbone("gpt2").eval()
    change, contexts = hung(backbone), [[5, 6, 7], [8, 9]]
    pick = picker([np.random.default_rng(0)] * 2, sample=False)
    written = write(backbone, contexts, Prefix(), 4, pick, ())
    assert change.times == 1 and [len(tokens) for tokens in written] == [4, 4]
    for context, tokens in zip(contexts, written, strict=True):
        for i, token in enumerate(tokens):
            states = run(backbone, [[*context, *tokens[:i]]], Prefix()).last
            assert token == int(log_probabilities(backbone, states).argmax(-1))
