"""Class scores freed of what the model says without a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Batch, Example, Slab
from tempering.errors import DataError, RecipeError
from tempering.framings.asked.calibration import content_free, diagonal
from tempering.framings.templates.marks import Everywhere
from tempering.framings.verbalizers.base import Run, VerbalizerModule, Words, checked, class_scores, over_prompts, unlabeled
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.words import Table

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner

FLOOR = math.log(torch.finfo(torch.float32).tiny)  # stands for the logarithm of a probability of 0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Calibrated:
    """Divides the class probabilities of another verbalizer by those that the model gives without regard to the text.

    ``by``: "content_free" asks the model about ``inputs`` put into every slot of the template; "support" about up to ``rows`` training
    texts, whose labels are not read. ``when``: "after" training, so that it evens out the trained model; "before", so that training
    goes on from calibrated scores. Without training the two are one.

    *Paper*: Zhao et al. 2021 (content_free); after OpenPrompt (Ding et al. 2022) and Hu et al. 2022 (support). *Formula*: p [rows,
    classes] = softmax of the scores, p_cf [classes] = mean of p over the asked inputs; s = log p - log p_cf, P(y | x) = softmax(s):
    W = diag(p_cf)^-1, b = 0. *Needs*: classes, and training rows at hand. *Costs*: a pass over the asked inputs, once. *Differs*: in
    log space, so that a p_cf of 1e-30 divides as any other; of several inputs the mean is taken of probabilities, so that it is their
    mean that comes out even. OpenPrompt divides the probability of each label word and not of each class; `Knowledgeable` does so too.
    """

    verbalizer: Any = Field(default_factory=lambda: Manual("mean_prob"))
    by: Literal["content_free", "support"] = "content_free"
    inputs: tuple[str, ...] = ("N/A", "", "[MASK]")
    rows: int = Field(default=200, ge=1)
    when: Literal["before", "after"] = "after"

    @field_validator("verbalizer")
    @classmethod
    def _is_verbalizer(cls, given: Any) -> Any:
        return checked(given)

    @property
    def trains(self) -> bool:
        """Whether the verbalizer inside does."""
        return bool(self.verbalizer.trains)

    @property
    def works_untrained(self) -> bool:
        """Where the verbalizer inside does."""
        return bool(getattr(self.verbalizer, "works_untrained", True))

    @property
    def why_not_cached(self) -> str:
        """The reason of the verbalizer inside."""
        return str(getattr(self.verbalizer, "why_not_cached", ""))

    def build(self, task: Any, backbone: Backbone, words: Words) -> CalibratedModule:
        """The module around that of the verbalizer inside."""
        if self.by == "content_free" and not self.inputs:
            raise RecipeError('calibrated: by=content_free needs inputs without content, such as inputs: ["N/A", ""]; found none')
        return CalibratedModule(self, self.verbalizer.build(task, backbone, words))


class CalibratedModule(VerbalizerModule):
    """`Calibrated` at run time: ``log_prior`` [classes], log p_cf, all zero (no calibration) until it is taken."""

    log_prior: Tensor

    def __init__(self, value: Calibrated, inner: VerbalizerModule) -> None:
        super().__init__()
        self.value, self.inner, self.labels = value, inner, inner.labels
        self.register_buffer("log_prior", torch.zeros(len(inner.labels)))
        self._follow()

    def _follow(self) -> None:
        """Read what the verbalizer inside reads; it may have chosen other words."""
        self.masks, self.ids, self.wants, self.walks = self.inner.masks, self.inner.ids, self.inner.wants, self.inner.walks

    @property
    def reads_head(self) -> bool:
        """Whether the verbalizer inside does."""
        return self.inner.reads_head

    @property
    def table(self) -> Table | None:
        """The label words of the verbalizer inside."""
        return getattr(self.inner, "table", None)

    def forward(self, read: Tensor) -> Tensor:
        """What the verbalizer inside reads -> calibrated class scores [rows, classes]."""
        return self.calibrated(self.inner(read))

    def scores(self, backbone: Backbone, hidden: Tensor) -> Tensor:
        """Calibrated class scores from the body's last states [rows, masks, dim]."""
        return self.calibrated(self.inner.scores(backbone, hidden))

    def walk(self, run: Run, batch: Batch) -> Tensor:
        """Calibrated class scores from as many runs as the verbalizer inside takes."""
        return self.calibrated(self.inner.walk(run, batch))

    def calibrated(self, scores: Tensor) -> Tensor:
        """Class scores [rows, classes] with the prior taken off."""
        return diagonal(scores.float().log_softmax(-1), self.log_prior)

    def loss(self, slab: Slab) -> Tensor | None:
        """That of the verbalizer inside."""
        return self.inner.loss(slab)

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The verbalizer inside chooses first; the prior is taken now, or with ``when`` "after" left even."""
        self.inner.prepare(learner, examples, rng)
        self._follow()
        if self.value.when == "before":
            self._take(learner, examples, rng)

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The prior of the trained model."""
        self.inner.finish(learner, examples, rng)
        if self.value.when == "after":
            self._take(learner, examples, rng)

    @torch.no_grad()
    def _take(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        asked = self._asked(examples, rng)
        body = learner.backbone

        def work(batch: Batch) -> Tensor:
            return class_scores(self.inner, learner.framing, body, batch).float().log_softmax(-1)

        self.log_prior.copy_(content_free(over_prompts(learner, asked, rng, work).each()).clamp(min=FLOOR))

    def _asked(self, examples: Sequence[Example], rng: np.random.Generator) -> list[Example]:
        if not examples:
            raise DataError("calibrated: the prior is taken with training rows at hand (their texts, or how many each holds); found none")
        if self.value.by == "support":
            chosen = rng.permutation(len(examples))[: self.value.rows]
            return unlabeled([examples[i] for i in chosen])
        slots = len(examples[0].texts)
        return [Everywhere((text,) * slots) for text in self.value.inputs]

    def keep(self) -> dict[str, Any]:
        """What the verbalizer inside keeps; the prior is in the state dict."""
        return self.inner.keep()

    def recall(self, kept: dict[str, Any]) -> None:
        """Hand it back."""
        self.inner.recall(kept)
        self._follow()
