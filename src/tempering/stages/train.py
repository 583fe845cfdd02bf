"""The stage that trains with gradients: supervised, task- or domain-adaptive, intermediate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.codec import methods
from tempering.contracts import Example, Kind, Seeds
from tempering.errors import RecipeError
from tempering.framings.head import Head
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.streams import key_of, torch_stream
from tempering.tasks.metrics import check_metrics, default_metric
from tempering.tasks.task import Task
from tempering.train.checkpoint import latest
from tempering.train.device import place, threads
from tempering.train.evaluate import Evaluator, fit_thresholds, telling
from tempering.train.feed import Feed, balanced_weights
from tempering.train.fit import Plan, fit
from tempering.train.probe import TaskProbe
from tempering.train.progress import Listener, silent
from tempering.train.settings import Loop
from tempering.tunings.full import Full


@plain_dataclass(frozen=True)
class Surroundings:
    """What a run brings to its stages: where checkpoints go, whether to resume, who listens, caches, extra metrics."""

    folder: Path | None = None
    resume: bool = False
    listener: Listener = silent
    cache: TrunkCache | None = None
    metrics: tuple[str, ...] = ()
    identity: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Train(Loop):
    """Trains a tuning of the backbone under a framing, steadied by stabilizers.

    ``text``: "labeled" trains on the task's rows; "unlabeled" on the texts of its training split alone; anything else is a file of
    texts. What crosses to the next stage is the backbone with the tuning folded in; the framing's own weights stay behind.
    The loop's settings (`tempering.train.settings.Loop`) are fields of this value too.
    """

    framing: Any = Field(default_factory=Head)
    tuning: Any = Field(default_factory=Full)
    stabilizers: tuple[Any, ...] = ()
    text: str = "labeled"

    @field_validator("framing", "tuning", "stabilizers", mode="before")
    @classmethod
    def _by_name(cls, given: Any, info: ValidationInfo) -> Any:
        """Methods may be named as in a recipe file: ``Train(tuning="lora")``."""
        return methods(str(info.field_name), given, f"Train.{info.field_name}")

    @property
    def cached(self) -> bool:
        """Whether the trunk is computed once: decided from the values alone, before anything is loaded (DESIGN, leak 7)."""
        return not self.why_not_cached

    @property
    def why_not_cached(self) -> str:
        """The reason why the trunk cannot be computed once; empty if it can."""
        touching = [name_of(s)[1] for s in self.live if {"weights", "noise"} & set(s.touches) or bool(getattr(s, "perturbations", 0))]
        if self.tuning.trains_backbone:
            return f"tuning {name_of(self.tuning)[1]} trains weights of the backbone"
        if not self.tuning.trunk_eval:
            return "the trunk runs with dropout"
        if not self.framing.supervised:
            return "masks are drawn anew for every batch"
        return f"{touching[0]} changes weights or embeddings from pass to pass" if touching else ""

    @property
    def acting(self) -> tuple[Any, ...]:
        """Everything that has hooks while training: the stabilizers, and those parts of the tuning and framing that act along."""
        return (*self.stabilizers, *(part for part in (*parts_of(self.tuning), self.framing) if hasattr(part, "start")))

    @property
    def live(self) -> tuple[Any, ...]:
        """What acts and is not at its neutral setting."""
        return tuple(s for s in self.acting if not s.neutral)

    @property
    def students(self) -> int:
        """Stochastic passes of one micro-batch: as many as any method reads, and one for the supervised loss unless it is replaced."""
        plain = 0 if any("base" in s.touches for s in self.live) else 1
        return max([plain, *(getattr(s, "students", 0) for s in self.live)])

    @property
    def passes_per_step(self) -> int:
        """Forward passes one micro-batch costs."""
        return self.students + sum(getattr(s, "teachers", 0) + getattr(s, "perturbations", 0) for s in self.live)

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """Train on ``backbone`` (changed in place) and return the learner. ``context`` holds a `Surroundings` as ``around``."""
        around: Surroundings = context.get("around") or Surroundings()
        metric = metric_of(self, task, around.metrics)
        examples, held_out = rows_of(self, task, seeds)
        learner = assemble(self, backbone, task, seeds)
        if note := _fresh_note(learner):
            around.listener({"event": "note", "text": note})
        evaluator = evaluator_of(self, task, held_out, around)
        feed = Feed(learner.framing, examples, self, seeds, weights=row_weights(self, task, examples))
        if self.cached:
            learner.to(place(self).device)
            cache = around.cache or TrunkCache()
            with telling(learner, around.listener):
                feed.features = cache.features(learner, feed.prompts(), self.per_device_eval_batch_size)
            if evaluator is not None:
                evaluator.features = lambda prompts: cache.features(learner, prompts, self.per_device_eval_batch_size)
                with telling(learner, around.listener):
                    evaluator.prompts(learner)  # here, where all threads are at work
        backbone.recompute(self.gradient_checkpointing)
        named = [(name_of(part)[1], part) for part in self.acting]
        plan = Plan(self, named, seeds.dropout, evaluator, metric, around.folder, around.resume, dict(around.identity), around.listener)
        if not (around.resume and around.folder and latest(around.folder)):  # a checkpoint holds what was chosen
            plan = prepared(self, learner, feed, plan, seeds)
        with threads(1 if self.cached else None):
            run = fit(learner, feed, plan)
        if evaluator is not None and self.framing.supervised:
            fit_thresholds(learner, evaluator)
        learner.record["stage"] = {
            "steps": run.step,
            "best_step": run.best_step,
            "best_kept": self.load_best_model_at_end and bool(run.history),
            "history": run.history,
            **({"facts": run.facts} if run.facts else {}),
            "passes": run.passes,
            "cached": self.cached,
            "split": run.split,
            "rows": len(examples),
        }
        return learner


def prepared(stage: Train, learner: Learner, feed: Feed, plan: Plan, seeds: Seeds) -> Plan:
    """Before the first step: first weights are set, then tuning and stabilizers choose from the data. ``plan`` with their choices."""
    live = [(name_of(s)[1], s) for s in stage.stabilizers if not s.neutral]
    for name, s in live:
        if hasattr(s, "initialize"):
            s.initialize(learner, key_of(seeds.init, "stabilizer", name))
    probe = TaskProbe(learner, feed, plan)
    for part in (p for p in parts_of(stage.tuning) if hasattr(p, "prepare")):
        part.prepare(learner, probe)
    chosen = [(name, s.prepare(learner, probe)) for name, s in live if hasattr(s, "prepare")]
    return dataclasses.replace(plan, prepared={f"{name}/{key}": value for name, state in chosen for key, value in state.items()})


def parts_of(tuning: Any) -> tuple[Any, ...]:
    """The single tunings that ``tuning`` is made of."""
    return getattr(tuning, "tunings", (tuning,))


def assemble(stage: Train, backbone: Backbone, task: Any, seeds: Seeds) -> Learner:
    """Attach the tuning and build the framing; new weights come from the stream of ``seeds.init``."""
    with torch_stream(seeds.init, "init", "tuning"):
        stage.tuning.attach(backbone)
    with torch_stream(seeds.init, "init", "framing"):
        framing = stage.framing.build(task, backbone)
    if stage.label_smoothing_factor and not framing.smooths:
        raise RecipeError(
            f"label_smoothing_factor {stage.label_smoothing_factor:g} spreads targets over classes, and framing {name_of(stage.framing)[1]}"
            f" of a task of kind {task.kind!r} has no such targets; leave it out"
        )
    framing.smoothing = stage.label_smoothing_factor
    return Learner(backbone, framing, stage.tuning, {"framing": stage.framing, "positive": _positive(task)})


def _positive(task: Task) -> Any:
    """The class that f1, precision and recall speak of in every split of a binary task: the rarer one in training."""
    if task.kind != "classification" or len(task.labels) != 2 or not len(task.train):
        return None
    indices = [task.label_index(e.label) for e in task.train]
    return task.labels[int(2 * sum(indices) <= len(indices))]


def rows_of(stage: Train, task: Task, seeds: Seeds) -> tuple[Sequence[Example], Sequence[Example]]:
    """(training rows, rows to evaluate on while training). Unlabeled text is held out 1 in 20; labels are never read there."""
    if stage.text == "labeled" and stage.framing.supervised:
        return task.train.examples, task.dev.examples if task.dev is not None else ()
    texts = list(task.unlabeled()) if stage.text in ("labeled", "unlabeled") else _texts(stage.text)
    order = np.random.default_rng(seeds.sampling).permutation(len(texts))
    held = len(texts) // 20
    return [texts[i] for i in order[held:]], [texts[i] for i in order[:held]]


def _texts(path: str) -> list[Example]:
    from tempering.tasks.readers import read_texts

    return [Example((text,), row=i + 1) for i, text in enumerate(read_texts(path))]


def evaluator_of(stage: Train, task: Task, held_out: Sequence[Example], around: Surroundings) -> Evaluator | None:
    if not held_out:
        return None
    kind: Kind = task.kind if stage.framing.supervised else "text"
    own = stage.metric_for_best_model
    metrics = (*around.metrics, own) if own and own != "loss" else around.metrics
    return Evaluator(held_out, kind, task.labels, metrics, stage.per_device_eval_batch_size, listener=around.listener)


def metric_of(stage: Train, task: Task, extra: Sequence[str]) -> str:
    """What chooses the best weights. A metric that means nothing here is refused before anything is trained."""
    own = stage.metric_for_best_model
    if not stage.framing.supervised:
        if own not in (None, "loss"):
            raise RecipeError(
                f"metric_for_best_model {own!r} reads labels, and framing {name_of(stage.framing)[1]} does not; leave it out or set loss"
            )
        return "loss"
    metric = own or default_metric(task.kind)
    check_metrics([name for name in (metric, *extra) if name != "loss"], task.kind, task.labels)
    return metric


def _fresh_note(learner: Learner) -> str:
    """A warning where weights that the checkpoint does not hold were drawn anew and stay as drawn."""
    body = learner.backbone
    idle = [n for n, p in body.model.named_parameters() if n in body.own - body.pretrained and not p.requires_grad]
    if not idle or learner.framing.reads != "pooler":
        return ""
    return f"{body.source} holds no {idle[0]}; it was drawn at random and this tuning leaves it so: take tuning=full, or framing.pool=mean"


def row_weights(stage: Train, task: Task, examples: Sequence[Example]) -> np.ndarray | None:
    if stage.class_weights == "none" or task.kind != "classification" or not stage.framing.supervised:
        return None
    return balanced_weights([task.label_index(e.label) for e in examples])
