"""Which vectors a head reads: pooling over real tokens, layers by number, combination."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tempering.backbone import Encoded
from tempering.contracts import Batch, Example
from tempering.errors import RecipeError
from tempering.framings.head import Head
from tempering.framings.pooling import Pooling, pool
from tests.tiny import FAMILIES, tiny_backbone

HIDDEN = torch.tensor([[[1.0, -1.0], [3.0, -5.0], [2.0, -3.0]], [[4.0, 4.0], [9.0, 9.0], [9.0, 9.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
EXPECTED = {"first": [[1, -1], [4, 4]], "last": [[2, -3], [4, 4]], "mean": [[2, -3], [4, 4]], "max": [[3, -1], [4, 4]]}
UNMASKED = {"first": [[1, -1], [4, 4]], "last": [[2, -3], [9, 9]], "mean": [[2, -3], [22 / 3, 22 / 3]], "max": [[3, -1], [9, 9]]}


@pytest.mark.parametrize("how", EXPECTED)
def test_pool_reads_real_tokens_only(how: str) -> None:
    assert pool(HIDDEN, MASK, how).tolist() == EXPECTED[how]
    assert torch.allclose(pool(HIDDEN, None, how), torch.tensor(UNMASKED[how], dtype=torch.float32))


def test_max_of_negative_values_is_not_the_padding() -> None:
    assert pool(-HIDDEN.abs() - 1, MASK, "max").tolist() == [[-2.0, -2.0], [-5.0, -5.0]]


@pytest.mark.parametrize(("combine", "width"), [("concat", 64), ("mean", 32), ("max", 32)])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_layers_are_hidden_states_counted_from_the_embeddings(
    family: str,
    combine: str,
    width: int,
    task_of: Callable[..., Any],
    batch_of: Callable[[Any, list[Example]], Batch],
    examples: list[Example],
) -> None:
    backbone = tiny_backbone(family).eval()
    module = Head(layers=(1, -1), pool="mean", combine=combine).build(task_of(), backbone).eval()  # type: ignore[arg-type]
    batch = batch_of(module, examples)
    encoded = backbone.encode(batch.inputs, layers=True)
    assert encoded.layers is not None and len(encoded.layers) == 3
    mask = batch.inputs["attention_mask"]
    vectors = torch.stack([pool(encoded.layers[1], mask, "mean"), pool(encoded.last, mask, "mean")])
    expected = {"concat": torch.cat([*vectors], -1), "mean": vectors.mean(0), "max": vectors.amax(0)}[combine]
    features = module.trunk(backbone, batch)
    assert features.shape == (4, width) and torch.allclose(features, expected, atol=1e-6)
    assert module.scores(backbone, batch).only.logits.shape == (1, 4, 3)
    assert module.export_state() is None


def test_layer_zero_is_the_embeddings(
    task_of: Callable[..., Any], batch_of: Callable[[Any, list[Example]], Batch], examples: list[Example]
) -> None:
    backbone = tiny_backbone("bert").eval()
    module = Head(layers=(0,), pool="max").build(task_of(), backbone)
    batch = batch_of(module, examples)
    embedded = backbone.model.embeddings(batch.inputs["input_ids"])
    assert torch.allclose(module.trunk(backbone, batch), pool(embedded, batch.inputs["attention_mask"], "max"), atol=1e-6)


def test_the_top_layer_is_what_the_body_returns() -> None:
    """A body may norm its last state after the top block: hidden states and result then differ there."""
    states = (HIDDEN, HIDDEN + 1, HIDDEN + 2)
    backbone = SimpleNamespace(encode=lambda inputs, layers: Encoded(HIDDEN * 7, states if layers else None, None))
    batch = Batch({"input_ids": MASK, "attention_mask": MASK})
    read = Pooling("first", (1, 2), "concat", 2).read(backbone, batch)  # type: ignore[arg-type]
    assert read.tolist() == [[2, 0, 7, -7], [5, 5, 28, 28]]
    assert Pooling("first", (2,), "concat", 2).read(backbone, batch).tolist() == [[7, -7], [28, 28]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "pool_name", "layers", "how", "resolved"),
    [
        ("bert", "auto", (-1,), "pooler", (2,)),
        ("bert", "pooler", (2,), "pooler", (2,)),
        ("bert", "auto", (1,), "first", (1,)),
        ("bert", "mean", (-3, -1), "mean", (0, 2)),
        ("roberta", "auto", (-1,), "first", (2,)),
        ("gpt2", "auto", (-2,), "last", (1,)),
        ("t5", "auto", (-1,), "mean", (2,)),
    ],
)
def test_auto_and_negative_layers(family: str, pool_name: Any, layers: tuple[int, ...], how: str, resolved: tuple[int, ...]) -> None:
    pooling = Pooling.of(tiny_backbone(family), pool_name, layers, "concat")
    assert (pooling.how, pooling.layers) == (how, resolved)


def test_only_the_familys_own_head_is_exported(task_of: Callable[..., Any]) -> None:
    backbone = tiny_backbone("bert")
    assert Head(pool="pooler").build(task_of(), backbone).export_state() is not None
    assert Head(layers=(2,)).build(task_of(), backbone).export_state() is not None
    assert Head(pool="mean").build(task_of(), backbone).export_state() is None
    assert Head(layers=(1,)).build(task_of(), backbone).export_state() is None


@pytest.mark.parametrize(
    ("family", "head", "message"),
    [
        ("bert", Head(layers=(3,)), r"head.layers=\[3\].* to 2 .*this model has 2 blocks"),
        ("bert", Head(layers=(-4,)), r"found \[-4\]"),
        ("bert", Head(layers=()), "found none"),
        ("bert", Head(pool="pooler", layers=(1,)), "reads the top layer only"),
        ("roberta", Head(pool="pooler"), "has no pooler in use"),
        ("bert", Head(max_length=3), "max_length=3 leaves no room"),
    ],
)
def test_impossible_choices_are_refused(family: str, head: Head, message: str, task_of: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=message):
        head.build(task_of(), tiny_backbone(family))
