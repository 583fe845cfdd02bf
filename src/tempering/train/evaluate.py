"""Evaluation of a learner on a split: predictions, metrics, multi-label thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Example, Kind, Prediction, Prompt, Scores
from tempering.learner import Learner
from tempering.tasks.answers import best_margin
from tempering.tasks.metrics import choose_thresholds, compute
from tempering.train.progress import Listener, silent


@contextmanager
def telling(learner: Learner, listener: Listener) -> Iterator[None]:
    """Say so if an evaluation inside the block ran out of memory and went on in smaller batches."""
    before = learner.fits
    yield
    if learner.fits != before:
        rows = "one row" if learner.fits == 1 else f"{learner.fits} rows"
        listener({"event": "note", "text": f"out of memory: evaluation goes on in batches of {rows}"})


@dataclass
class Evaluator:
    """Evaluates on one split; prompts are rendered once. ``features`` are cached trunk outputs of the split, if any.

    ``ready`` are prompts that are there already, such as the rows of a corpus; then ``examples`` is empty.
    """

    examples: Sequence[Example]
    kind: Kind
    labels: tuple[Any, ...]
    metrics: tuple[str, ...] = ()
    batch_size: int = 64
    features: Callable[[Sequence[Prompt]], Tensor] | None = None
    listener: Listener = silent
    ready: Sequence[Prompt] | None = None
    _prompts: list[Prompt] | None = None
    _counts: list[int] = field(default_factory=list)
    _cached: Tensor | None = None

    def prompts(self, learner: Learner) -> list[Prompt]:
        """The prompts of the split, rendered at first use."""
        if self._prompts is None and self.ready is not None:
            self._prompts, self._counts = list(self.ready), [1] * len(self.ready)
        if self._prompts is None:
            rendered = learner.framing.render(self.examples, (), np.random.default_rng(0))
            self._prompts, self._counts = [p for found in rendered for p in found], [len(found) for found in rendered]
            self._cached = self.features(self._prompts) if self.features else None
        return self._prompts

    def laid_out(self, learner: Learner) -> tuple[list[Prompt], list[int], Sequence[Example]]:
        """The prompts, how many each example has, and the examples."""
        return self.prompts(learner), self._counts, self.examples

    def scores(self, learner: Learner) -> Scores:
        """Evaluation-mode scores of the split, in order."""
        with telling(learner, self.listener):
            prompts = self.prompts(learner)
            return learner.score(prompts, self.batch_size, self._cached)

    def __call__(self, learner: Learner) -> tuple[dict[str, float], list[Prediction]]:
        """(metrics with the loss as ``loss``, predictions); of unlabelled text only the loss."""
        if learner.framing.keeps_scores and self.kind != "text":
            scores = self.scores(learner)
            loss = float(learner.framing.loss(scores, None))
        else:
            with telling(learner, self.listener):
                scores, loss = None, learner.mean_loss(self.prompts(learner), self.batch_size)
            unjudged = learner.framing.keeps_scores or not getattr(learner.framing, "predicts_labels", True)
            if unjudged or self.ready is not None or any(e.label is None for e in self.examples):
                return {"loss": loss}, []
        predictions = list(
            learner.framing.predictions(learner, self.prompts(learner), self._counts, self.examples, scores, self.batch_size)
        )
        gold = [e.label for e in self.examples]
        probabilities = [p.probabilities for p in predictions] if self.kind != "regression" else None
        found = compute(
            self.kind,
            self.labels,
            gold,
            [p.label for p in predictions],
            probabilities,
            self.metrics,
            positive=learner.record.get("positive"),
        )
        return {"loss": loss} | found, predictions


def fit_thresholds(learner: Learner, evaluator: Evaluator) -> None:
    """Multi-label: choose on the development split the threshold of each label that gives the best F1, and keep it.

    Question answering: the same of the threshold by which "no answer" must exceed the best answer, where questions may have none.
    """
    if evaluator.kind == "question_answering" and hasattr(learner.framing, "margins"):
        if bool(learner.framing.threshold.isfinite()):
            found = learner.framing.margins(*evaluator.laid_out(learner), evaluator.scores(learner))
            learner.framing.threshold.fill_(best_margin(found, [e.label for e in evaluator.examples]))
        return
    if evaluator.kind != "multilabel" or not hasattr(learner.framing, "thresholds"):
        return
    slab = evaluator.scores(learner).only
    probabilities = slab.logits.mean(0).sigmoid().numpy()
    gold = np.array([[label in e.label for label in evaluator.labels] for e in evaluator.examples], dtype=float)
    learner.framing.thresholds.copy_(torch.tensor(choose_thresholds(gold, probabilities)))
