"""Trained vectors at places inside a prompt: the table that holds them, and the hook that puts them among the embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tempering.framings.templates.coding import PieceCoder
from tempering.framings.templates.pieces import Piece, Soft

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.contracts import Batch

SOFT, VECTORS = "soft_positions", "soft_vectors"  # entries of a batch's ``extra``, both [prompts, vectors]


class SoftSlots(nn.Module):
    """The vectors of a template, ``table`` [vectors, width of the embeddings]; ``rows`` are those of each soft piece, in order.

    A piece with words begins as their embeddings, another as the embeddings of tokens drawn from the vocabulary (Lester et al. 2021:
    better than vectors of no word).
    """

    def __init__(self, pieces: Sequence[Piece], backbone: Backbone, coder: PieceCoder) -> None:
        super().__init__()
        begins, self.rows = _allotted([p for p in pieces if isinstance(p, Soft)], coder)
        embeddings: Any = backbone.embeddings.weight
        drawn = torch.randint(len(embeddings), (len(begins),))
        ids = torch.tensor([int(drawn[i]) if known is None else known for i, known in enumerate(begins)], dtype=torch.int64)
        made = torch.zeros(len(ids), embeddings.shape[1]) if embeddings.is_meta else embeddings.detach()[ids.to(embeddings.device)].clone()
        self.table = nn.Parameter(made.float()) if len(ids) else None

    @contextmanager
    def among(self, backbone: Backbone, batch: Batch) -> Iterator[None]:
        """While open, the vectors stand in their places among the token embeddings, and whatever else acts on those acts on them too."""
        if self.table is None or SOFT not in batch.extra:
            yield
            return
        vectors, places = self.table[batch.extra[VECTORS]], batch.extra[SOFT]

        def put(_module: nn.Module, _args: tuple[Any, ...], out: Tensor) -> Tensor:
            return out.scatter(1, places.unsqueeze(-1).expand(-1, -1, out.shape[-1]), vectors.to(out.dtype))

        handle = backbone.embeddings.register_forward_hook(put, prepend=True)
        try:
            yield
        finally:
            handle.remove()


def _allotted(pieces: Sequence[Soft], coder: PieceCoder) -> tuple[list[int | None], tuple[tuple[int, ...], ...]]:
    """The token that each vector begins as (None: any), and the vectors of each piece; pieces of one key share theirs."""
    begins: list[int | None] = []
    shared: dict[str, tuple[int, ...]] = {}
    rows = []
    for piece in pieces:
        if not piece.key or piece.key not in shared:
            known = coder.encode([piece.init], [True])[0] if piece.init else [None] * piece.count
            mine = tuple(range(len(begins), len(begins) + len(known)))
            begins += known
            if piece.key:
                shared[piece.key] = mine
        rows.append(shared[piece.key] if piece.key else mine)
    return begins, tuple(rows)
