"""Framings of several tasks over one backbone, as one module: each batch is of one task, and goes to that task's own framing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tempering.contracts import Batch, Scores, Slab

if TYPE_CHECKING:
    from tempering.backbone import Backbone

TASK = "task-"  # before a task's name in names of weights: a task called "items" or "type" would hide what every module has


class Several(nn.Module):
    """The framing modules of several tasks by the tasks' names. Weights: ``parts.task-<task>.<weight>``.

    *Paper*: Caruana 1997 (shared body, heads of their own); Aghajanyan et al. 2021 (Muppet: the scale).
    *Formula*: the loss of a batch of task t is w_t / s_t times that of its framing, with the task's ``weights`` w_t and, where
    ``scaled``, s_t = log n_t for n_t classes: then guessing evenly costs 1 in every task. A set of labels is so many choices between
    two, s = log 2; a value has no classes and keeps its loss, s = 1.
    ``own`` names the task whose weights an export holds, if any.
    """

    def __init__(self, parts: Mapping[str, Any], weights: Mapping[str, float], scaled: bool, own: str | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({TASK + name: part for name, part in parts.items()})
        self.weights = dict(weights)
        self.scaled = scaled
        self.own = own
        self.labels: tuple[Any, ...] = ()
        self.refresh_steps = 0
        self.undecayed = frozenset(f"parts.{TASK}{name}.{w}" for name, part in parts.items() for w in part.undecayed)
        self.reads = "pooler" if any(part.reads == "pooler" for part in parts.values()) else "tokens"
        self.reads_lm_head = any(part.reads_lm_head for part in parts.values())

    def part(self, name: str) -> Any:
        """The framing module of task ``name``."""
        return self.parts[TASK + name]

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of all tasks."""
        parts: list[Any] = list(self.parts.values())
        return tuple(note for part in parts for note in part.notes)

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """What the framing of the batch's task says of it."""
        scores: Scores = self.part(batch.task).scores(backbone, batch)
        return scores

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """The loss of the batch's task, weighted and scaled."""
        loss: Tensor = self.part(batch.task).loss(scores, batch)
        return loss * (self.weights[batch.task] / (scale_of(scores.only) if self.scaled else 1.0))

    def refresh(self, support: Any) -> Mapping[str, Tensor]:
        """Nothing: a stage refuses framings that re-estimate state over all rows of one task."""
        return {}

    def facts(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def export_state(self) -> dict[str, Tensor] | None:
        """That of the task ``own``."""
        state: dict[str, Tensor] | None = self.part(self.own).export_state() if self.own else None
        return state


def scale_of(slab: Slab) -> float:
    """What a guess that gives every class the same chance costs: log n; log 2 for sets of labels; 1 for a value."""
    if slab.kind == "regression":
        return 1.0
    return math.log(2 if slab.kind == "multilabel" else max(2, slab.logits.shape[-1]))
