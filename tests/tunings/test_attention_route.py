"""Fronts: the formula of attention over a prefix and a text, masks, rows of their own, and what is left of it afterwards."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tempering.errors import ModelError
from tempering.streams import torch_stream
from tempering.tunings.attention_route import ROUTES, Front, attend, attention_layers, joined, recording, route, unroute, widened
from tests.tiny import FAMILIES, tiny_backbone
from tests.tunings.shared import inputs, states

REFUSED = ("mpnet", "deberta-v2")
SERVED = [family for family in FAMILIES if family not in REFUSED]
ROWS, HEADS, P, LENGTH, WIDE = 2, 4, 3, 5, 8


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape)


def _by_hand(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v over the allowed keys, as [rows, queries, heads, width]."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("rhqd,rhkd->rhqk", q, k) / q.shape[-1] ** 0.5
    scores = scores if bias is None else scores + bias
    weights = scores.masked_fill(~allowed, -torch.inf).exp()
    return torch.einsum("rhqk,rhkd->rqhd", weights / weights.sum(-1, keepdim=True), v)


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize("case", ["plain", "padded", "float", "causal", "biased", "some unseen", "one query"])
def test_attention_runs_over_the_front_and_the_text(case: str, kv_heads: int) -> None:
    with torch_stream("route", case):
        queries = 1 if case == "one query" else LENGTH
        q, k, v = _draw(ROWS, HEADS, queries, WIDE), _draw(ROWS, kv_heads, LENGTH, WIDE), _draw(ROWS, kv_heads, LENGTH, WIDE)
        front = Front(_draw(1, kv_heads, P, WIDE), _draw(1, kv_heads, P, WIDE))
        bias = _draw(1, HEADS, LENGTH, LENGTH) if case == "biased" else None
    text, mask = torch.ones(ROWS, 1, queries, LENGTH, dtype=torch.bool), None
    if case in ("padded", "float"):
        text[1, ..., -2:] = False
        mask = text if case == "padded" else torch.zeros(text.shape).masked_fill(~text, torch.finfo(torch.float32).min)
    if case == "causal":
        text = text.tril()
    seen = torch.ones(ROWS, P, dtype=torch.bool)
    if case == "some unseen":
        seen[0, 1:] = False
        front = front._replace(mask=seen)
    module: Any = SimpleNamespace(is_causal=case in ("causal", "one query"), num_key_value_groups=HEADS // kv_heads)
    found, _ = attend(module, q, k, v, mask, prefix=front, position_bias=bias)
    allowed = torch.cat([seen[:, None, None].expand(ROWS, 1, queries, P), text], -1)
    keys, values = (torch.cat([f.expand(ROWS, -1, -1, -1), x], 2) for f, x in ((front.keys, k), (front.values, v)))
    wide = None if bias is None else torch.cat([torch.zeros(1, HEADS, LENGTH, P), bias], -1)
    torch.testing.assert_close(found, _by_hand(q, keys, values, allowed, wide), rtol=1e-4, atol=1e-5)


def test_where_everyone_sees_everything_there_is_no_mask() -> None:
    front = Front(torch.zeros(1, 1, P, 2), torch.zeros(1, 1, P, 2))
    assert widened(None, front, LENGTH, LENGTH, causal=False) is None
    causal = widened(None, front, 2, LENGTH, causal=True)  # two new queries after three that are kept: the last sees all
    assert causal is not None and causal[0, 0].int().tolist() == [[1] * P + [1, 1, 1, 1, 0], [1] * (P + LENGTH)]


def test_rows_with_fronts_of_their_own_see_those_alone() -> None:
    """No front, a short and a long one in one batch: each row as if it ran by itself."""
    with torch_stream("joined"):
        q, k, v = (_draw(4, HEADS, LENGTH, WIDE) for _ in range(3))
        short, long = (Front(_draw(1, HEADS, n, WIDE), _draw(1, HEADS, n, WIDE)) for n in (1, 4))
    module: Any = SimpleNamespace(is_causal=False)
    fronts, counts = (long, None, short), (1, 1, 2)
    together, _ = attend(module, q, k, v, None, prefix=joined(fronts, counts))
    start = 0
    for front, count in zip(fronts, counts, strict=True):
        rows = slice(start, start + count)
        alone, _ = attend(module, q[rows], k[rows], v[rows], None, prefix=front)
        torch.testing.assert_close(together[rows], alone, rtol=1e-5, atol=1e-6)
        start += count


@pytest.mark.parametrize("family", SERVED)
def test_a_routed_body_without_fronts_is_the_body(family: str) -> None:
    backbone = tiny_backbone(family)
    own, before, print_ = backbone.config._attn_implementation, states(backbone), backbone.fingerprint()
    route(backbone, "prefix_tuning")
    assert backbone.config._attn_implementation == ROUTES[own]
    assert torch.equal(states(backbone), before) and backbone.fingerprint() == print_
    other = copy.deepcopy(backbone)
    route(backbone, "prefix_tuning")  # a second one changes nothing
    unroute(backbone)
    unroute(backbone)
    assert backbone.config._attn_implementation == own and other.config._attn_implementation == ROUTES[own]
    unroute(other)  # what to go back to travels with a copy
    assert other.config._attn_implementation == own


@pytest.mark.parametrize("family", REFUSED)
def test_families_without_a_function_to_replace_are_refused_by_name(family: str) -> None:
    with pytest.raises(ModelError, match=f"prefix_tuning cannot serve the {family} family.*use prompt_tuning"):
        attention_layers(tiny_backbone(family), "prefix_tuning")


@pytest.mark.parametrize("kind", ["flex_attention", None])
def test_another_attention_than_those_known_is_refused(kind: str | None) -> None:
    backbone = tiny_backbone("bert")
    backbone.config._attn_implementation_internal = kind
    with pytest.raises(ModelError, match=f"attention .{kind}. cannot be replaced.*sdpa"):
        route(backbone, "prefix_tuning")


@pytest.mark.parametrize("family", ["bert", "albert", "llama"])
def test_recording_collects_a_pair_for_every_call(family: str) -> None:
    backbone = tiny_backbone(family)
    route(backbone, "prefix_tuning")
    given = inputs(backbone)
    with recording(attention_layers(backbone, "prefix_tuning")) as seen:
        states(backbone)
    states(backbone)
    heads = 1 if family == "llama" else 2
    assert [tuple(x.shape) for pair in seen for x in pair] == [(2, heads, given["input_ids"].shape[1], 16)] * 4
    key = backbone.layout.key
    first = backbone.model.get_submodule(f"{backbone.layout.blocks}.0.{key}")
    if family == "bert":
        embedded = backbone.model.embeddings(given["input_ids"], given["token_type_ids"])
        torch.testing.assert_close(seen[0][0], first(embedded).view(2, -1, 2, 16).transpose(1, 2))
