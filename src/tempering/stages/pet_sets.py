"""The arithmetic of PET and iPET on logits that are at hand: ensembles, distillation, and the sets that models label for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tempering.errors import DataError

Weighting = Literal["wmean", "uniform"]


class Labelled(NamedTuple):
    """A row of the unlabelled pool, by number, and the class that it was given."""

    row: int
    label: int


def ensemble(logits: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """sum_m w_m logits_m / sum_m w_m over models, each [rows, classes]; without weights the mean. Weights that are all 0 count alike."""
    shares = torch.ones(len(logits)) if weights is None or not any(weights) else torch.tensor(list(weights), dtype=torch.float32)
    return (torch.stack(list(logits)) * (shares / shares.sum())[:, None, None]).sum(0)


def distillation_loss(logits: Tensor, target: Tensor, temperature: float = 2.0) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(logits / T)), summed over classes [rows, classes], mean over rows."""
    log_p, log_q = (target / temperature).log_softmax(-1), (logits / temperature).log_softmax(-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def sizes(counts: Sequence[int], generation: int, scale: float) -> list[int]:
    """New rows of each class for the models of ``generation`` (from 1): n s^g rows in all with the n labelled, balanced as those are.

    PET's schedule: after its first round of training (its generation 0) a set is 5 times as large as the labelled rows, then 25 times.
    Without a labelled row the set begins at 10 rows, and classes are alike.
    """
    total = sum(counts)
    if not total:
        return [int(10 * scale ** (generation - 1)) // len(counts)] * len(counts)
    return [int(count * (scale**generation - 1)) for count in counts]


def others(models: int, own: int, share: float, rng: np.random.Generator) -> list[int]:
    """round(share x the others) of all models but ``own``, one at least, drawn without replacement."""
    rest = [m for m in range(models) if m != own]
    if not rest:
        raise DataError("ipet: a model learns from the labels of other models, and there is only one; give more patterns or repetitions")
    drawn = rng.permutation(len(rest))[: max(1, round(share * len(rest)))]
    return sorted(rest[i] for i in drawn.tolist())


def draw(
    logits: Tensor, wanted: Sequence[int], rng: np.random.Generator, most_likely: int | None = None, labels: Sequence[Any] = ()
) -> list[Labelled]:
    """``wanted`` rows of each class from the pool, labelled by the argmax of ``logits`` [rows, classes].

    Rows of a class are drawn without replacement, with chances in proportion to their top probability; where a class has fewer than are
    wanted, they repeat. ``most_likely``: draw among so many of the surest rows of a class (without labelled data). ``labels``: the classes'
    names.
    """
    sure, given = logits.softmax(-1).max(-1)
    found: list[Labelled] = []
    for label, count in enumerate(wanted):
        rows = [i for i in range(len(given)) if int(given[i]) == label]
        if most_likely is not None:
            rows = sorted(rows, key=lambda i: (-float(sure[i]), i))[:most_likely]
        if count and not rows:
            name = repr(labels[label]) if labels else f"number {label}"
            raise DataError(
                f"ipet: the models say class {name} of none of the {len(given)} unlabelled texts, and {count} are wanted; give"
                " more texts, better label words, or generations: 0"
            )
        found += [Labelled(row, label) for row in _drawn(rows, sure, count, rng)]
    return found


def _drawn(rows: Sequence[int], sure: Tensor, count: int, rng: np.random.Generator) -> list[int]:
    whole, rest = divmod(count, len(rows)) if rows else (0, 0)
    chances = np.asarray([float(sure[i]) for i in rows], dtype=np.float64)
    drawn = rng.choice(len(rows), size=rest, replace=False, p=chances / chances.sum()) if rest else np.zeros(0, np.int64)
    return [*(list(rows) * whole), *(rows[i] for i in drawn.tolist())]
