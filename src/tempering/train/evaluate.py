"""Evaluation of a learner on a split: predictions, metrics, multi-label thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Example, Kind, Prediction, Prompt, Rendered, Scores
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
    _asked: Rendered | None = None
    _cached: Tensor | None = None

    def asked(self, learner: Learner) -> Rendered:
        """The split as prompts, rendered at first use."""
        if self._asked is None and self.ready is not None:
            self._asked = Rendered((), list(self.ready), [1] * len(self.ready))
        if self._asked is None:
            self._asked = Rendered.of(self.examples, learner.framing.render(self.examples, (), np.random.default_rng(0)))
            self._cached = self.features(self._asked.prompts) if self.features else None
        return self._asked

    def amount(self, learner: Learner) -> dict[str, int]:
        """How much is read: ``texts`` (documents, where rows are cut from them) and ``tokens``, special ones among them."""
        asked = self.asked(learner)
        texts = getattr(self.ready, "documents", len(asked.counts))
        return {"texts": int(texts), "tokens": sum(len(prompt.input_ids) for prompt in asked.prompts)}

    def scores(self, learner: Learner) -> Scores:
        """Evaluation-mode scores of the split, in order."""
        with telling(learner, self.listener):
            asked = self.asked(learner)
            return learner.score(asked.prompts, self.batch_size, self._cached)

    def __call__(self, learner: Learner) -> tuple[dict[str, float], list[Prediction]]:
        """(metrics with the loss as ``loss``, predictions); of unlabelled text only the loss."""
        if learner.framing.keeps_scores and self.kind != "text":
            return self.judged(learner, self.scores(learner))
        with telling(learner, self.listener):
            loss = learner.mean_loss(self.asked(learner).prompts, self.batch_size)
        unjudged = learner.framing.keeps_scores or not getattr(learner.framing, "predicts_labels", True)
        if unjudged or self.ready is not None or any(e.label is None for e in self.examples):
            return {"loss": loss}, []
        return self.judged(learner, None, loss)

    def judged(self, learner: Learner, scores: Scores | None, loss: float = 0.0) -> tuple[dict[str, float], list[Prediction]]:
        """What a call says, from ``scores`` that are there already, or where none are kept from the ``loss``."""
        loss = loss if scores is None else float(learner.framing.loss(scores, None))
        predictions = list(learner.framing.predictions(learner, self.asked(learner), scores, self.batch_size))
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


def fit_thresholds(learner: Learner, evaluator: Evaluator) -> dict[str, float]:
    """Multi-label: choose on the development split the threshold of each label that gives the best F1, and keep it.

    Question answering: the same of the threshold by which "no answer" must exceed the best answer, where questions may have none.
    Returns the metrics of the split from then on; none where there is no threshold to choose.
    """
    if evaluator.kind == "question_answering" and hasattr(learner.framing, "margins"):
        if not bool(learner.framing.threshold.isfinite()):
            return {}
        scores = evaluator.scores(learner)
        found = learner.framing.margins(evaluator.asked(learner), scores)
        learner.framing.threshold.fill_(best_margin(found, [e.label for e in evaluator.examples]))
        return evaluator.judged(learner, scores)[0]
    if evaluator.kind != "multilabel" or not hasattr(learner.framing, "thresholds"):
        return {}
    scores = evaluator.scores(learner)
    probabilities = scores.only.logits.mean(0).sigmoid().numpy()
    gold = np.array([[label in e.label for label in evaluator.labels] for e in evaluator.examples], dtype=float)
    learner.framing.thresholds.copy_(torch.tensor(choose_thresholds(gold, probabilities)))
    return evaluator.judged(learner, scores)[0]
