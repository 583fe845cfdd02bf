"""The output matrix of a model that writes text: tied to the embeddings, read from its checkpoint, or drawn fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tempering.framings.initial import draw
from tempering.framings.lm_head import LMHead, ensure_lm_head, known, outlined, read_rows, stored_head, stored_tensors
from tempering.layouts import OutputSpec

if TYPE_CHECKING:
    from tempering.backbone import Backbone

GENERIC = OutputSpec()  # names for a family that has no row


class OutputHead(nn.Module):
    """Hidden states -> logits over the vocabulary, by the embeddings transposed (tied) or a matrix of its own, plus a bias if any.

    As `LMHead` it is handed the embedding matrix [vocabulary, width] at each call, so that the two stay tied whatever happens to
    either. ``scale`` multiplies the hidden states first. ``fresh`` tells that the matrix was drawn and not read; a bias that the checkpoint
    lacks is zero, which adds nothing to a pretrained matrix, and does not count. A family whose
    configuration says only whether states are scaled, or not even that (transformers 5 calls every such model tied), is untied where
    weights to load hold a matrix.
    """

    def __init__(self, config: Any, vocabulary: int, width: int, spec: OutputSpec) -> None:
        super().__init__()
        tied = bool(getattr(config, "tie_word_embeddings", True))
        self.scale = width**-0.5 if spec.scaled and getattr(config, "scale_decoder_outputs", tied) else 1.0
        self.own = None if tied else nn.Linear(width, vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary)) if spec.bias else None
        self.fresh = not tied
        if self.own is not None:
            draw(self.own, config)
        self.shape = (width, vocabulary)
        self.register_load_state_dict_pre_hook(_untie)  # type: ignore[no-untyped-call]

    def forward(self, hidden: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [..., width] -> logits [..., vocabulary] and what the matrix read."""
        features = self.features(hidden)
        return self.logits(features, embeddings), features

    def features(self, hidden: Tensor) -> Tensor:
        """Hidden states -> what the output matrix reads."""
        return hidden if self.scale == 1.0 else hidden * self.scale

    def logits(self, features: Tensor, embeddings: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits of the whole vocabulary, or of the tokens ``ids`` alone."""
        return read_rows(features, embeddings if self.own is None else self.own.weight, self.bias, ids)


def output_matrix(head: LMHead | OutputHead, backbone: Backbone) -> Tensor:
    """The output matrix [vocabulary, width] as it is now: the head's own, or the embeddings, whose look-up table may have to be made."""
    own: nn.Linear | None = getattr(head, "own", None)
    return backbone.table if own is None else own.weight


def _untie(head: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before weights are loaded: a matrix among them gets a place."""
    if f"{prefix}own.weight" in state and head.own is None:
        width, vocabulary = head.shape
        head.own = nn.Linear(width, vocabulary, bias=False, device=state[f"{prefix}own.weight"].device)


def ensure_output_head(backbone: Backbone) -> OutputHead:
    """The output matrix at ``backbone.lm_head``, put there if there is none. That of an outline has a shape and no content."""
    if not isinstance(backbone.lm_head, OutputHead):
        table: Any = backbone.embeddings.weight
        spec = backbone.layout.output or GENERIC
        with outlined(table):
            head = OutputHead(backbone.config, len(table), table.shape[1], spec)
        odd = spec.says_tied and head.scale == 1.0 and stored_tensors(backbone.where, {"own.weight": spec.weight}, True) is not None
        names = {"own.weight": spec.weight} if head.own is not None or odd else {}
        names |= {"bias": spec.bias} if head.bias is not None else {}
        stored = stored_head(backbone.where, names, table.is_meta) if names else {}
        if stored is not None:
            state = {name: value.reshape(-1) if name == "bias" else value for name, value in stored.items()}
            head.load_state_dict(state, strict=False)
        head.fresh = head.fresh and stored is None and known(backbone)
        backbone.lm_head = head.to(table.device)
    found: OutputHead = backbone.lm_head
    return found


def language_head(backbone: Backbone) -> LMHead | OutputHead:
    """The head by which ``backbone`` names tokens: that of masked positions for an encoder, the output matrix otherwise."""
    return ensure_lm_head(backbone) if backbone.layout.kind == "encoder" else ensure_output_head(backbone)
