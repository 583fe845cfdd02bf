"""What the methods that couple the rows of a batch read of its scores."""

from __future__ import annotations

from torch import Tensor

from tempering.contracts import Slab
from tempering.errors import RecipeError


def features_and_targets(slab: Slab, method: str) -> tuple[Tensor, Tensor]:
    """Features [rows, dim] and targets of every row; a framing without features is refused."""
    if slab.features is None or slab.targets is None:
        raise RecipeError(f"{method} compares what the last linear map reads of rows whose labels are known; use framing head, or drop it")
    return slab.features, slab.targets
