"""Several tasks over one backbone, put together for a stage: learner, rows, feed, evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempering.backbone import Backbone
from tempering.contracts import Example, Kind, Seeds, predicts
from tempering.errors import RecipeError
from tempering.framings.module import FramingBase
from tempering.framings.several import Several
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.finishing import finish
from tempering.stages.live_dropout import dropout_notes
from tempering.stages.row_weights import check_weights, row_weights, weighable
from tempering.stages.setup import Surroundings, check_carried, compares_scores, positive_class, rows_of, tell_notes
from tempering.stages.sources import distinct_names, pooled, suited
from tempering.streams import numpy_stream, torch_stream
from tempering.tasks.task import Task
from tempering.train.device import place
from tempering.train.evaluate import Evaluator, fit_thresholds
from tempering.train.several import SeveralEvaluator, SeveralFeed, shares


@dataclass(frozen=True)
class Part:
    """What of a stage's settings speaks of one of its tasks."""

    framing: Any
    class_weights: str
    eval_strategy: str
    text: str = "labeled"


@dataclass
class Group:
    """The tasks of a stage `tempering.stages.multi_task.MultiTask` by name, over one learner."""

    stage: Any
    framings: Sequence[Any]
    tasks: Sequence[Task]
    names: Sequence[str]
    learner: Learner
    seeds: Seeds
    rows: Mapping[str, Sequence[Example]]
    held: Mapping[str, Sequence[Example]]
    views: SeveralEvaluator

    @classmethod
    def of(cls, stage: Any, backbone: Backbone, tasks: Sequence[Task], seeds: Seeds) -> Group:
        """Attach the tuning, build every framing, and take the rows of every task."""
        names = distinct_names(tasks, [one.name for one in stage.tasks])
        framings = [suited(framing, task.kind) for framing, task in zip(stage.framing, tasks, strict=True)]
        learner = _learner(stage, framings, backbone, tasks, names, seeds)
        found, evaluators, records = {}, {}, {}
        for name, task, framing in zip(names, tasks, framings, strict=True):
            settled = getattr(learner.framing.part(name), "settled", framing)  # what is saved, where the task's rows settled it
            found[name] = rows_of(Part(framing, stage.class_weights, stage.eval_strategy), task, seeds)
            records[name] = {"framing": settled, "positive": positive_class(task)}
            if found[name][1]:
                kind: Kind = task.kind if predicts(framing) else "text"
                evaluators[name] = Evaluator(found[name][1], kind, task.labels, (), stage.per_device_eval_batch_size)
        rows, held = ({name: both[i] for name, both in found.items()} for i in (0, 1))
        return cls(stage, framings, tasks, names, learner, seeds, rows, held, SeveralEvaluator(evaluators, records))

    @property
    def chances(self) -> list[float]:
        """How often each task is drawn."""
        stage = self.stage
        return [float(p) for p in shares([len(r) for r in self.rows.values()], stage.sampling, stage.temperature, stage.cap)]

    @property
    def judged(self) -> bool:
        """Whether labels of any task are compared with predictions."""
        return any(evaluator.kind != "text" for evaluator in self.views.evaluators.values())

    def view(self, number: int) -> Learner:
        """The learner of one task."""
        return self.views.view(self.learner, self.names[number])

    def under_head(self, number: int) -> Task:
        """What the head of a task is trained on: all tasks as one where they share it."""
        return pooled(self.tasks, self.names, "a head") if self.stage.heads == "shared" else self.tasks[number]

    def feed(self) -> Any:
        """The batches, drawn from all tasks. It stands for a `tempering.train.feed.Feed` in the loop."""
        parts = {name: self.learner.framing.part(name) for name in self.names}
        return SeveralFeed.of(parts, self.rows, self.chances, self.stage, self.seeds, self._weights(), self.stage.sampling == "round_robin")

    def _weights(self) -> dict[str, Any]:
        """What the rows of every task count for. Where rows have no one class, all count the same; one task at least must have classes."""
        stages = [Part(framing, self.stage.class_weights, self.stage.eval_strategy) for framing in self.framings]
        able = [weighable(stage, task) for stage, task in zip(stages, self.tasks, strict=True)]
        if not any(able):
            check_weights(stages[0], self.tasks[0])
        return {
            name: row_weights(stage, task, self.rows[name]) if can else None
            for name, stage, task, can in zip(self.names, stages, self.tasks, able, strict=True)
        }

    def evaluator(self, around: Surroundings) -> Any:
        """What evaluates all tasks; None where none has rows for it. It stands for a `tempering.train.evaluate.Evaluator` in the loop.

        The user's further metrics are of the user's own task.
        """
        for i, name in enumerate(self.names):
            if name in self.views.evaluators:
                evaluator = self.views.evaluators[name]
                evaluator.listener, evaluator.metrics = around.listener, around.metrics if i == self.stage.own else ()
        return self.views if self.views.evaluators else None

    def prepare(self, around: Surroundings) -> None:
        """Let every framing choose from its training rows."""
        self.learner.to(place(self.stage).device)
        for i, name in enumerate(self.names):
            rng = numpy_stream(self.seeds.sampling, "framing", name)
            self.learner.framing.part(name).prepare(self.view(i), self.rows[name], rng)
            tell_notes(self.view(i), around, () if i else dropout_notes(self.stage, self.learner))

    def finish(self) -> bool:
        """The same with the trained weights; thresholds of tasks with sets of labels are set. Whether any may predict otherwise since."""
        changed = []
        for i, name in enumerate(self.names):
            changed.append(finish(self.view(i), self.rows[name], self.seeds, name))
            if name in self.views.evaluators:
                changed.append(bool(fit_thresholds(self.view(i), self.views.evaluators[name])))
        return any(changed)


