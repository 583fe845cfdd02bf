"""A pretrained model from its configuration alone: shapes without content, with its real tokenizer and length limit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch

from tempering.backbone import Backbone
from tempering.contracts import Example
from tempering.layouts import layout_of
from tempering.pretrained import body_class, loaded, locate, outline_whole, quiet, tokenizer_of
from tempering.quantizing import checked


def outline(source: str, quantize: str | None = None) -> Backbone:
    """``source`` as a backbone whose weights have shapes and no content; its tokenizer and length limit are real.

    It knows where its checkpoint is, so that what is asked of it tells which heads are stored there. With ``quantize`` it says so, and its
    matrices are whole: there is nothing to pack.
    """
    import transformers

    method, where = checked(quantize), locate(source)
    with quiet():
        config = loaded(transformers.AutoConfig.from_pretrained, where)
        tokenizer = tokenizer_of(where)
        auto, options = body_class(config, layout_of(config))
        whole = partial(outline_whole, copy.deepcopy(config)) if layout_of(config).decoder else None  # building an encoder marks it so
        with torch.device("meta"):
            model = auto.from_config(config, dtype=torch.float32, **options)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    backbone = Backbone(model, tokenizer, source, where, whole)
    backbone.quantized = method
    return backbone


def token_lengths(backbone: Backbone, examples: Sequence[Example]) -> list[int]:
    """Tokens of each example, special tokens counted, uncut."""
    if not examples:
        return []
    columns = [[e.texts[i] for e in examples] for i in range(len(examples[0].texts))]
    with quiet():
        return [len(ids) for ids in backbone.tokenizer(*columns, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]]
