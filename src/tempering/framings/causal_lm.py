"""Causal language modeling: a decoder's own task, on the user's texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tempering.contracts import Batch, Example, Prediction, Prompt, RowForm, Scores, Slab
from tempering.errors import ModelError
from tempering.framings.hidden.packing import Packing, segmented, sizes_of, unpacked
from tempering.framings.lm_head import drawn_note, read_rows
from tempering.framings.module import FramingBase
from tempering.framings.output_head import ensure_output_head, output_matrix
from tempering.framings.text import TextEncoder, pad, tensors

if TYPE_CHECKING:
    from tempering.backbone import Backbone

HELD = 1 << 26  # logits over the vocabulary that are held at once (a quarter of a gigabyte); more are computed in chunks


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CausalLM:
    """Continues a decoder's own pretraining: trains to name each token of the texts from those before it. Labels are not read.

    Paper: Howard and Ruder 2018 (language-model fine-tuning on the target text); Radford et al. 2019; Gururangan et al. 2020 (DAPT, TAPT).
    Formula: for each text x_1 .. x_n: loss = mean over all tokens t > 1 of - log softmax(h_(t-1) E^T + b)[x_t], h [tokens, dim] the last
    hidden states, E [vocabulary, dim] the output matrix; perplexity = exp(loss).
    Needs: a decoder, such as gpt2 or llama.
    Costs: one pass, and a vocabulary of logits for every token. Where those of a micro-batch are more than 67 million numbers they are
    computed in chunks, and again in the backward pass: a third more time in the output matrix, and no memory.
    Differs: a text ends with the end token, where the tokenizer has one, and the pieces of a long text do not. ``packed`` fills rows of
    ``max_length`` with several texts, each with its own positions and attention to itself alone (GPT-2 let them see each other), where
    the family can do that.

    Its scores hold no logits of the vocabulary but, for each token, its log-likelihood and the mean of log p over the vocabulary, which
    label smoothing reads: methods that compare whole distributions (r_drop, r3f ...) cannot steady it.
    """

    max_length: Annotated[int, Field(ge=2)] | None = None
    packed: bool = False

    supervised: ClassVar[bool] = False
    shards: ClassVar[bool] = True
    running: ClassVar[bool] = True
    whole_scores: ClassVar[bool] = False

    def build(self, task: Any, backbone: Backbone) -> CausalLMModule:
        """The module for ``backbone``, whose output matrix is put in place. A model that does not write from left to right is refused."""
        if backbone.layout.kind != "decoder":
            raise ModelError(
                f"causal_lm cannot serve {backbone.source} ({backbone.layout.family}): it sees what follows a token, so that predicting it"
                " means nothing; take framing masked_lm for it, or a decoder such as gpt2"
            )
        note = drawn_note(backbone, ensure_output_head)
        ensure_output_head(backbone).requires_grad_(True)  # a tuning freezes the whole backbone, the head of an earlier stage with it
        module = CausalLMModule(self, backbone)
        module.notes += note
        return module


class CausalLMModule(FramingBase):
    """`CausalLM` at run time. It has no weights of its own: the output matrix is the backbone's (``backbone.lm_head``)."""

    smooths = True
    reads_lm_head = True
    form = "text"

    def __init__(self, framing: CausalLM, backbone: Backbone) -> None:
        super().__init__()
        self.text = TextEncoder.of(backbone, framing.max_length)
        self.pad_id = int(backbone.tokenizer.pad_token_id or 0)
        wrapping, end = self.text.wrapping, backbone.tokenizer.eos_token_id
        self.before, self.closing = wrapping.before, wrapping.after or (() if end is None else (int(end),))
        self.added = len(wrapping.after)  # special tokens that the tokenizer puts after a text itself
        self.packing = Packing.of(backbone, self.text.length) if framing.packed else None
        if framing.packed and self.packing is None:
            self.notes = (unpacked(backbone),)

    @property
    def row_form(self) -> RowForm:
        """How it wants running text."""
        return RowForm(self.text.length, self.before, packed=self.packing is not None, closing=self.closing)

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One prompt an example, closed by the end token where it fits."""
        found = []
        for encoding in self.text.encode(examples):
            ids = [*encoding.ids[: len(encoding.ids) - self.added], *self.closing]
            found.append([Prompt(ids[: self.text.length])])
        return found

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Every token but the first of its text is a target; ``positions`` [tokens] are of those before, in the flattened batch."""
        arrays = pad(prompts, self.pad_id)
        ids = arrays["input_ids"]
        marks = segmented(sizes_of(prompts), ids.shape[1])
        segments = marks["segments"].numpy()
        told = np.zeros(ids.shape, np.bool_)
        told[:, :-1] = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)
        positions = np.flatnonzero(told)
        counts = torch.from_numpy(told.sum(1))
        if not len(positions):  # texts of one token: the first asks for itself, so that the loss exists
            positions, counts[0] = np.zeros(1, np.int64), 1
            targets = ids.reshape(-1)[:1]
        else:
            targets = ids.reshape(-1)[positions + 1]
        extra = {"positions": torch.from_numpy(positions), "counts": counts}
        if self.packing is not None:
            arrays.pop("attention_mask", None)
            extra |= marks
        return Batch(tensors(arrays), torch.from_numpy(targets), extra=extra)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Hidden states from which a token is predicted [tokens, dim]."""
        hidden = backbone.encode(batch.inputs).last if self.packing is None else self.packing.hidden(backbone, batch)
        return hidden.flatten(0, 1)[batch.extra["positions"]]

    def trunk_key(self) -> str:
        """The length of rows."""
        return f"causal_lm max_length={self.text.length} packed={self.packing is not None}"

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: [1, tokens, 2], the log-likelihood of each token and the mean of log p over the vocabulary."""
        assert batch.targets is not None  # `collate` always makes them
        head = ensure_output_head(backbone)
        matrix = output_matrix(head, backbone)
        found = log_likelihoods(head.features(self.trunk(backbone, batch)), matrix, head.bias, batch.targets)
        return Scores((Slab(found.unsqueeze(0), batch.targets, None, None, "classification", batch.task, batch.extra["counts"]),))

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Minus the mean log-likelihood of a token; smoothed in training mode only."""
        told, flat = scores.only.logits[0].float().mean(0).unbind()
        share = self.smoothing if self.training else 0.0
        return -((1 - share) * told + share * flat) if share else -told

    def decode(self, scores: Scores) -> list[Prediction]:
        """The perplexity of each text."""
        slab = scores.only
        assert slab.sizes is not None  # `scores` always says them
        parts = slab.logits[0, :, 0].detach().float().split(slab.sizes.tolist())
        return [Prediction(math.exp(-float(part.mean())) if len(part) else math.nan) for part in parts]


def log_likelihoods(features: Tensor, matrix: Any, bias: Any, targets: Tensor, held: int = HELD) -> Tensor:
    """[tokens, 2]: log p(target) and the mean of log p over the vocabulary, where p = softmax(features matrix^T + bias).

    No more than ``held`` logits are in memory at once. Weights are handed in as they are now, since a chunk is computed a second time when
    gradients are, and by then others may stand in their place (DESIGN, leak 1).
    """
    rows = max(1, held // len(matrix))
    if len(features) <= rows:
        return _told(features, matrix, bias, targets)
    parts = zip(features.split(rows), targets.split(rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_told(part, matrix, bias, mine) for part, mine in parts])
    again: Any = [checkpoint(_told, part, matrix, bias, mine, use_reentrant=False, preserve_rng_state=False) for part, mine in parts]
    return torch.cat(again)


def _told(features: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = read_rows(features, matrix, bias, None).float()
    total = logits.logsumexp(-1)
    told = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.stack([told - total, logits.mean(-1) - total], -1)
