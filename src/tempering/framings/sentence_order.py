"""Sentence order: whether two neighboring sentences stand as they were written, a task that texts carry in themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Batch, Example, Prediction, Prompt, Scores
from tempering.framings.head import Head, HeadModule
from tempering.framings.losses import supervised_loss
from tempering.framings.module import FramingBase
from tempering.framings.pooling import Pool

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone

_END = re.compile(r"(?<=[.!?\u2026])[\"'\u2019\u201d)\]]*\s+|(?<=[\u3002\uff01\uff1f])|\n+")
ORDERS = ("in order", "swapped")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SentenceOrder:
    """Trains to tell whether two neighboring sentences of a text were swapped. Labels are not read.

    *Paper*: Lan et al. 2020 (ALBERT, sentence order prediction); as an intermediate task: Ruder 2021, behavioural fine-tuning.
    *Formula*: a text's neighbors (s_i, s_i+1), i drawn evenly, swapped with chance 1/2; binary cross entropy by the family's own head over
    the pair. *Needs*: texts of two sentences or more; of a text with one sentence the halves stand for two, and one of a single word,
    which has no halves, teaches nothing. *Costs*: one pass; the family's head. New pairs are drawn in every epoch.
    *Differs*: ALBERT takes segments of several sentences, here single ones; sentences end at . ! ? and the like, and at line breaks.
    """

    max_length: Annotated[int, Field(ge=1)] | None = None
    pool: Pool = "auto"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None

    supervised: ClassVar[bool] = False

    def build(self, task: Any, backbone: Backbone) -> SentenceOrderModule:
        """The module for ``backbone``, whatever the task. Weights come from torch's generator."""
        return SentenceOrderModule(self, backbone)


class SentenceOrderModule(FramingBase):
    """`SentenceOrder` at run time. Weights: those of ``head``."""

    deterministic = False
    renders_anew = True
    smooths = True

    def __init__(self, framing: SentenceOrder, backbone: Backbone) -> None:
        super().__init__()
        asked = SimpleNamespace(kind="classification", labels=ORDERS, target=ORDERS.index, train=())
        self.head = HeadModule(Head(max_length=framing.max_length, pool=framing.pool, dropout=framing.dropout), asked, backbone)
        self.reads = self.head.reads

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """A pair of neighbors of each text, swapped or not."""
        drawn = [_pair(" ".join(example.texts), rng) for example in examples]
        pairs = [Example(texts, order, example.row) for (texts, order), example in zip(drawn, examples, strict=True)]
        return self.head.render(pairs, (), rng)

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Padded pairs with their orders."""
        return self.head.collate(prompts, rng)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The pooled pairs [rows, dim]."""
        return self.head.trunk(backbone, batch)

    def trunk_key(self) -> str:
        """Pairs are drawn anew, so that the trunk's output is never worth keeping."""
        return f"sentence_order {self.head.trunk_key()}"

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab of two classes."""
        return self.head.scores(backbone, batch)

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Cross entropy; targets are smoothed in training mode only."""
        return supervised_loss(scores.only, self.smoothing if self.training else 0.0)

    def decode(self, scores: Scores) -> list[Prediction]:
        """The order of each pair, with its chance."""
        return self.head.decode(scores)


def sentences(text: str) -> list[str]:
    """The sentences of ``text``, without the space around them."""
    return [part.strip() for part in _END.split(text) if part and part.strip()]


def parts_of(text: str) -> list[str]:
    """Two parts of ``text`` or more: its sentences, the halves of its only one, or its only word twice."""
    found, words = sentences(text), text.split()
    if len(found) > 1:
        return found
    return [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])] if len(words) > 1 else [text, text]


def _pair(text: str, rng: np.random.Generator) -> tuple[tuple[str, str], str]:
    """Two neighbors and their order."""
    parts = parts_of(text)
    at, order = int(rng.integers(len(parts) - 1)), ORDERS[int(rng.random() < 0.5)]
    first, second = parts[at], parts[at + 1]
    return ((first, second) if order == ORDERS[0] else (second, first)), order
