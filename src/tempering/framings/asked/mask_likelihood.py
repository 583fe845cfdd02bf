"""Log-likelihoods of answers under a model that fills masks: as many masks as an answer has tokens, read in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tempering.framings.asked.left_to_right import padded
from tempering.framings.output_head import language_head

if TYPE_CHECKING:
    from tempering.backbone import Backbone


class Blank(NamedTuple):
    """A prompt with one gap: ids before and after it, special tokens placed."""

    before: list[int]
    after: list[int]

    def filled(self, masks: int, mask: int) -> list[int]:
        """The ids with ``masks`` mask tokens in the gap."""
        return [*self.before, *[mask] * masks, *self.after]


def blank_totals(backbone: Backbone, blanks: Sequence[Blank], words: Sequence[Sequence[int]]) -> Tensor:
    """log P(word | prompt) of every word in every gap [blanks, words].

    Formula: for a word of n tokens the gap holds n masks and the score is sum_j log P(y_j | masks) at them, all from one pass: the order
    "parallel" of PET's multi-token verbalizers. One pass over the rows for each different n.
    """
    mask = int(backbone.tokenizer.mask_token_id)
    sizes = sorted({len(word) for word in words})
    ids, real = padded([blank.filled(n, mask) for n in sizes for blank in blanks], next(backbone.model.parameters()).device)
    inputs = {"input_ids": ids} if bool(real.all()) else {"input_ids": ids, "attention_mask": real}
    states = backbone.encode(inputs).last
    table = backbone.table
    columns: list[Tensor] = [torch.empty(0)] * len(words)
    for group, n in enumerate(sizes):
        rows = states[group * len(blanks) : (group + 1) * len(blanks)]
        first = torch.tensor([len(blank.before) for blank in blanks], device=ids.device)
        at = first[:, None] + torch.arange(n, device=ids.device)
        gaps = rows[torch.arange(len(blanks), device=ids.device)[:, None], at]
        logp = language_head(backbone)(gaps, table)[0].float().log_softmax(-1)
        for w, word in enumerate(words):
            if len(word) == n:
                chosen = torch.tensor(list(word), device=ids.device)
                columns[w] = logp[:, torch.arange(n, device=ids.device), chosen].sum(-1)
    return torch.stack(columns, -1)


def blank_states(backbone: Backbone, blanks: Sequence[Blank]) -> Tensor:
    """The last states [blanks, dim] at a single mask in each gap."""
    mask = int(backbone.tokenizer.mask_token_id)
    ids, real = padded([blank.filled(1, mask) for blank in blanks], next(backbone.model.parameters()).device)
    inputs = {"input_ids": ids} if bool(real.all()) else {"input_ids": ids, "attention_mask": real}
    states = backbone.encode(inputs).last
    return states[torch.arange(len(blanks), device=ids.device), torch.tensor([len(b.before) for b in blanks], device=ids.device)]
