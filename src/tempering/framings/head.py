"""Classification, regression and multi-label heads: the family's own, or one over chosen layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.contracts import Batch, Example, Kind, Prediction, Prompt, Scores, Slab
from tempering.errors import RecipeError
from tempering.framings.family import RATES, before_the_last, folded, named
from tempering.framings.initial import draw, first
from tempering.framings.losses import supervised_loss
from tempering.framings.module import FramingBase
from tempering.framings.pooling import Combine, Pool, Pooling
from tempering.framings.span_head import SpanHead
from tempering.framings.text import TextEncoder, Truncation, pad, tensors
from tempering.framings.token_head import TokenHead

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.layouts import HeadSpec


KINDS_OF_THEIR_OWN = ("tagging", "question_answering")  # where this head stands for another


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Head:
    """Trains a new linear map from the pooled text to the classes, the value, or the labels.

    With the defaults this is the family's own transformers head (pooler or dense layer, activation, norm, dropout), and what is
    trained loads into its ``ForSequenceClassification`` class. With other ``layers`` (0 = embeddings, 1 .. L = blocks, negative
    from the top), another ``pool``, or a family without such a head, it is: pool each layer, combine, dropout, linear. ``normalize``
    divides the pooled vector by its length, as models of sentence vectors often do.

    Paper: Devlin et al. 2019 (the head); Sun et al. 2019, "How to fine-tune BERT for text classification", section 5.3 (layers,
    pooling, truncation "head+tail"); several ``heads``: after MHLoss (Fu et al. 2022).
    Formula: logits_m = h W_m^T + b_m with h [rows, d], W_m [classes, d], m = 1 .. H; loss = mean (``reduction: sum``: sum) over heads of
    the mean over rows of cross entropy, binary cross entropy (mean over labels), or squared error of (y - mean) / std of the training
    values; the prediction averages logits over heads, which is the one linear map that `HeadModule.fold` returns.
    Needs: labels. ``layers`` other than the top make the body return all hidden states.
    Costs: one pass; H d classes weights beside the family's dense layer.
    Differs: whether MHLoss sums over its heads or averages them is not known here. The sum trains each head as a single one and hands the
    body H times its gradient; the mean keeps the body's gradient and divides each head's by H. Adam's steps are the same size either way;
    what differs is clipping and the weight of a stabilizer's term beside the loss. One head has the same loss with both. A family head
    without a bias (decoders) cannot hold a mean, so that its values are divided by their root mean square only. A pair of texts always
    loses the end of its longer text first.
    """

    heads: Annotated[int, Field(ge=1)] = 1
    layers: tuple[int, ...] = (-1,)
    pool: Pool = "auto"
    combine: Combine = "concat"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_length: Annotated[int, Field(ge=1)] | None = None
    truncation: Truncation = "head"
    reduction: Literal["mean", "sum"] = "mean"
    normalize: bool = False

    supervised: ClassVar[bool] = True
    shards: ClassVar[bool] = True

    def build(self, task: Any, backbone: Backbone) -> FramingBase:
        """The module for ``task`` (its kind, labels, and for regression its training values). Weights come from torch's generator."""
        if task.kind in KINDS_OF_THEIR_OWN:
            return self.suited(task.kind).build(task, backbone)
        if task.kind not in ("classification", "regression", "multilabel"):
            raise RecipeError(f"head cannot serve a task of kind {task.kind!r}: it predicts classes, values or sets of labels")
        return HeadModule(self, task, backbone)

    def suited(self, kind: Kind) -> Head | TokenHead | SpanHead:
        """The head that a task of ``kind`` needs: this one, or over words or starts and ends of answers, of which no text is pooled."""
        if kind not in KINDS_OF_THEIR_OWN:
            return self
        if self.layers != (-1,):
            raise RecipeError(f"head.layers={list(self.layers)}: words are read at the top layer only; leave head.layers at [-1]")
        known = {"heads": self.heads, "dropout": self.dropout, "max_length": self.max_length}
        return TokenHead(**known) if kind == "tagging" else SpanHead(**known)  # type: ignore[arg-type]


