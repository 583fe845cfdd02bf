"""Max-margin regularizer: features of different classes far apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Hooks, Slab, Weights
from tempering.stabilizers.coupled import features_and_targets

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MMR:
    """Moves the mean features of different classes apart, which makes the margin of the head above them larger.

    *Paper*: after Fu et al. 2023 (A Stability Analysis of Fine-Tuning; MMR). *Formula*: CE + alpha * R, R = mean over pairs of classes
    in the batch of 1 / (1 + ||m_c - m_d||), m_c [dim] the mean of the features that the head's last linear map reads, over the
    batch's rows of class c. ``normalize`` divides the distances by the mean norm of the features, which growing them cannot cheat.
    *Needs*: labels, weights inside the model that are trained. *Costs*: no pass. Rows of a batch are coupled, so that it cannot be cut
    when memory runs out; a batch of one class adds 0. With alpha 1 its gradient is several times that of the loss in the first steps
    (2.4 to 0.5 on 128 questions of six classes), and both are clipped together: a hundred steps then teach less; with 0.1 they do not.
    *Differs*: the paper's text was not at hand: the form for two classes is a reconstruction, and three things are decisions here: pairs
    of more classes; multi-label data, where each label is a pair (rows with it, rows without); values, split at the batch's median.
    """

    touches: ClassVar[tuple[str, ...]] = ("term",)
    students: ClassVar[int] = 1
    couples_rows: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    needs_backbone: ClassVar[bool] = True
    alpha: float = Field(default=1.0, ge=0)
    normalize: bool = False

    @property
    def neutral(self) -> bool:
        """Alpha 0 changes nothing."""
        return self.alpha == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks with one term; no state."""

        def term(passes: Passes) -> Tensor:
            scores = passes.student(0)
            return self.alpha * scores.fold(scores, lambda slab, _: self._of(slab))

        return Hooks(term=term)

    def _of(self, slab: Slab) -> Tensor:
        features, targets = features_and_targets(slab, "mmr")
        first, second = pairs(features, targets, slab.kind)
        if not len(first):
            return features.new_zeros(())
        distances = torch.linalg.vector_norm(first - second, dim=-1)  # its gradient at 0 is 0
        if self.normalize:
            distances = distances / torch.linalg.vector_norm(features, dim=-1).mean()
        mean: Tensor = (1 / (1 + distances)).mean()
        return mean


def pairs(features: Tensor, targets: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The mean features of the two sides of every pair, [pairs, dim] each; no pair where the batch has one side only."""
    if kind == "classification":
        present, index = targets.unique(return_inverse=True)
        means = _means(features, F.one_hot(index, len(present)))
        i, j = torch.triu_indices(len(present), len(present), offset=1, device=features.device)
        return means[i], means[j]
    on = targets if kind == "multilabel" else (targets > targets.median()).unsqueeze(-1)
    both = (on.sum(0) > 0) & (on.sum(0) < len(on))
    sides = on[:, both].to(features.dtype)
    return _means(features, sides), _means(features, 1 - sides)


def _means(features: Tensor, member: Tensor) -> Tensor:
    """Means [groups, dim] over the rows that ``member`` [rows, groups] marks."""
    share = member.to(features.dtype) / member.sum(0)
    return share.T @ features
