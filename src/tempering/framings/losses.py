"""The supervised losses of a slab of scores, with one head or several."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Slab
from tempering.errors import DataError


def supervised_loss(slab: Slab, smoothing: float = 0.0) -> Tensor:
    """Mean over heads and rows of the loss of the slab's kind; with row weights w the mean is sum(w l) / sum(w).

    ``logits`` [heads, rows, classes]; cross entropy for classification (targets [rows], int64), binary cross entropy averaged over
    labels for multi-label data (targets [rows, classes]), squared error for a value (targets [rows]). ``smoothing`` is the share of a
    row's target that is spread evenly over its classes (over yes and no of each label), after Szegedy et al. 2016.
    """
    if slab.targets is None:
        raise DataError("training needs a label in every row, and this batch holds rows without one; leave unlabelled rows out")
    if slab.weights is None:
        return _loss(slab.logits, slab.targets, slab.kind, "mean", smoothing)
    rows = _loss(slab.logits, slab.targets, slab.kind, "none", smoothing).mean(0)
    return (rows * slab.weights).sum() / slab.weights.sum()


def _loss(logits: Tensor, targets: Tensor, kind: str, reduction: str, smoothing: float) -> Tensor:
    """A scalar, or [heads, rows] unreduced. One head without weights is the library's own loss, to the bit."""
    heads, rows, _ = logits.shape
    if kind == "classification":
        out = F.cross_entropy(logits.flatten(0, 1), targets.repeat(heads), reduction=reduction, label_smoothing=smoothing)
        return out if reduction == "mean" else out.view(heads, rows)
    if kind == "multilabel":
        soft = targets.to(logits.dtype) * (1.0 - smoothing) + smoothing / 2 if smoothing else targets.to(logits.dtype)
        out = F.binary_cross_entropy_with_logits(logits, soft.expand_as(logits), reduction=reduction)
        return out if reduction == "mean" else out.mean(-1)
    return F.mse_loss(logits[..., 0], targets.to(logits.dtype).expand(heads, rows), reduction=reduction)
