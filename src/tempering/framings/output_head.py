"""The output matrix of a model that writes text: tied to the embeddings, read from its checkpoint, or drawn fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempering.framings.initial import draw
from tempering.framings.lm_head import LMHead, ensure_lm_head, stored_tensors
from tempering.layouts import OutputSpec

if TYPE_CHECKING:
    from tempering.backbone import Backbone

GENERIC = OutputSpec()  # names for a family that has no row


class OutputHead(nn.Module):
    """Hidden states -> logits over the vocabulary, by the embeddings transposed (tied) or a matrix of its own, plus a bias if any.

    As `LMHead` it is handed the embedding matrix [vocabulary, width] at each call, so that the two stay tied whatever happens to
    either. ``scale`` multiplies the hidden states first. ``fresh`` tells that weights were drawn and not read.
    """

    def __init__(self, config: Any, vocabulary: int, width: int, spec: OutputSpec) -> None:
        super().__init__()
        tied = bool(getattr(config, "tie_word_embeddings", True))
        self.scale = width**-0.5 if spec.scaled and tied else 1.0
        self.own = None if tied else nn.Linear(width, vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary)) if spec.bias else None
        self.fresh = not tied
        if self.own is not None:
            draw(self.own, config)

    def forward(self, hidden: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [..., width] -> logits [..., vocabulary] and what the matrix read."""
        features = hidden if self.scale == 1.0 else hidden * self.scale
        return F.linear(features, embeddings if self.own is None else self.own.weight, self.bias), features


def ensure_output_head(backbone: Backbone) -> OutputHead:
    """The output matrix at ``backbone.lm_head``, put there if there is none."""
    if not isinstance(backbone.lm_head, OutputHead):
        table: Any = backbone.embeddings.weight
        spec = backbone.layout.output or GENERIC
        head = OutputHead(backbone.config, len(table), table.shape[1], spec)
        names = {"own.weight": spec.weight} if head.own is not None else {}
        names |= {"bias": spec.bias} if head.bias is not None else {}
        stored = stored_tensors(backbone.where, names) if names else {}
        if stored is not None:
            state = {name: value.reshape(head.get_parameter(name).shape) for name, value in stored.items()}
            head.load_state_dict(state, strict=False)
            head.fresh = False
        backbone.lm_head = head.to(table.device)
    found: OutputHead = backbone.lm_head
    return found


def language_head(backbone: Backbone) -> LMHead | OutputHead:
    """The head by which ``backbone`` names tokens: that of masked positions for an encoder, the output matrix otherwise."""
    return ensure_lm_head(backbone) if backbone.layout.kind == "encoder" else ensure_output_head(backbone)
