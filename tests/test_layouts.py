"""The table of architectures against the models themselves: every path in every row exists where the row says."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from tempering.errors import ModelError
from tempering.layouts import LAYOUTS, HeadSpec, Layout, layout_of
from tempering.streams import torch_stream
from tests.tiny import FAMILIES, GATED, tiny_config, tiny_model

INNER = ("query", "key", "value", "attention_out", "attention_output", "ffn_in", "ffn_out", "ffn_output")
MAPS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
WITH_HEAD = [f for f in FAMILIES if LAYOUTS[f].head is not None]
WITH_LM = [f for f in FAMILIES if LAYOUTS[f].lm is not None]


def _head(family: str) -> HeadSpec:
    head = LAYOUTS[family].head
    assert head is not None
    return head


@pytest.mark.parametrize("family", [*FAMILIES, *GATED])
def test_every_place_exists_in_every_block(family: str) -> None:
    layout, model = layout_of(tiny_config(family)), tiny_model(family)
    blocks = list(model.get_submodule(layout.blocks))
    assert len(blocks) == (1 if layout.shared_blocks else 2)
    for block in blocks:
        for place in INNER:
            module = block.get_submodule(getattr(layout, place))
            assert place not in MAPS or isinstance(module, nn.Linear | Conv1D)
    assert model.get_submodule(layout.embeddings).weight is model.get_input_embeddings().weight


def test_a_wrong_path_would_be_noticed() -> None:
    with pytest.raises(AttributeError):
        tiny_model("bert").encoder.layer[0].get_submodule(LAYOUTS["roberta"].query.replace("self", "attn"))


@pytest.mark.parametrize("family", WITH_HEAD)
def test_the_head_is_where_the_familys_classifier_keeps_it(family: str) -> None:
    head = _head(family)
    config = tiny_config(family)
    config.num_labels = 3
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    final = model.get_submodule(head.final)
    assert final.weight.shape == (3, 32) and (final.bias is not None) == head.bias
    body = model.get_submodule(head.body)
    own = {n for n, _ in model.named_parameters() if not n.startswith(f"{head.body}.")}
    named = [p for p in (head.dense, head.norm, head.final) if p]
    assert {n.rpartition(".")[0] for n in own} == set(named)  # nothing of the head is left unnamed
    assert (getattr(body, "pooler", None) is not None) == (head.pool == "pooler")
    fields = [f for f in (*head.dropout, *head.input_dropout) if hasattr(config, f)]
    assert fields or not head.dropout


@pytest.mark.parametrize("family", WITH_HEAD)
def test_the_body_of_the_classifier_takes_the_bodys_weights(family: str) -> None:
    """So that what is trained on a body loads onto the classifier: equal names below ``head.body``."""
    head, body = _head(family), tiny_model(family)
    if head.pool != "pooler" and getattr(body, "pooler", None) is not None:
        body.pooler = None
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(tiny_config(family))
    assert set(model.get_submodule(head.body).state_dict()) == set(body.state_dict())


@pytest.mark.parametrize("family", WITH_LM)
def test_the_language_model_head_is_where_the_row_says(family: str) -> None:
    spec = LAYOUTS[family].lm
    assert spec is not None
    with torch_stream("lm"):
        model = transformers.AutoModelForMaskedLM.from_config(tiny_config(family))
    dense, names = model.get_submodule(spec.dense), set(model.state_dict())
    embedding = model.get_input_embeddings().weight
    assert dense.weight.shape[0] == embedding.shape[1]
    assert model.get_submodule(spec.norm).weight.shape == (embedding.shape[1],)
    assert spec.bias in names and model.state_dict()[spec.bias].shape == (embedding.shape[0],)


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet", "gpt2", "llama", "t5", "albert", "modernbert"])
def test_the_sub_layers_result_is_what_is_added_to_the_residual(family: str) -> None:
    """Both ``*_output`` places see hidden width, once a block and depth, and what they return reaches the block's result."""
    layout, model = LAYOUTS[family], tiny_model(family)
    ids = torch.tensor([[8, 9, 10, 11]])
    block = next(iter(model.get_submodule(layout.blocks)))
    with torch.no_grad():
        plain = model(ids).last_hidden_state
        for place in ("attention_output", "ffn_output"):
            shapes: list[tuple[int, ...]] = []

            def change(_m: nn.Module, _a: Any, out: torch.Tensor, shapes: list[tuple[int, ...]] = shapes) -> torch.Tensor:
                shapes.append(tuple(out.shape))
                return out + torch.linspace(-1, 1, 32)

            handle = block.get_submodule(getattr(layout, place)).register_forward_hook(change)
            changed = model(ids).last_hidden_state
            handle.remove()
            assert shapes == [(1, 4, 32)] * (2 if layout.shared_blocks else 1)
            assert float((changed - plain).abs().max()) > 1e-3


