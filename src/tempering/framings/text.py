"""Texts to token ids and back to padded tensors: the tokenizing and padding that framings share."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Example, Prompt
from tempering.errors import DataError, RecipeError
from tempering.framings.wrapping import Wrapping, filler

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Truncation = Literal["head", "tail", "head+tail"]
HEAD_TOKENS = 128  # Sun et al. 2019, section 5.3.1: the first 128 tokens and as many of the last as fit


class Encoding(NamedTuple):
    """Token ids, token types (None where the model reads none), and, if asked for, each token's word (-1: a special token)."""

    ids: list[int]
    types: list[int] | None
    words: list[int] | None


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer with the length and the truncation that a framing chose.

    ``length`` counts special tokens. A single text that is too long keeps its head, its tail, or its first 128 tokens and the rest
    from its end; of a pair the longer text always loses its last tokens first. ``types`` tells whether pairs carry token types,
    ``words`` whether to number the words of each text.
    """

    tokenizer: Any
    length: int
    truncation: Truncation = "head"
    types: bool = False
    words: bool = False

    @classmethod
    def of(cls, backbone: Backbone, max_length: int | None, truncation: Truncation = "head", words: bool = False) -> TextEncoder:
        """The encoder for ``backbone``; a ``max_length`` with no room for text is a `RecipeError`."""
        length = min(max_length or backbone.max_length, backbone.max_length)
        least = 1 + int(backbone.tokenizer.num_special_tokens_to_add(pair=True))
        if length < least:
            raise RecipeError(f"max_length={length} leaves no room for text beside the special tokens; give at least {least}")
        if words and (truncation != "head" or not backbone.tokenizer.is_fast):
            raise RecipeError(
                "whole words need a fast tokenizer (one with a tokenizer.json) and truncation=head; mask single tokens instead"
            )
        return cls(backbone.tokenizer, length, truncation, reads_types(backbone), words)

    def encode(self, examples: Sequence[Example]) -> list[Encoding]:
        """Token ids, and token types of pairs, of each example, in bulk. An example holds one text or two, else a `DataError`."""
        done: list[Encoding | None] = [None] * len(examples)
        for count in sorted({len(e.texts) for e in examples}):
            rows = [i for i, e in enumerate(examples) if len(e.texts) == count]
            chosen = [examples[i].texts for i in rows]
            if count not in (1, 2):
                raise DataError(f"row {examples[rows[0]].row}: expected one text or a pair of texts, found {count}")
            for i, encoding in zip(rows, self._tokenize(chosen), strict=True):
                done[i] = encoding
        return [e for e in done if e is not None]

    def _tokenize(self, texts: list[tuple[str, ...]]) -> Iterator[Encoding]:
        """Texts of the same count: all singles, or all pairs."""
        pairs = len(texts[0]) == 2
        cut = pairs or self.truncation == "head"
        options = {"truncation": "longest_first", "max_length": self.length} if cut else {"truncation": False, "verbose": False}
        columns = [list(column) for column in zip(*texts, strict=True)]
        types = pairs and self.types
        out = self.tokenizer(*columns, return_attention_mask=False, return_token_type_ids=types, **options)
        shorten = None if cut else self._shortener()
        for i, row in enumerate(out["input_ids"]):
            kept = row if shorten is None or len(row) <= self.length else shorten(row)
            if kept:
                yield Encoding(kept, out["token_type_ids"][i] if types else None, _words(out, i) if self.words else None)
            else:
                yield Encoding([filler(self.tokenizer)], None, [-1] if self.words else None)

    @property
    def wrapping(self) -> Wrapping:
        """The special tokens before and after a single text."""
        return Wrapping.of(self.tokenizer)

    def _shortener(self) -> Any:
        """Row of ids -> row of ``length`` ids with the special tokens at both ends kept."""
        wrapping = self.wrapping
        before, after = len(wrapping.before), len(wrapping.after)
        budget = self.length - before - after
        head = min(HEAD_TOKENS, budget // 2) if self.truncation == "head+tail" else 0

        def shorten(row: list[int]) -> list[int]:
            end = len(row) - after
            return row[: before + head] + row[end - (budget - head) : end] + row[end:]

        return shorten


def _words(out: Any, row: int) -> list[int]:
    """The number of the word each token of a row belongs to, over both texts of a pair; -1 for special tokens."""
    numbers: list[int] = []
    count, last = -1, None
    for key in zip(out.sequence_ids(row), out.word_ids(row), strict=True):
        count += key[1] is not None and key != last
        numbers.append(count if key[1] is not None else -1)
        last = key
    return numbers


def reads_types(backbone: Backbone) -> bool:
    """Whether tokenizer and body both know token types, and the body has more than one."""
    known = "token_type_ids" in backbone.tokenizer.model_input_names
    return (
        known
        and (getattr(backbone.config, "type_vocab_size", 0) or 0) > 1
        and ("token_type_ids" in inspect.signature(backbone.model.forward).parameters)
    )


def pad(prompts: Sequence[Prompt], pad_id: int) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    """Prompts padded on the right to the longest: ``input_ids`` [rows, length] with, only where needed, ``attention_mask``
    (something is padded) and ``token_type_ids`` (some prompt has them).
    """
    lengths = np.fromiter((len(p.input_ids) for p in prompts), np.int64, len(prompts))
    total, shape = int(lengths.sum()), (len(prompts), int(lengths.max()))
    real = np.arange(shape[1]) < lengths[:, None]
    ids = np.full(shape, pad_id, np.int64)
    ids[real] = np.fromiter(chain.from_iterable(p.input_ids for p in prompts), np.int64, total)
    inputs = {"input_ids": ids}
    if total < ids.size:
        inputs["attention_mask"] = real.astype(np.int64)
    if any(p.token_type_ids is not None for p in prompts):
        types = np.zeros(shape, np.int64)
        types[real] = np.fromiter(chain.from_iterable(p.token_type_ids or [0] * len(p.input_ids) for p in prompts), np.int64, total)
        inputs["token_type_ids"] = types
    return inputs


def tensors(arrays: dict[str, np.ndarray[Any, np.dtype[np.int64]]]) -> dict[str, Tensor]:
    """The same arrays as tensors that share their memory."""
    return {name: torch.from_numpy(a) for name, a in arrays.items()}
