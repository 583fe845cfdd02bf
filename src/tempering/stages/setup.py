"""What stages share: the surroundings of a run, and how a learner, its rows and its evaluation are put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.contracts import Example, Kind, Seeds
from tempering.errors import RecipeError
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.streams import key_of, torch_stream
from tempering.tasks.metrics import check_metrics, default_metric
from tempering.tasks.task import Task
from tempering.train.evaluate import Evaluator
from tempering.train.feed import Feed, balanced_weights
from tempering.train.fit import Plan
from tempering.train.probe import TaskProbe
from tempering.train.progress import Listener, silent


@dataclass(frozen=True)
class Surroundings:
    """What a run brings to its stages: where checkpoints go, whether to resume, who listens, caches, extra metrics."""

    folder: Path | None = None
    resume: bool = False
    listener: Listener = silent
    cache: TrunkCache | None = None
    metrics: tuple[str, ...] = ()
    identity: tuple[tuple[str, str], ...] = ()


def prepared(stage: Any, learner: Learner, feed: Feed, plan: Plan, seeds: Seeds) -> Plan:
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


def assemble(stage: Any, backbone: Backbone, task: Any, seeds: Seeds) -> Learner:
    """Attach the tuning and build the framing; new weights come from the stream of ``seeds.init``.

    A framing that reads more of the model than its body (a decoder) says so before, in ``opens(backbone)``.
    """
    if hasattr(stage.framing, "opens"):
        stage.framing.opens(backbone)
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


def rows_of(stage: Any, task: Task, seeds: Seeds) -> tuple[Sequence[Example], Sequence[Example]]:
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


def evaluator_of(stage: Any, task: Task, held_out: Sequence[Example], around: Surroundings) -> Evaluator | None:
    if not held_out:
        return None
    kind: Kind = task.kind if stage.framing.supervised else "text"
    own = stage.metric_for_best_model
    metrics = (*around.metrics, own) if own and own != "loss" else around.metrics
    return Evaluator(held_out, kind, task.labels, metrics, stage.per_device_eval_batch_size, listener=around.listener)


def metric_of(stage: Any, task: Task, extra: Sequence[str]) -> str:
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


def fresh_note(learner: Learner) -> str:
    """A warning where weights that the checkpoint does not hold were drawn anew and stay as drawn."""
    body = learner.backbone
    idle = [n for n, p in body.model.named_parameters() if n in body.own - body.pretrained and not p.requires_grad]
    if not idle or learner.framing.reads != "pooler":
        return ""
    return f"{body.source} holds no {idle[0]}; it was drawn at random and this tuning leaves it so: take tuning=full, or framing.pool=mean"


def row_weights(stage: Any, task: Task, examples: Sequence[Example]) -> np.ndarray | None:
    if stage.class_weights == "none" or task.kind != "classification" or not stage.framing.supervised:
        return None
    return balanced_weights([task.label_index(e.label) for e in examples])
