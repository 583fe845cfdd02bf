"""Supervised contrastive learning beside cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Hooks, Slab, Weights
from tempering.errors import RecipeError
from tempering.stabilizers.coupled import features_and_targets

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.passes import Passes


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SupCon:
    """Pulls the features of rows of one class together and pushes those of other classes away, in place of part of the loss.

    *Paper*: Gunel et al. 2021, after Khosla et al. 2020. *Formula*: (1 - weight) * CE + weight * SCL, SCL = mean over rows i of
    - 1 / (n_i - 1) * sum over the other rows j of i's class of log(exp(z_i z_j / temperature) / sum_(k != i) exp(z_i z_k / temperature)),
    z [rows, dim] the features the head's last linear map reads, divided by their norm, n_i rows of i's class in the batch.
    *Needs*: one class a row, weights inside the model that are trained, batches with several rows of a class (a row alone counts 0).
    *Costs*: no pass; rows x rows products. Rows of a batch are coupled, so that it cannot be cut when memory runs out.
    *Differs*: the paper sums over rows where it averages CE; here both are means, so that the batch size does not change the mixture.
    """

    touches: ClassVar[tuple[str, ...]] = ("base",)
    students: ClassVar[int] = 1
    couples_rows: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    needs_backbone: ClassVar[bool] = True
    weight: float = Field(default=0.9, ge=0, lt=1)
    temperature: float = Field(default=0.3, gt=0)

    @property
    def neutral(self) -> bool:
        """Weight 0 changes nothing."""
        return self.weight == 0.0

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """Hooks that replace the supervised loss by the mixture; no state. Tasks without one class a row are refused."""
        kind = getattr(learner.framing, "kind", "classification")
        if kind not in ("classification", "tagging"):
            what = {"regression": "values", "question_answering": "answers"}.get(kind, "several labels a row")
            advice = "drop it" if kind == "question_answering" else "use mmr, or drop it"
            raise RecipeError(f"supcon brings rows of one class together, and this task has {what}; {advice}")

        def base(passes: Passes) -> Tensor:
            drawn = passes.drawn()
            contrast = torch.stack([scores.fold(scores, lambda slab, _: self._of(slab)) for scores in drawn]).mean()
            return (1 - self.weight) * passes.supervised() + self.weight * contrast

        return Hooks(base=base)

    def _of(self, slab: Slab) -> Tensor:
        return contrastive(*features_and_targets(slab, "supcon"), self.temperature)


def contrastive(features: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """SCL of ``features`` [rows, dim] with classes ``targets`` [rows]: a mean over rows, to which a row alone in its class gives 0."""
    z = F.normalize(features, dim=-1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    chances = (z @ z.T / temperature).masked_fill(itself, torch.finfo(z.dtype).min).log_softmax(-1)
    same = (targets[:, None] == targets[None, :]) & ~itself
    return -(chances.masked_fill(~same, 0.0).sum(-1) / same.sum(-1).clamp_min(1)).mean()
