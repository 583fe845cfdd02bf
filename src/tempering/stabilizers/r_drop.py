"""R-Drop: two dropout passes that should agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights
from tempering.stabilizers.divergence import symmetric

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes


@dataclass(frozen=True)
class RDrop:
    """Makes two passes with different dropout agree, which holds the sub-models of dropout together.

    *Paper*: Liang et al. 2021 (R-Drop). *Formula*: (CE1 + CE2) / 2 + alpha * (KL(p1 || p2) + KL(p2 || p1)) / 2, mean over rows.
    *Needs*: dropout in the model (without it the term is zero, which a note says). *Costs*: one more training pass a step.
    *Differs*: the paper's fairseq code adds both cross-entropies in full; here they are averaged, as in the authors' README, so
    their alpha is half of one there. Multi-label: Bernoulli divergences; regression: the squared difference.
    """

    touches: ClassVar[tuple[str, ...]] = ("term",)
    shards: ClassVar[bool] = True
    students: ClassVar[int] = 2
    compares: ClassVar[bool] = True  # whole distributions of two passes
    needs_dropout: ClassVar[bool] = True  # nothing else tells its passes apart
    alpha: float = Field(default=1.0, ge=0)

    @property
    def neutral(self) -> bool:
        """Alpha 0 changes nothing."""
        return self.alpha == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with one term; no state."""

        def term(passes: Passes) -> Tensor:
            return self.alpha * passes.student(0).fold(passes.student(1), symmetric)

        return Hooks(term=term)
