"""Training batches as a pure function of (seeds, step): nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tempering.batching import Rows, length_batches, random_batches
from tempering.contracts import Batch, Example, Prompt, Seeds
from tempering.errors import RecipeError
from tempering.streams import numpy_stream
from tempering.train.settings import Loop


@runtime_checkable
class Lazy(Protocol):
    """Prompts whose ``lengths`` [rows] are known without making them."""

    lengths: Sequence[int]


@runtime_checkable
class Walk(Protocol):
    """Prompts that are too many to list: they make the batches of an epoch themselves, each as it is asked for."""

    def batches(self, size: int, rng: np.random.Generator) -> Sequence[Rows]:
        """All of them once, in an order drawn from ``rng``."""


@runtime_checkable
class Drawn(Protocol):
    """Prompts of which an epoch has a part only."""

    def draw(self, rng: np.random.Generator) -> None:
        """Draw anew which ones the epoch has."""


@dataclass
class Feed:
    """The training rows of one stage, as micro-batches by optimizer step.

    ``weights`` [rows] are row weights or None; ``features`` [rows, dim] are cached trunk outputs, used instead of token ids.
    ``rank`` of ``world`` processes takes every world-th row of each batch. ``ready`` are prompts that are there already, such as the rows
    of a corpus, which are made as they are asked for: then ``examples`` only tells how many there are. ``together``: every process takes
    part in every pass, also where it has no share in it.
    """

    framing: Any
    examples: Sequence[Example]
    settings: Loop
    seeds: Seeds
    weights: np.ndarray | None = None
    features: Tensor | None = None
    rank: int = 0
    world: int = 1
    together: bool = False
    ready: Sequence[Prompt] | None = None
    _epoch: int = field(default=-1, repr=False)
    _prompts: Sequence[Prompt] = field(default_factory=list, repr=False)
    _plan: Sequence[Rows] = field(default_factory=list, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the rows."""
        return self.settings.steps_per_epoch(self.rows)

    @property
    def rows(self) -> int:
        """What an epoch walks through: the examples, the windows of their texts, or what the framing makes of them all."""
        many = getattr(self.framing, "windows", False) or getattr(self.framing, "walks", False)
        return len(self.prompts()) if many else len(self.examples)

    def prompts(self, epoch: int = 0) -> Sequence[Prompt]:
        """One prompt a row, or all windows that hold something to learn; made once where rendering draws nothing."""
        if self.ready is not None:
            return self.ready
        if not self._prompts or self.framing.renders_anew:
            rng = numpy_stream(self.seeds.order, "render", epoch)
            rendered = self.framing.render(self.examples, self.examples, rng)
            whole = getattr(self.framing, "windows", False)
            listed = [p for found in rendered for p in (found if whole else found[:1]) if p.weight or not whole]
            self._prompts = self.framing.walk(listed) if getattr(self.framing, "walks", False) else listed
        return self._prompts

    def _enter(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        prompts = self.prompts(epoch)
        rng = numpy_stream(self.seeds.order, "order", epoch)
        size = self.settings.per_device_train_batch_size
        if isinstance(prompts, Walk):
            self._plan, self._epoch = prompts.batches(size, rng), epoch
            return
        if isinstance(prompts, Drawn):
            prompts.draw(rng)
        lengths = prompts.lengths if isinstance(prompts, Lazy) else [len(p.input_ids) for p in prompts]
        self._plan = length_batches(lengths, size, rng) if self.settings.group_by_length else random_batches(len(prompts), size, rng)
        self._epoch = epoch

    def micro(self, step: int, split: int = 1) -> list[Batch]:
        """The micro-batches of optimizer step ``step``, each cut into ``split`` parts (after a memory back-off)."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        self._enter(epoch)
        each = self.settings.gradient_accumulation_steps
        parts = [p for rows in self._plan[inside * each : (inside + 1) * each] for p in np.array_split(rows, min(split, len(rows)))]
        return [b for i, rows in enumerate(parts) if (b := self._batch(rows, step, i)) is not None]

    def _batch(self, whole: Rows, step: int, i: int) -> Batch | None:
        """This process's share of the rows ``whole``. What is drawn is drawn for all of them, so that it does not depend on who shares."""
        rows = whole[self.rank :: self.world]
        if len(rows) == 0:
            return self._beside(whole, step, i)
        if self.world > 1 and getattr(self.framing, "couples_rows", False):
            name = type(self.framing).__name__.removesuffix("Module").lower()
            raise RecipeError(f"{name} compares the rows of a batch, so that processes cannot share it; run it in one process")
        drawn = self.world > 1 and not self.framing.deterministic
        batch = self._collated(whole if drawn else rows, step, i)
        if drawn:
            batch = self.framing.part(batch, slice(self.rank, None, self.world))
        batch = self._completed(batch, rows)
        return batch if self.world == 1 or mass(batch) else self._beside(whole, step, i)

    def _beside(self, whole: Rows, step: int, i: int) -> Batch | None:
        """For a process whose share holds nothing to learn: nothing, or all of ``whole`` without weight, for a pass that it must join."""
        if not self.together:
            return None
        batch = self._completed(self._collated(whole, step, i), whole)
        batch.extra["mass"] = 0.0
        return batch

    def _collated(self, rows: Rows, step: int, i: int) -> Batch:
        prompts, rng = self.ready or self._prompts, numpy_stream(self.seeds.dropout, "collate", step, i, 0)
        batch: Batch = self.framing.collate([prompts[r] for r in rows], rng)
        return batch

    def _completed(self, batch: Batch, rows: Rows) -> Batch:
        """With the cached features and the weights of its ``rows``."""
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
    """What a micro-batch counts for in the mean over a step: its rows (masked tokens), or the sum of their weights.

    Where batches of a step are of several tasks, the feed says what each counts for, as their rows are not alike.
    """
    if "mass" in batch.extra:
        return float(batch.extra["mass"])
    if batch.weights is not None:
        return float(batch.weights.sum())
    return float(len(batch.targets)) if batch.targets is not None else float(len(batch))
