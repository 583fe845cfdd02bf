"""LNSR: layers above a noisy one should put out what they put out without the noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights
from tempering.errors import ModelError
from tempering.stabilizers.noise import normal, real_tokens

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LNSR:
    """Adds noise to what a low layer puts out and makes the layers above it react as little as they can.

    *Paper*: after Hua et al. 2021 (layer-wise noise stability). *Formula*: CE + weight * sum over blocks r = b + 1 .. L of
    ||f_r(h_b + z) - f_r(h_b)||^2 / dim, z ~ N(0, sigma^2), f_r the output of block r [rows, length, dim], h_b that of block b
    (``layer``; 0: the token embeddings), mean over the real tokens of the batch.
    *Needs*: weights inside the model that are trained. *Costs*: one more training pass; block outputs are kept.
    *Differs*: weight, sigma, one weight for all blocks and the means over tokens and dim are not known from the paper (its analysis uses
    noise of 5 % of a layer's norm). They are those of a baseline in later work by Fu et al., which has a noisy pass without gradient
    and the mean squared difference of the top layer alone. Both passes share one dropout mask, else its noise would prevail.
    """

    touches: ClassVar[tuple[str, ...]] = ("term",)
    students: ClassVar[int] = 1
    perturbations: ClassVar[int] = 1
    reads_layers: ClassVar[bool] = True
    needs_backbone: ClassVar[bool] = True
    weight: float = Field(default=1.0, ge=0)
    sigma: float = Field(default=0.01, ge=0)
    layer: int = Field(default=0, ge=0)

    @property
    def neutral(self) -> bool:
        """Without weight or without noise it changes nothing."""
        return self.weight == 0.0 or self.sigma == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with one term; no state. A layer that the model lacks, or has nothing above, is refused."""
        learner.backbone.layout.require("lnsr", "blocks")
        if learner.backbone.opened and learner.framing.form == "text":
            raise ModelError(
                f"lnsr cannot serve {learner.backbone.source} ({learner.backbone.layout.family}) where it writes: blocks of encoder and"
                " decoder hold different tokens, and it compares one block's with the next one's; use r3f, or framing head"
            )
        separate = len(learner.backbone.blocks)
        if self.layer >= separate:
            raise ModelError(
                f"lnsr: layer = {self.layer} of {learner.backbone.source} ({learner.backbone.layout.family}) has no separate block above"
                f" it; give a layer from 0 (embeddings) to {separate - 1}"
            )
        return Hooks(term=self._term)

    def _term(self, passes: Passes) -> Tensor:
        rng = passes.stream("lnsr")
        clean = passes.student(0)
        noisy = passes.perturbed(lambda x: x + self.sigma * normal(x, rng), self.layer + 1 if self.layer else 0)
        real = real_tokens(passes.batch, clean.layers[-1])
        pairs = zip(clean.layers[self.layer :], noisy.layers[self.layer :], strict=True)
        moved = torch.stack([((a - b).square() * real).sum() for a, b in pairs]).sum()
        return self.weight * moved / (real.sum() * clean.layers[-1].shape[-1])
