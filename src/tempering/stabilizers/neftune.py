"""NEFTune: uniform noise on the embeddings while training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights
from tempering.stabilizers.noise import uniform

if TYPE_CHECKING:
    from tempering.learner import Learner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NEFTune:
    """Adds uniform noise to the token embeddings of every training pass, of one size however long the text is.

    *Paper*: Jain et al. 2024 (NEFTune). *Formula*: e + U(-1, 1) * alpha / sqrt(length * dim), e [rows, length, dim] the token
    embeddings of the batch as padded. *Needs*: nothing. *Costs*: no pass.
    *Differs*: nothing known; the padded length is what the released code takes too. The paper is about instruction tuning of
    decoders, with an alpha of 5, 10 or 15.
    """

    touches: ClassVar[tuple[str, ...]] = ("noise",)
    alpha: float = Field(default=5.0, ge=0)

    @property
    def neutral(self) -> bool:
        """Alpha 0 changes nothing."""
        return self.alpha == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with the noise; no state."""

        def noise(x: Tensor, rng: np.random.Generator) -> Tensor:
            return uniform(x, rng).mul_(self.alpha / math.sqrt(math.prod(x.shape[1:])))

        return Hooks(noise=noise)
