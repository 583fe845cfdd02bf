"""What a tuning may ask of the task before training: gradients at the start, and where another tuning would take the weights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tempering.contracts import Batch, Tuning, Weights
from tempering.learner import Learner
from tempering.streams import numpy_stream, torch_stream
from tempering.train.device import place
from tempering.train.feed import Feed
from tempering.train.fit import Plan, fit
from tempering.train.progress import silent


@dataclass(frozen=True)
class TaskProbe:
    """A `tempering.contracts.Probe` over the rows of one stage. Nothing here moves the learner or any stream of the run."""

    learner: Learner
    feed: Feed
    plan: Plan

    def gradients(self, rows: int | None = None, batch_size: int = 1, sampled: bool = False) -> Iterator[Weights]:
        """Gradients of the supervised loss by the body's own weights, in evaluation mode, a batch of ``batch_size`` rows at a time."""
        order = numpy_stream(self.plan.seed, "probe", "order").permutation(self.feed.rows)[:rows]
        learner = self._copy()
        learner.eval()
        for name, weight in learner.named_parameters():
            weight.requires_grad_(name.removeprefix("backbone.model.") in learner.backbone.own)
        wanted = learner.trained()
        rng = numpy_stream(self.plan.seed, "probe", "labels")
        prompts = self.feed.prompts()
        for i in range(0, len(order), batch_size):
            batch = learner.framing.collate([prompts[r] for r in order[i : i + batch_size]], rng).to(learner.device)
            scores = learner(_relabeled(learner, batch, rng) if sampled else batch)
            loss = learner.framing.loss(scores, batch)
            found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            yield {name: g for name, g in zip(wanted, found, strict=True) if g is not None}

    def fine_tuned(self, tuning: Tuning, num_train_epochs: float | None = None) -> Weights:
        """The weights that ``tuning`` trains on the body, after this stage's loop ran with it on a copy."""
        learner = self._copy()
        with torch_stream(self.plan.seed, "probe", "tuning"):
            tuning.attach(learner.backbone)
        epochs = self.plan.settings.num_train_epochs if num_train_epochs is None else num_train_epochs
        settings = dataclasses.replace(self.plan.settings, num_train_epochs=epochs, eval_strategy="no", early_stopping_patience=None)
        own: Any = (("tuning", tuning),) if hasattr(tuning, "start") else ()  # a tuning's own hooks are part of it
        plan = dataclasses.replace(
            self.plan, settings=settings, stabilizers=own, evaluator=None, folder=None, resume=False, listener=silent
        )
        steps = settings.total_steps(self.feed.rows)
        self.plan.listener({"event": "note", "text": f"a run of {steps} steps on a copy comes first: it chooses what is trained"})
        fit(learner, self.feed, plan)
        return {n: w.detach() for n, w in learner.trained().items() if n.startswith("backbone.")}

    def _copy(self) -> Learner:
        self.learner.to(place(self.plan.settings).device)
        return copy.deepcopy(self.learner)


def _relabeled(learner: Learner, batch: Batch, rng: np.random.Generator) -> Batch:
    """``batch`` with each class drawn from the learner's own prediction (the Fisher information proper, not the empirical one)."""
    with torch.no_grad():
        chances = learner(batch).only.logits.mean(0).softmax(-1).cpu().double().numpy()
    drawn = [int(rng.choice(len(p), p=p / p.sum())) for p in chances]
    batch.targets = torch.tensor(drawn, device=learner.device)
    return batch