class HeadModule(FramingBase):
    """`Head` at run time. Weights: ``dense``, ``norm`` (where the family has them) and ``final`` [heads * classes, dim].

    Buffers: ``thresholds`` [classes] above which a label of a multi-label task is predicted (0.5 until set from the development
    split); ``target_mean`` and ``target_std`` (scalars) of the training values of a regression task.
    """

    deterministic = True

    def __init__(self, head: Head, task: Any, backbone: Backbone) -> None:
        super().__init__()
        self.kind: Kind = task.kind
        self.labels = tuple(task.labels) if task.kind != "regression" else ()
        self.heads, self.times = head.heads, head.heads if head.reduction == "sum" else 1
        self.classes = len(self.labels) or 1
        self.pooling = Pooling.of(backbone, head.pool, head.layers, head.combine, unit=head.normalize)
        self.reads = self.pooling.how
        self.smooths = task.kind != "regression"
        self.text = TextEncoder.of(backbone, head.max_length, head.truncation)
        self.spec = _own_spec(head, self.pooling, backbone)
        self._target: Callable[[Any], Any] = task.target
        self._build_layers(backbone, head.dropout)
        if self.kind == "multilabel":
            self.register_buffer("thresholds", torch.full((self.classes,), 0.5))
        if self.kind == "regression":
            mean, std = _standard(task, centered=self.final.bias is not None)
            self.register_buffer("target_mean", mean)
            self.register_buffer("target_std", std)

    def _build_layers(self, backbone: Backbone, dropout: float | None) -> None:
        config, spec = backbone.config, self.spec
        width = self.pooling.width(backbone.hidden_size)
        self.input_dropout = _dropout(config, spec.input_dropout, dropout) if spec is not None and spec.input_dropout else None
        self.dense, self.activation, self.norm = before_the_last(config, spec, width)
        self.dropout = _dropout(config, RATES if spec is None else spec.dropout, dropout)
        self.final = nn.Linear(width, self.heads * self.classes, bias=spec is None or spec.bias)
        draw(self.final, config, final=True)

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One prompt an example: its text or pair, truncated, and its target if it has a label."""
        target = self._target
        rows = zip(self.text.encode(examples), examples, strict=True)
        return [[Prompt(x.ids, x.types, None if e.label is None else target(e.label))] for x, e in rows]

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Inputs padded on the right; targets [rows] or [rows, classes] if every row has one; weights [rows] if any is not 1."""
        targets = weights = None
        if all(p.target is not None for p in prompts):
            kind = torch.int64 if self.kind == "classification" else torch.float32
            targets = torch.tensor([p.target for p in prompts], dtype=kind)
        if any(p.weight != 1.0 for p in prompts):
            weights = torch.tensor([p.weight for p in prompts])
        return Batch(tensors(pad(prompts, int(self.text.tokenizer.pad_token_id or 0))), targets, weights)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The pooled vectors [rows, dim], the family's pooler included: all that the backbone does."""
        return self.pooling.read(backbone, batch)

    def trunk_key(self) -> str:
        """Pooling, layers, combination, length and truncation."""
        return self.pooling.key(self.text)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled vectors [rows, dim] -> logits [heads, rows, classes] and what the final map read [rows, dim]."""
        x = pooled if self.input_dropout is None else self.input_dropout(pooled)
        if self.dense is not None and self.activation is not None:
            x = self.activation(self.dense(x))
        if self.norm is not None:
            x = self.norm(x)
        x = self.dropout(x)
        return self.final(x).view(len(x), self.heads, self.classes).transpose(0, 1), x

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab. ``features`` in the batch's inputs stand for the trunk's output. Values and their targets are standardized."""
        cached = batch.inputs.get("features")
        logits, features = self(self.trunk(backbone, batch) if cached is None else cached)
        targets = batch.targets
        if self.kind == "regression" and targets is not None:
            targets = (targets - self._buffer("target_mean")) / self._buffer("target_std")
        return Scores((Slab(logits, targets, batch.weights, features, self.kind, batch.task),))

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """The supervised loss (`supervised_loss`) of the only slab, mean or sum over heads; targets are smoothed in training mode only."""
        loss = supervised_loss(scores.only, self.smoothing if self.training else 0.0)
        return loss if self.times == 1 else loss * self.times

    def decode(self, scores: Scores) -> list[Prediction]:
        """Predictions from logits averaged over heads: labels as the user gave them, values on the user's scale."""
        logits = scores.only.logits.detach().float().mean(0)
        if self.kind == "regression":
            std, mean = (self._buffer(name).to(logits.device) for name in ("target_std", "target_mean"))  # scores are joined on the CPU
            values = logits[:, 0] * std + mean
            return [Prediction(v) for v in values.tolist()]
        if self.kind == "classification":
            best, rows = logits.argmax(-1).tolist(), logits.softmax(-1).tolist()
            return [Prediction(self.labels[i], dict(zip(self.labels, row, strict=True))) for i, row in zip(best, rows, strict=True)]
        chances = logits.sigmoid()
        chosen = (chances >= self._buffer("thresholds").to(logits.device)).tolist()
        return [
            Prediction(tuple(x for x, on in zip(self.labels, ons, strict=True) if on), dict(zip(self.labels, row, strict=True)))
            for ons, row in zip(chosen, chances.tolist(), strict=True)
        ]

    def fold(self) -> tuple[Tensor, Tensor | None]:
        """The one linear map equal to the mean of the heads: weight [classes, dim], bias [classes] (None where the head has none)."""
        return folded(self.final, self.heads)

    def beside(self, output: Any, scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of the family's classifier, and ours: heads averaged, values on the user's scale."""
        theirs = output.logits.float()
        if self.kind == "regression":
            return theirs, torch.tensor([[p.label] for p in self.decode(scores)], device=theirs.device)
        return theirs, scores.only.logits.mean(0)

    def export_state(self) -> dict[str, Tensor] | None:
        """Weights named as in the family's ``ForSequenceClassification`` class, heads folded, values on the user's scale.

        None when this head is not the family's own and so loads with tempering only.
        """
        if self.spec is None:
            return None
        weight, bias = self.fold()
        if self.kind == "regression":
            weight = weight * self._buffer("target_std")
            bias = None if bias is None else bias * self._buffer("target_std") + self._buffer("target_mean")
        return named(self.spec, (weight, bias), self.dense, self.norm)

    def _buffer(self, name: str) -> Tensor:
        return self.get_buffer(name)


def _own_spec(head: Head, pooling: Pooling, backbone: Backbone) -> HeadSpec | None:
    """The family's own head, if that is what ``head`` asks for."""
    spec = backbone.layout.head
    asked = head.pool == "auto" or (spec is not None and head.pool == spec.pool == "pooler")
    return spec if asked and not head.normalize and pooling.layers == (pooling.top,) else None


def _dropout(config: Any, names: tuple[str, ...], given: float | None) -> nn.Dropout:
    """Dropout at the given rate, else at the first rate that the configuration sets."""
    return nn.Dropout(float(first(config, *names, default=0.0) if given is None else given))


def _standard(task: Any, centered: bool) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the training values; (0, root mean square) where the head cannot hold a mean; 1 for a spread of none."""
    values = torch.tensor([float(task.target(e.label)) for e in task.train if e.label is not None], dtype=torch.float64)
    mean = values.mean() if centered and len(values) else torch.zeros((), dtype=torch.float64)
    std = (values - mean).square().mean().sqrt() if len(values) else torch.ones((), dtype=torch.float64)
    return mean.float(), (std if float(std) > 0 else torch.ones_like(std)).float()
