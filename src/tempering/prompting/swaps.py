"""A swap of one token of a prompt: which tokens may come in, which of them promise most, and where the gradient is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tempering.backbone import Backbone
from tempering.framings.verbalizers.words import RESERVED, WordCoder


def proposals(table: Tensor, gradient: Tensor, current: int, banned: Tensor, count: int) -> Tensor:
    """The ``count`` tokens that lower the loss most to first order: largest -(E_e . g); neither ``banned`` ones nor the ``current``."""
    gain = -(table.float().cpu() @ gradient)
    gain[banned] = -torch.inf
    gain[current] = -torch.inf
    best = gain.topk(min(count, len(gain)))
    return best.indices[best.values > -torch.inf]


def forbidden(coder: WordCoder, words: Sequence[Sequence[int]], lower_case: bool = False) -> Tensor:
    """Special and reserved tokens, label words, and with ``lower_case`` capitalized ones."""
    special = {*coder.tokenizer.all_special_ids, *(i for row in words for i in row)}
    odd = [i for i, t in enumerate(coder.tokens) if i in special or not t or RESERVED.fullmatch(t)]
    odd += [i for i in coder.initial if lower_case and coder.word(i)[:1].isupper()]
    return torch.tensor(sorted(set(odd)), dtype=torch.int64)


@contextmanager
def seen_embeddings(backbone: Backbone) -> Iterator[Any]:
    """While open, token embeddings are leaves with gradient; what is given says the last of them."""
    kept: list[Tensor] = []

    def lay(_module: Any, _args: Any, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_())
        return kept[-1]

    handle = backbone.embeddings.register_forward_hook(lay)
    try:
        yield lambda: kept[-1]
    finally:
        handle.remove()
