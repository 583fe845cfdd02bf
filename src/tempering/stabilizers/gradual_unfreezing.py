"""Gradual unfreezing: training starts at the top, and one more layer thaws at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from tempering.contracts import Hooks, Weights

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True)
class GradualUnfreezing:
    """Trains the head alone first and lets one more layer join it at a time, from the top, so that a raw head does not spoil them.

    *Paper*: Howard and Ruder 2018 (ULMFiT, section 3.3). *Formula*: group g (0: the head and all above the blocks; then the blocks that
    are trained, from the top; last the embeddings) is trained from step round(g * share * steps) on. ``share``: how much of the run
    lies between two groups, 1 / epochs for one an epoch as in the paper; left out, it is 1 / groups, so that the last group trains in
    the last of as many equal parts. Before its step a weight keeps every bit: no gradient, no moment, no decay.
    *Needs*: something trained inside the backbone, of a family whose blocks are known. *Costs*: no pass; gradients of layers that are
    still frozen are computed and thrown away.
    *Differs*: in steps and not in epochs, as three epochs are fewer than the layers of a transformer.
    """

    touches: ClassVar[tuple[str, ...]] = ("rate",)
    shards: ClassVar[bool] = True
    needs_backbone: ClassVar[bool] = True
    share: float | None = Field(default=None, ge=0, lt=1)

    @property
    def neutral(self) -> bool:
        """A share of 0 trains everything from the start."""
        return self.share == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks that hold the rate of a layer at 0 until its turn; no state but the step."""
        backbone = learner.backbone
        backbone.layout.require("gradual_unfreezing", "blocks")
        height = {name: min(learner.depth(name), backbone.top) for name in trained}
        groups = sorted(set(height.values()) | {backbone.top}, reverse=True)
        share = 1 / len(groups) if self.share is None else self.share
        turn = {depth: round(g * share * learner.steps) for g, depth in enumerate(groups)}
        return Hooks(rate=lambda name, progress: float(round(progress * learner.steps) >= turn[height[name]]))
