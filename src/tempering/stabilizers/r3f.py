"""R3F: a pass with noise on the embeddings that should agree with the clean one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Hooks, Weights
from tempering.stabilizers.divergence import both_ways
from tempering.stabilizers.noise import normal, uniform

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes

NoiseKind = Literal["uniform", "normal"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class R3F:
    """Makes a pass with slightly noisy embeddings agree with the clean pass, so that features do not collapse onto the task.

    *Paper*: Aghajanyan et al. 2020 (R3F). *Formula*: CE + weight * (KL(p || q) + KL(q || p)), mean over rows; q is predicted from
    the token embeddings e [rows, length, dim] as stop_gradient(e) + z, z ~ U(-eps, eps), or N(0, eps^2) where ``noise`` is normal.
    *Needs*: nothing. *Costs*: one more training pass a step.
    *Differs*: the two passes of the released code have dropout masks of their own, as here, and the term then speaks of dropout (as
    R-Drop's with alpha 2) and hardly of the noise: with MiniLM on eight texts it was 8e-5 at the start and 9e-4 after ten steps, where
    ``shared_dropout``, which leaves nothing but the noise, gave 5e-13 and 1e-12. Multi-label: Bernoulli divergences; regression,
    which the released code leaves alone: the squared difference.
    """

    touches: ClassVar[tuple[str, ...]] = ("term",)
    students: ClassVar[int] = 1
    perturbations: ClassVar[int] = 1
    compares: ClassVar[bool] = True  # whole distributions of two passes
    weight: float = Field(default=1.0, ge=0)
    eps: float = Field(default=1e-5, ge=0)
    noise: NoiseKind = "uniform"
    shared_dropout: bool = False

    @property
    def neutral(self) -> bool:
        """Without weight or without noise it changes nothing."""
        return self.weight == 0.0 or self.eps == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with one term; no state."""
        return Hooks(term=consistency("r3f", self.weight, self.eps, self.noise, self.shared_dropout))


def consistency(name: str, weight: float, eps: float, noise: NoiseKind, shared: bool) -> Callable[[Passes], Tensor]:
    """The term: how far the pass with noise is from the clean one. ``name`` keys its random stream."""
    draw = uniform if noise == "uniform" else normal

    def term(passes: Passes) -> Tensor:
        rng = passes.stream(name)
        noisy = passes.perturbed(lambda x: x.detach() + eps * draw(x, rng), i=0 if shared else 1)
        return weight * passes.student(0).fold(noisy, both_ways)

    return term
