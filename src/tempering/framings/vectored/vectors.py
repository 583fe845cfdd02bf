"""What the framings that shape the vectors of texts share: reading them, and saying them as the prediction."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Batch, Prediction, Prompt, Rendered, Scores
from tempering.framings.module import FramingBase
from tempering.framings.pooling import Pool, Pooling
from tempering.framings.text import TextEncoder, pad, tensors
from tempering.framings.vectored.parts import in_parts

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.learner import Learner


class VectorModule(FramingBase, ABC):
    """Pools texts into vectors, whose cosines are what is trained. A prediction is the text's vector, of length one, as numbers.

    ``method`` is the framing's name in recipes. There is no score beside the loss, which hangs on the texts of a batch.
    """

    method: ClassVar[str]
    keeps_scores = False
    predicts_labels = False
    compares_texts = True

    def __init__(self, backbone: Backbone, pool: Pool, max_length: int | None) -> None:
        super().__init__()
        self.text = TextEncoder.of(backbone, max_length)
        self.pooling = Pooling.of(backbone, pool, (-1,), "concat", self.method)
        self.reads = self.pooling.how
        self.pad_id = int(backbone.tokenizer.pad_token_id or 0)

    def padded(self, texts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Inputs of the model for ``texts``."""
        return tensors(pad(texts, self.pad_id))

    def pooled(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The vectors [texts, dim] of a batch that was drawn whatever the lengths of its texts."""
        return in_parts(lambda part: self.pooling.read(backbone, part), batch)

    def trunk_key(self) -> str:
        """Pooling, length and truncation."""
        return f"{self.method} {self.pooling.key(self.text)}"

    def predictions(self, learner: Learner, asked: Rendered, scores: Scores | None, batch_size: int = 64) -> list[Prediction]:
        """The vector of each example; the two texts of a pair are read together, as a head would."""

        def work(batch: Batch) -> Tensor:
            return F.normalize(self.pooling.read(learner.backbone, batch).float(), dim=-1)

        texts = [Prompt(x.ids, x.types) for x in self.text.encode(asked.examples)]
        return [Prediction(tuple(vector)) for vector in learner.outputs(texts, batch_size, work).tolist()]

    def decode(self, scores: Scores) -> list[Prediction]:
        """The vectors that scores were made of."""
        features = scores.only.features
        assert features is not None  # every slab of these framings has them
        return [Prediction(tuple(vector)) for vector in features.detach().float().tolist()]


def reads_classes(task: Any) -> bool:
    """Whether rows of ``task`` have one class each."""
    return bool(task.kind == "classification")


def info_nce(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Contrast of ``logits`` [rows, columns], the similarities of rows i and columns j divided by a temperature.

    Column i < rows is the partner of row i and has its target; any columns after those have no positive. Mean over rows of
    - 1 / |P(i)| sum over j in P(i) of log softmax_j(logits_i), P(i) the columns of i's target: where no two targets agree, InfoNCE.
    """
    same = (targets[:, None] == targets[None, :]).float()
    chances = logits.float().log_softmax(-1)[:, : len(targets)]
    losses = -(chances * same).sum(-1) / same.sum(-1)
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()
