"""Batches and evaluations of several tasks in one run of the gradient loop: a micro-batch is of one task, a step holds several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tempering.contracts import Batch, Example, Prediction, Prompt, Seeds
from tempering.learner import Learner
from tempering.streams import key_of, numpy_stream
from tempering.tasks.metrics import default_metric
from tempering.train.evaluate import Evaluator
from tempering.train.feed import Feed, mass
from tempering.train.settings import Loop

Sampling = Literal["size", "temperature", "uniform", "round_robin"]
MEAN = "mean"  # the metric that chooses the best weights: the mean over tasks of each one's main metric


def shares(sizes: Sequence[int], sampling: Sampling, temperature: float = 1.0, cap: int | None = None) -> NDArray[np.float64]:
    """How often each task comes: p_t = n_t^(1/T) / sum n^(1/T), with n_t at most ``cap``; T = 1 for "size", ``temperature`` for
    "temperature", and infinite for the others.
    """
    counted = np.minimum(np.asarray(sizes, dtype=np.float64), math.inf if cap is None else float(cap))
    power = {"size": 1.0, "temperature": 1.0 / temperature}.get(sampling, 0.0)
    raised = counted**power
    return np.asarray(raised / raised.sum(), dtype=np.float64)


@dataclass
class SeveralFeed:
    """The training rows of several tasks, as micro-batches by optimizer step; what `tempering.train.feed.Feed` is for one.

    Each of the ``gradient_accumulation_steps`` micro-batches of a step is of a task drawn by ``chances``, or with ``in_turns`` none comes
    again before all have come. It holds the next rows of that task, whose epochs go by on their own. All draws are made from (seeds,
    step), so that there is nothing to save. A micro-batch counts by its rows, whatever a row is in its task (a text, its words, its
    masks), however it is cut or shared by processes.
    """

    feeds: Mapping[str, Feed]
    chances: Sequence[float]
    settings: Loop
    seeds: Seeds
    in_turns: bool = False
    features: Tensor | None = None
    rank: int = 0
    world: int = 1
    _order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    _nth: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    @classmethod
    def of(cls, parts: Mapping[str, Any], rows: Mapping[str, Sequence[Example]], chances: Sequence[float], settings: Loop, seeds: Seeds,
           weights: Mapping[str, np.ndarray | None], in_turns: bool = False) -> SeveralFeed:  # fmt: skip
        """Feeds over the ``rows`` of every task, framed by ``parts``, each with random streams of its own."""
        one = replace(settings, gradient_accumulation_steps=1)
        feeds = {}
        for name, part in parts.items():
            mine = replace(seeds, order=key_of(seeds.order, "task", name), dropout=key_of(seeds.dropout, "task", name))
            feeds[name] = Feed(part, rows[name], one, mine, weights=weights.get(name))
        return cls(feeds, chances, settings, seeds, in_turns)

    @property
    def rows(self) -> int:
        """What an epoch walks through: as many rows as all tasks have."""
        return sum(feed.rows for feed in self.feeds.values())

    @property
    def examples(self) -> list[Example]:
        """The rows of all tasks, one task after the other."""
        return [example for feed in self.feeds.values() for example in feed.examples]

    def prompts(self, epoch: int = 0) -> list[Prompt]:
        """One prompt a row, in the order of `examples`."""
        return [prompt for feed in self.feeds.values() for prompt in feed.prompts(epoch)]

    def drawn(self, slots: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(task number, how many micro-batches of that task came before) of the first ``slots`` micro-batches of the run, at least."""
        if len(self._order) < slots:
            count = 1 << max(10, (slots - 1).bit_length())  # a longer sequence begins with the shorter one
            self._order = self._tasks(count, len(self.chances))
            self._nth = np.zeros(len(self._order), np.int64)
            for task in range(len(self.chances)):
                mine = self._order == task
                self._nth[mine] = np.arange(int(mine.sum()))
        return self._order, self._nth

    def _tasks(self, count: int, tasks: int) -> NDArray[np.int64]:
        """The task of each of ``count`` micro-batches at least; more of them begin with the same ones."""
        rng = numpy_stream(self.seeds.order, "tasks")
        if self.in_turns:
            return np.concatenate([rng.permutation(tasks) for _ in range(-(-count // tasks))]).astype(np.int64)
        edges = np.cumsum(np.asarray(self.chances))
        return np.minimum(np.searchsorted(edges, rng.random(count), side="right"), tasks - 1).astype(np.int64)

    def micro(self, step: int, split: int = 1) -> list[Batch]:
        """The micro-batches of optimizer step ``step``, each cut into ``split`` parts (after a memory back-off)."""
        each, names, found = self.settings.gradient_accumulation_steps, list(self.feeds), []
        order, nth = self.drawn((step + 1) * each)
        for slot in range(step * each, (step + 1) * each):
            found += self._slot(names[order[slot]], int(nth[slot]), split)
        return found

    def _slot(self, name: str, nth: int, split: int) -> list[Batch]:
        """This process's parts of one micro-batch. The mass of its rows is shared out by what each part's loss is a mean over (texts,
        words, masks), so that the parts of all processes together have the loss that it has in one piece.
        """
        feed = self.feeds[name]
        feed.rank, feed.world = 0, 1
        whole = feed.micro(nth, split)
        feed.rank, feed.world = self.rank, self.world
        mine = feed.micro(nth, split) if self.world > 1 else whole
        rows = sum(float(len(b) if b.weights is None else b.weights.sum()) for b in whole)
        inner = sum(mass(b) for b in whole)
        for batch in mine:
            batch.task = name
            batch.extra["mass"] = mass(batch) * rows / inner if inner else 0.0  # nothing in it is to be learned
        return mine


@dataclass
class SeveralEvaluator:
    """Evaluates each task on its own split. Metrics are ``<task>/<metric>``, the mean ``loss``, and `MEAN` where labels are read."""

    evaluators: Mapping[str, Evaluator]
    records: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    _views: dict[str, Learner] = field(default_factory=dict)

    def view(self, learner: Learner, name: str) -> Learner:
        """The learner of one task: the same backbone with that task's framing."""
        if name not in self._views:
            made = Learner(learner.backbone, learner.framing.part(name), learner.tuning, dict(self.records.get(name, {})))
            made.eval_batch_size = learner.eval_batch_size
            self._views[name] = made
        return self._views[name]

    def __call__(self, learner: Learner) -> tuple[dict[str, float], list[Prediction]]:
        """(metrics, nothing: predictions of several tasks have no common list)."""
        learner.eval()  # all of it, so that the loop sees that it has to go back
        found: dict[str, float] = {}
        main, losses = [], []
        for name, evaluator in self.evaluators.items():
            metrics, _ = evaluator(self.view(learner, name))
            losses.append(metrics["loss"])
            found |= {f"{name}/{key}": value for key, value in metrics.items()}
            if (metric := default_metric(evaluator.kind, evaluator.labels)) in metrics:
                main.append(metrics[metric])
        mean = {MEAN: float(np.mean(main))} if main else {}
        return {"loss": float(np.mean(losses))} | mean | found, []