def test_position_offset_is_the_rows_the_position_table_loses() -> None:
    for family in FAMILIES:
        config = tiny_config(family)
        offset = LAYOUTS[family].position_offset
        model = tiny_model(family)
        if not getattr(config, "max_position_embeddings", None) or LAYOUTS[family].kind == "decoder":
            continue
        longest = torch.full((1, config.max_position_embeddings - offset), 8)
        assert model(longest).last_hidden_state.shape[1] == 64


@pytest.mark.parametrize("name", ["T5Config", "MT5Config"])
def test_whether_a_gate_is_there_is_read_from_the_configuration(name: str) -> None:
    """T5 1.1, flan-t5 and T0 call themselves t5 as the first T5 does."""
    for proj, named in (("relu", "wi"), ("gated-gelu", "wi_1"), ("gated-silu", "wi_1")):
        config = getattr(transformers, name)(feed_forward_proj=proj)
        row, plain = layout_of(config), LAYOUTS[config.model_type]
        assert row.ffn_in == f"layer.1.DenseReluDense.{named}" and row.decoder is not None and plain.decoder is not None
        assert row.decoder.places == {**plain.decoder.places, "ffn_in": (f"layer.2.DenseReluDense.{named}",)}
        assert dataclasses.replace(row, ffn_in=plain.ffn_in, decoder=plain.decoder) == plain


def test_rows_are_known_by_their_own_name_and_frozen() -> None:
    assert all(name == row.family for name, row in LAYOUTS.items())
    assert set(FAMILIES) <= set(LAYOUTS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        LAYOUTS["bert"].blocks = "x"  # type: ignore[misc]


def test_an_unknown_family_gets_an_empty_row_that_refuses_with_what_still_works() -> None:
    row = layout_of(SimpleNamespace(model_type="fnet"))
    assert row == Layout("fnet")
    row.require("full")
    with pytest.raises(ModelError, match=r"houlsby .*'fnet'.*its blocks, attention output, and .*full and frozen.*layouts\.py"):
        row.require("houlsby", "blocks", "attention_output")


def test_a_reason_in_the_row_is_the_message() -> None:
    with pytest.raises(ModelError, match="top_layers cannot serve the albert family: its blocks share one set"):
        LAYOUTS["albert"].require("top_layers", "blocks")
    LAYOUTS["albert"].require("lora", "blocks", "query")


@pytest.mark.parametrize("family", [f for f in (*FAMILIES, *GATED) if LAYOUTS[f].decoder is not None])
def test_every_place_exists_in_every_block_of_a_decoder(family: str) -> None:
    """Self-attention before cross-attention; what hangs at a place is called once in a pass over the target."""
    layout, model = layout_of(tiny_config(family)), tiny_model(family, loader="AutoModel")
    assert layout.decoder is not None
    assert set(layout.decoder.places) == {place for place in (*INNER, "ffn_norm") if getattr(layout, place)}
    ids, called = torch.tensor([[8, 9, 10, 11]]), []
    for block in model.get_submodule(layout.decoder.blocks):
        for place, paths in layout.decoder.places.items():
            assert len(paths) == (1 if place.startswith("ffn") else 2)
            for path in paths:
                module = block.get_submodule(path)
                assert place not in MAPS or isinstance(module, nn.Linear)
                module.register_forward_hook(lambda _m, args, _out, path=path: called.append((path, args[0].shape[1])))
    with torch.no_grad():
        model(input_ids=torch.tensor([[8, 9, 10, 11, 12, 13]]), decoder_input_ids=ids)
    lengths = {path: sorted(length for found, length in called if found == path) for path, _ in called}
    crossed = [path for place in ("key", "value") for path in layout.decoder.places[place][1:]]
    for paths in layout.decoder.places.values():
        for path in paths:
            times = sum(path in others for others in layout.decoder.places.values())
            assert lengths[path] == [6 if path in crossed else 4] * 2 * times  # cross-attention reads its keys from the source
    assert type(model.get_submodule(layout.decoder.reader)) is not None and layout.blocks.startswith(f"{layout.decoder.reader}.")


@pytest.mark.parametrize("family", [f for f in (*FAMILIES, *GATED) if LAYOUTS[f].output is not None])
def test_the_output_matrix_is_where_the_class_that_generates_keeps_it(family: str) -> None:
    spec = LAYOUTS[family].output
    assert spec is not None
    auto = transformers.AutoModelForSeq2SeqLM if LAYOUTS[family].decoder else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(tiny_config(family))
    names = set(model.state_dict())
    assert spec.weight in names and (not spec.bias or spec.bias in names)
    assert model.get_output_embeddings().weight.shape == model.state_dict()[spec.weight].shape
