"""Training batches as a pure function of (seeds, step): nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempering.batching import Rows, length_batches, random_batches
from tempering.contracts import Batch, Example, Prompt, Seeds
from tempering.streams import numpy_stream
from tempering.train.settings import Loop


@dataclass
class Feed:
    """The training rows of one stage, as micro-batches by optimizer step.

    ``weights`` [rows] are row weights or None; ``features`` [rows, dim] are cached trunk outputs, used instead of token ids.
    ``rank`` of ``world`` processes takes every world-th row of each batch.
    """

    framing: Any
    examples: Sequence[Example]
    settings: Loop
    seeds: Seeds
    weights: np.ndarray | None = None
    features: Tensor | None = None
    rank: int = 0
    world: int = 1
    _epoch: int = field(default=-1, repr=False)
    _prompts: list[Prompt] = field(default_factory=list, repr=False)
    _plan: list[Rows] = field(default_factory=list, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the rows."""
        return self.settings.steps_per_epoch(len(self.examples))

    def prompts(self, epoch: int = 0) -> list[Prompt]:
        """One prompt a row; made once where rendering draws nothing."""
        if not self._prompts or self.framing.renders_anew:
            rng = numpy_stream(self.seeds.order, "render", epoch)
            self._prompts = [found[0] for found in self.framing.render(self.examples, self.examples, rng)]
        return self._prompts

    def _enter(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        prompts = self.prompts(epoch)
        rng = numpy_stream(self.seeds.order, "order", epoch)
        size = self.settings.per_device_train_batch_size
        lengths = [len(p.input_ids) for p in prompts]
        self._plan = length_batches(lengths, size, rng) if self.settings.group_by_length else random_batches(len(prompts), size, rng)
        self._epoch = epoch

    def micro(self, step: int, split: int = 1) -> list[Batch]:
        """The micro-batches of optimizer step ``step``, each cut into ``split`` parts (after a memory back-off)."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        self._enter(epoch)
        each = self.settings.gradient_accumulation_steps
        parts = [p for rows in self._plan[inside * each : (inside + 1) * each] for p in np.array_split(rows, min(split, len(rows)))]
        return [b for i, rows in enumerate(parts) if (b := self._batch(rows[self.rank :: self.world], step, i)) is not None]

    def _batch(self, rows: Rows, step: int, i: int) -> Batch | None:
        if len(rows) == 0:
            return None
        rng = numpy_stream(self.seeds.dropout, "collate", step, i, self.rank)
        batch: Batch = self.framing.collate([self._prompts[r] for r in rows], rng)
        if self.features is not None:
            batch.inputs = {"features": self.features[torch.from_numpy(rows)]}
        if self.weights is not None:
            batch.weights = torch.from_numpy(self.weights[rows]).to(torch.float32)
        return batch


def balanced_weights(targets: Sequence[int]) -> np.ndarray:
    """Row weights n / (classes x count of the row's class), mean 1."""
    counts = np.bincount(np.asarray(targets))
    present = int((counts > 0).sum())
    weights: np.ndarray = len(targets) / (present * counts[np.asarray(targets)])
    return weights


def mass(batch: Batch) -> float:
    """What a micro-batch counts for in the mean over a step: its rows (masked tokens), or the sum of their weights."""
    if batch.weights is not None:
        return float(batch.weights.sum())
    return float(len(batch.targets)) if batch.targets is not None else float(len(batch))
