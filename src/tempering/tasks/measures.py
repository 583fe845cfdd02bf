"""The formulas of the metrics, on integer and float arrays. Every one returns a number even where the textbook has 0 / 0.

Classification: ``gold`` and ``predicted`` are class indices [rows], ``table`` their confusion matrix [gold class, predicted
class], ``p`` probabilities [rows, classes]. A predicted label the task does not know counts as the extra, last column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TINY = float(np.finfo(np.float64).eps)


def confusion(gold: Ints, predicted: Ints, classes: int) -> Floats:
    """Counts [classes + 1, classes + 1]; index ``classes`` stands for a label outside the task."""
    flat = np.bincount(gold * (classes + 1) + predicted, minlength=(classes + 1) ** 2)
    return flat.reshape(classes + 1, classes + 1).astype(np.float64)


def divide(a: Any, b: Any) -> Any:
    """``a / b`` with 0 where ``b`` is 0."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b != 0)


def precision_recall_f1(table: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of every class, each [classes]; 0 where undefined."""
    hits = np.diag(table)
    said, true = table.sum(axis=0), table.sum(axis=1)
    return divide(hits, said), divide(hits, true), divide(2 * hits, said + true)


def matthews(table: Floats) -> float:
    """Matthews correlation over any number of classes (Gorodkin 2004); 0 where a marginal is constant."""
    true, said, rows = table.sum(axis=1), table.sum(axis=0), table.sum()
    covariance = np.trace(table) * rows - true @ said
    spread = (rows**2 - said @ said) * (rows**2 - true @ true)
    return float(divide(covariance, np.sqrt(spread)))


def pearson(a: Floats, b: Floats) -> float:
    """Pearson correlation; 0 where either side is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # so that squares of tiny or huge values stay in range
    return float(np.clip(divide(a @ b, np.sqrt((a @ a) * (b @ b))), -1, 1))


def ranks(values: Floats) -> Floats:
    """Ranks from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation; 0 where either side is constant."""
    return pearson(ranks(a), ranks(b))


def r2(gold: Floats, predicted: Floats) -> float:
    """One less the share of variance left; 0 where the gold values are constant."""
    spread = float(((gold - gold.mean()) ** 2).sum())
    return 1.0 - float(((gold - predicted) ** 2).sum()) / spread if spread > 0 else 0.0


def roc_auc(positive: NDArray[np.bool_], score: Floats) -> float:
    """Chance that a positive row scores above a negative one, ties half; 0.5 where there is only one side."""
    n = int(positive.sum())
    m = len(positive) - n
    if not n or not m:
        return 0.5
    return float((ranks(score)[positive].sum() - n * (n + 1) / 2) / (n * m))


def log_loss(gold: Ints, p: Floats) -> float:
    """Mean negative log probability of the gold class, in nats; probabilities are made to sum to 1 and kept off 0."""
    p = divide(p, p.sum(axis=1, keepdims=True))
    return float(-np.log(np.clip(p[np.arange(len(gold)), gold], TINY, 1)).mean())


def brier(gold: Ints, p: Floats) -> float:
    """Half the mean squared distance to the one-hot gold, in 0..1; for two classes the usual (p - y)^2."""
    return float(((p - np.eye(p.shape[1])[gold]) ** 2).sum(axis=1).mean() / 2)


def calibration_error(gold: Ints, p: Floats, bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| over equal bins of the top probability, weighted by rows (Guo et al. 2017)."""
    confidence, right = p.max(axis=1), (p.argmax(axis=1) == gold).astype(np.float64)
    slot = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(slot, weights=right, minlength=bins) - np.bincount(slot, weights=confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(gold))


def best_threshold(gold: NDArray[np.bool_], p: Floats) -> float:
    """The threshold (label said where p >= it) of the highest F1; among equals the one nearest 0.5, and 0.5 without positives."""
    if not gold.any():
        return 0.5
    order = np.argsort(-p, kind="stable")
    hits, said = np.cumsum(gold[order]), np.arange(1, len(p) + 1)
    score = 2 * hits / (said + gold.sum())
    above = p[order]
    below = np.append(above[1:], min(0.0, float(above[-1])))
    ends = above > below  # a threshold cannot part equal probabilities
    ends[-1] = True
    best = np.flatnonzero(ends & (score >= score[ends].max() - 1e-12))
    return min((_inside(float(below[i]), float(above[i])) for i in best), key=lambda t: abs(t - 0.5))


def _inside(below: float, above: float) -> float:
    """A threshold in (below, above]: 0.5 if it lies there, else the middle, which is the safest for new rows."""
    middle = 0.5 if below < 0.5 <= above else (below + above) / 2
    return middle if middle > below else above