def _learner(stage: Any, framings: Sequence[Any], backbone: Backbone, tasks: Sequence[Task], names: Sequence[str], seeds: Seeds) -> Learner:
    for framing in framings:
        if hasattr(framing, "opens"):
            framing.opens(backbone)
    with torch_stream(seeds.init, "init", "tuning"):
        stage.tuning.attach(backbone)
    shared = pooled(tasks, names, "a head") if stage.heads == "shared" else None
    parts: dict[str, Any] = {}
    for name, task, framing in zip(names, tasks, framings, strict=True):
        with torch_stream(seeds.init, "init", "framing", name):
            parts[name] = next(iter(parts.values())) if shared and parts else framing.build(shared or task, backbone)
        _check(stage, framing, parts[name], task)
        parts[name].smoothing, parts[name].compared = stage.label_smoothing_factor, compares_scores(stage)
    own = None if stage.own is None else names[stage.own]
    weights = {name: one.weight for name, one in zip(names, stage.tasks, strict=True)}
    several = Several(parts, weights, stage.loss_scale == "log_classes", own)
    learner = Learner(backbone, several, stage.tuning, {"framing": stage.framing})
    learner.eval_batch_size = stage.per_device_eval_batch_size
    return learner


def _check(stage: Any, framing: Any, part: Any, task: Task) -> None:
    """Refuse framings that need what several tasks do not have: one set of rows, targets that can be smoothed."""
    name = name_of(framing)[1]
    check_carried(stage, part)
    if type(part).refresh is not FramingBase.refresh:
        raise RecipeError(
            f"framing {name} of task {task.name} re-estimates its state over all rows of one task while it trains, which several tasks do"
            " not have; take framing head in a stage multi_task, or train that task by itself"
        )
    if stage.label_smoothing_factor and not part.smooths:
        raise RecipeError(
            f"label_smoothing_factor {stage.label_smoothing_factor:g} spreads targets over classes, and framing {name} of task {task.name}"
            " has no such targets; leave it out"
        )
