"""Exact log-likelihoods: every way to compute them gives the same number, and it is the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tempering.backbone import Backbone
from tempering.framings.asked.left_to_right import Prefix, Prefixes, cacheable, context_length, padded, picker, run, run_prefix, write
from tempering.framings.asked.likelihood import answer_states, branches, shared_ids, totals
from tempering.framings.asked.mask_likelihood import Blank, blank_states, blank_totals
from tempering.framings.asked.scoring import Split
from tempering.framings.output_head import language_head
from tempering.streams import torch_stream
from tests.tiny import LENGTH, tiny_backbone

FAMILIES = ("gpt2", "llama", "qwen2")
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-5}
SPLITS = [
    Split([10, 11, 12, 13, 14], [[20], [21, 22], [21, 22, 23], [24]], [0, 0, 0, 0]),
    Split([10, 11, 12, 30, 31, 32, 33], [[20], [25, 26]], [0, 1]),
    Split([10, 11, 12, 40], [[41, 42, 43, 44]], [0]),
]


def backbone_of(family: str) -> Backbone:
    backbone = tiny_backbone(family).eval().requires_grad_(False)
    with torch_stream("head"):
        language_head(backbone)
    return backbone


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """A causal model with its output matrix."""
    return backbone_of(request.param)


@torch.no_grad()
def logits(backbone: Backbone, ids: Sequence[int]) -> Tensor:
    """Plain: one row, one pass, log-probabilities [length, vocabulary]."""
    table: Any = backbone.embeddings.weight
    states = backbone.encode({"input_ids": torch.tensor([list(ids)])}).last[0]
    return language_head(backbone)(states, table)[0].log_softmax(-1)


def plain(backbone: Backbone, found: Split) -> Tensor:
    """One forward pass an answer: the definition."""
    rows = []
    for tail, start in zip(found.tails, found.starts, strict=True):
        logp = logits(backbone, found.context + tail)
        rows.append(sum(logp[len(found.context) + j - 1, tail[j]] for j in range(start, len(tail))))
    return torch.stack(rows)  # type: ignore[arg-type]


@torch.no_grad()
def left_padded(backbone: Backbone, found: Split) -> Tensor:
    """All answers in a batch padded on the left, with positions of their own."""
    rows = [found.context + tail for tail in found.tails]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    states = backbone.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    table: Any = backbone.embeddings.weight
    logp = language_head(backbone)(states, table)[0].log_softmax(-1)
    return torch.stack(
        [
            sum((logp[i, width - len(tail) + j - 1, tail[j]] for j in range(start, len(tail))), torch.zeros(()))
            for i, (tail, start) in enumerate(zip(found.tails, found.starts, strict=True))
        ]
    )


@torch.no_grad()
def test_every_way_gives_the_same_number(backbone: Backbone) -> None:
    prefix = run_prefix(backbone, (10, 11, 12))
    ways = {
        "whole rows": totals(backbone, SPLITS, Prefix(), reuse=False),
        "answers after one pass": totals(backbone, SPLITS, Prefix(), reuse=True),
        "prefix kept": totals(backbone, SPLITS, prefix, reuse=True),
    }
    for i, found in enumerate(SPLITS):
        want = plain(backbone, found)
        torch.testing.assert_close(left_padded(backbone, found), want, **CLOSE)
        for way, values in ways.items():
            torch.testing.assert_close(values[i], want, **CLOSE, msg=lambda text, way=way: f"{way}: {text}")


@torch.no_grad()
def test_one_token_is_its_softmax_entry_and_two_are_two_steps(backbone: Backbone) -> None:
    found = Split([10, 11, 12], [[20], [20, 21]], [0, 0])
    one, two = totals(backbone, [found], Prefix(), reuse=True)[0]
    first, second = logits(backbone, [10, 11, 12]), logits(backbone, [10, 11, 12, 20])
    assert float(one.exp()) == pytest.approx(float(first[-1, 20].exp()), abs=1e-6)
    assert float(two) == pytest.approx(float(first[-1, 20] + second[-1, 21]), abs=1e-5)


@torch.no_grad()
def test_single_tokens_add_up_to_one_over_the_vocabulary(backbone: Backbone) -> None:
    size = len(backbone.embeddings.weight)  # type: ignore[arg-type]
    found = totals(backbone, [Split([10, 11], [[t] for t in range(size)], [0] * size)], Prefix(), reuse=True)[0]
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_a_row_says_the_same_alone_and_in_a_batch(backbone: Backbone) -> None:
    prefix = run_prefix(backbone, (10, 11, 12))
    together = totals(backbone, SPLITS, prefix, reuse=True)
    for alone, found in zip((totals(backbone, [s], prefix, reuse=True)[0] for s in SPLITS), together, strict=True):
        torch.testing.assert_close(alone, found, **CLOSE)


@torch.no_grad()
def test_the_kept_prefix_is_never_written_to(backbone: Backbone) -> None:
    prefix = run_prefix(backbone, (10, 11, 12))
    before = [(k.clone(), v.clone()) for k, v in prefix.layers]
    first = totals(backbone, SPLITS, prefix, reuse=True)
    for (k, v), (old_k, old_v) in zip(prefix.layers, before, strict=True):
        assert torch.equal(k, old_k) and torch.equal(v, old_v)
    for a, b in zip(first, totals(backbone, SPLITS, prefix, reuse=True), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_a_prefix_that_only_begins_like_the_rows_serves_as_far_as_it_goes(backbone: Backbone) -> None:
    longer = run_prefix(backbone, (10, 11, 12, 13, 99))
    for i, values in enumerate(totals(backbone, SPLITS, longer, reuse=True)):
        torch.testing.assert_close(values, plain(backbone, SPLITS[i]), **CLOSE)
    assert longer.cut(0) == Prefix() and longer.cut(2).ids == (10, 11) and longer.cut(2).layers[0][0].shape[2] == 2


def test_gradients_flow_where_nothing_is_kept() -> None:
    backbone = backbone_of("gpt2").requires_grad_(True)
    totals(backbone, SPLITS[:1], Prefix(), reuse=False)[0].sum().backward()
    assert float(backbone.embeddings.weight.grad.abs().sum()) > 0  # type: ignore[union-attr, operator]


def test_answers_that_begin_alike_are_read_once() -> None:
    plan = branches(SPLITS)
    assert plan.fed == [[21, 22], [25], [41, 42, 43]]
    assert plan.of == [0, 1, 2]
    assert plan.answer == [[-1, 0, 0, -1], [-1, 1], [2]]


tokens = st.lists(st.integers(6, 60), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=3)), min_size=1, max_size=3))
@torch.no_grad()
def test_any_contexts_and_answers(backbone: Backbone, drawn: list[tuple[list[int], list[list[int]]]]) -> None:
    splits = [Split([10, 11, *context], tails, [0] * len(tails)) for context, tails in drawn]
    for found, values in zip(splits, totals(backbone, splits, run_prefix(backbone, (10, 11)), reuse=True), strict=True):
        torch.testing.assert_close(values, plain(backbone, found), **CLOSE)


@torch.no_grad()
def test_prefixes_are_remembered_until_a_weight_moves() -> None:
    backbone, kept = backbone_of("llama"), Prefixes()
    first = kept.of(backbone, [10, 11])
    assert kept.of(backbone, [10, 11]) is first
    next(backbone.model.parameters()).add_(0.1)
    again = kept.of(backbone, [10, 11])
    assert again is not first and not torch.equal(again.layers[0][0], first.layers[0][0])
    backbone.requires_grad_(True)  # something may train it: never remembered
    assert kept.of(backbone, [10, 11]) is not kept.of(backbone, [10, 11])
    backbone.requires_grad_(False)
    for i in range(9):
        kept.of(backbone, [10, i])
    assert kept.of(backbone, [10, 11]) is not again  # the oldest makes room


def test_nothing_is_kept_while_training_or_of_a_body_with_additions() -> None:
    backbone, kept = backbone_of("gpt2"), Prefixes()
    assert kept.of(backbone, [10, 11]) == Prefix()  # with gradients on
    with torch.no_grad():
        assert kept.of(backbone, [10, 11]).ids == (10, 11)
        backbone.reserved = 3
        assert not cacheable(backbone) and kept.of(backbone, [10, 11]) == Prefix()
    assert not cacheable(tiny_backbone("bert"))


def test_a_body_whose_cache_cannot_be_taken_back_keeps_nothing(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import DynamicCache

    monkeypatch.setattr(DynamicCache, "is_croppable", property(lambda self: False))
    with torch.no_grad():
        assert run_prefix(backbone, (10, 11)) == Prefix()


@torch.no_grad()
def test_the_greedy_continuation_is_the_models_own(backbone: Backbone) -> None:
    contexts = [[10, 11, 12], [10, 11, 30, 31, 32]]
    found = write(backbone, contexts, run_prefix(backbone, (10, 11)), 5, picker([], sample=False), ends=[])
    for context, mine in zip(contexts, found, strict=True):
        ids = list(context)
        for _ in range(5):
            ids.append(int(logits(backbone, ids)[-1].argmax()))
        assert mine == ids[len(context) :]
    stop = found[0][1]
    cut = write(backbone, contexts[:1], Prefix(), 5, picker([], sample=False), ends=[stop])[0]
    assert cut == found[0][: found[0].index(stop)]


def test_a_drawn_token_follows_the_distribution_and_its_stream() -> None:
    import numpy as np

    logp = torch.tensor([[0.7, 0.2, 0.1]]).log()
    draws = [int(picker([np.random.default_rng(i)], sample=True)(logp)[0]) for i in range(600)]
    assert draws.count(0) / 600 == pytest.approx(0.7, abs=0.06)
    assert draws == [int(picker([np.random.default_rng(i)], sample=True)(logp)[0]) for i in range(600)]
    top = {int(picker([np.random.default_rng(i)], sample=True, top_k=2)(logp)[0]) for i in range(100)}
    assert top == {0, 1}
    cold = {int(picker([np.random.default_rng(i)], sample=True, temperature=0.01)(logp)[0]) for i in range(50)}
    assert cold == {0}


@torch.no_grad()
def test_states_at_the_answer(backbone: Backbone) -> None:
    contexts = [s.context for s in SPLITS]
    kept = answer_states(backbone, contexts, run_prefix(backbone, (10, 11, 12)), reuse=True)
    torch.testing.assert_close(kept, answer_states(backbone, contexts, Prefix(), reuse=False), **CLOSE)
    torch.testing.assert_close(kept, run(backbone, contexts, Prefix()).last, **CLOSE)


@torch.no_grad()
def test_masks_are_read_at_their_places_whatever_the_text_says() -> None:
    backbone = backbone_of("bert")
    mask = backbone.tokenizer.mask_token_id
    blanks = [Blank([2, mask, 20], [21, 3]), Blank([2, 30, 31, 32], [3])]  # a mask typed by the user is no gap
    words = [[40], [41, 42], [43]]
    found = blank_totals(backbone, blanks, words)
    table: Any = backbone.embeddings.weight
    for i, blank in enumerate(blanks):
        for w, word in enumerate(words):
            ids = [*blank.before, *[mask] * len(word), *blank.after]
            states = backbone.encode({"input_ids": torch.tensor([ids])}).last[0]
            logp = language_head(backbone)(states, table)[0].log_softmax(-1)
            want = sum(float(logp[len(blank.before) + j, token]) for j, token in enumerate(word))
            assert float(found[i, w]) == pytest.approx(want, abs=1e-5)
    single = language_head(backbone)(blank_states(backbone, blanks), table)[0].log_softmax(-1)
    torch.testing.assert_close(single[:, 40], found[:, 0], **CLOSE)


def test_small_parts() -> None:
    ids, mask = padded([[1, 2], [3]], torch.device("cpu"))
    assert ids.tolist() == [[1, 2], [3, 0]] and mask.tolist() == [[1, 1], [1, 0]]
    assert shared_ids([[1, 2, 3], [1, 2], [1, 2, 4]]) == [1, 2]
    backbone = tiny_backbone("gpt2")
    assert context_length(backbone) == LENGTH
    backbone.tokenizer.model_max_length = 10**30
    backbone.config.n_positions = 4096
    assert context_length(backbone) == 4096 > backbone.max_length == 512
