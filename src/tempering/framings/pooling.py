"""From hidden states to one vector a text: which layers, pooled how, combined how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.backbone import Backbone, Encoded
    from tempering.contracts import Batch
    from tempering.framings.text import TextEncoder

Pool = Literal["auto", "first", "mean", "max", "last", "pooler"]
Combine = Literal["concat", "mean", "max"]


def pool(hidden: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """Hidden states [rows, length, dim] and attention mask [rows, length] (None: nothing is padded) -> [rows, dim].

    ``mean`` and ``max`` run over real tokens, special ones included; ``last`` is the last real token by the mask.
    """
    if how == "first":
        return hidden[:, 0]
    if how == "last":
        if mask is None:
            return hidden[:, -1]
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        return hidden[torch.arange(len(hidden), device=hidden.device), (positions * mask).amax(1)]
    if mask is None:
        return hidden.mean(1) if how == "mean" else hidden.amax(1)
    real = mask.unsqueeze(-1)
    if how == "mean":
        return (hidden * real).sum(1) / real.sum(1)
    return hidden.masked_fill(real == 0, torch.finfo(hidden.dtype).min).amax(1)


@dataclass(frozen=True, slots=True)
class Pooling:
    """``how`` to pool the chosen ``layers`` (0 = embeddings, 1 .. L = blocks) and ``combine`` them; ``top`` is L; of ``unit`` length."""

    how: str
    layers: tuple[int, ...]
    combine: Combine
    top: int
    unit: bool = False

    @classmethod
    def of(
        cls, backbone: Backbone, how: Pool, layers: tuple[int, ...], combine: Combine, name: str = "head", unit: bool = False
    ) -> Pooling:
        """Resolve ``auto`` and negative layers for ``backbone``; a layer or pooler it lacks is a `RecipeError` to framing ``name``."""
        top = backbone.layers
        wrong = [i for i in layers if not -top - 1 <= i <= top]
        if wrong or not layers:
            raise RecipeError(
                f"{name}.layers={list(layers)}: expected layers from 0 (embeddings) to {top} (top block), or -1 (top) to {-top - 1}, found"
                f" {wrong or 'none'}; this model has {top} blocks"
            )
        chosen = tuple(i if i >= 0 else top + 1 + i for i in layers)
        return cls(_resolve(backbone, how, chosen == (top,), name), chosen, combine, top, unit)

    def width(self, hidden: int) -> int:
        """Width of the pooled vector."""
        return hidden * len(self.layers) if self.combine == "concat" else hidden

    def key(self, text: TextEncoder) -> str:
        """Everything that the pooled vectors depend on, beside backbone and texts: framings with an equal key share a cached trunk."""
        unit = " unit" if self.unit else ""
        return (
            f"head how={self.how} layers={self.layers} combine={self.combine} max_length={text.length} truncation={text.truncation}{unit}"
        )

    def read(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Run the backbone on the batch and pool: [rows, width]."""
        pooled = self._pooled(backbone, batch)
        return F.normalize(pooled, dim=-1) if self.unit else pooled

    def _pooled(self, backbone: Backbone, batch: Batch) -> Tensor:
        encoded = backbone.encode(batch.inputs, layers=self.layers != (self.top,))
        if self.how == "pooler":
            assert encoded.pooled is not None  # `of` saw the pooler
            return encoded.pooled
        mask = batch.inputs.get("attention_mask")
        vectors = [pool(self._layer(encoded, i), mask, self.how) for i in self.layers]
        if len(vectors) == 1:
            return vectors[0]
        if self.combine == "concat":
            return torch.cat(vectors, -1)
        stack = torch.stack(vectors)
        return stack.mean(0) if self.combine == "mean" else stack.amax(0)

    def _layer(self, encoded: Encoded, index: int) -> Tensor:
        """The top layer is what the body returns: some families apply a last norm to that only."""
        if index == self.top or encoded.layers is None:
            return encoded.last
        return encoded.layers[index]


def _resolve(backbone: Backbone, how: Pool, top_only: bool, name: str) -> str:
    """``auto`` is the family's own choice at the top layer; elsewhere, and for unknown families, the plain choice nearest to it."""
    spec = backbone.layout.head
    own = "mean" if spec is None else spec.pool
    if own == "first":  # a family whose configuration chooses between the first token and the mean
        own = "mean" if getattr(backbone.config, "classifier_pooling", "cls") == "mean" else "first"
    chosen = (own if top_only or own != "pooler" else "first") if how == "auto" else how
    if chosen == "pooler" and getattr(backbone.model, "pooler", None) is None:
        raise RecipeError(f"{name}.pool=pooler: {backbone.source} has no pooler in use; choose first, mean, max or last")
    if chosen == "pooler" and not top_only:
        raise RecipeError(f"{name}.pool=pooler reads the top layer only; leave {name}.layers at [-1], or choose first, mean, max or last")
    return chosen
