"""What stages share: the surroundings of a run, and how a learner, its rows and its evaluation are put together."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from torch import nn

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.contracts import Example, Kind, Seeds, predicts
from tempering.corpora.sources import Source
from tempering.corpora.worker import text_hash
from tempering.errors import RecipeError
from tempering.framings.lm_head import random_head
from tempering.framings.verbalizers.base import VerbalizerModule
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.checks import moves
from tempering.stages.kept import Kept
from tempering.stages.row_weights import check_weights, row_weights
from tempering.streams import key_of, torch_stream
from tempering.tasks.metrics import check_metrics, default_metric
from tempering.tasks.task import Task
from tempering.train.evaluate import Evaluator
from tempering.train.feed import Feed
from tempering.train.fit import Plan
from tempering.train.probe import TaskProbe
from tempering.train.progress import Listener, silent
from tempering.train.stream import OWN, apart, no_text, open_stream, source_of, streams, unseen


@dataclass(frozen=True)
class Surroundings:
    """What a run brings to its stages: where checkpoints go, whether to resume, who listens, caches, extra metrics.

    ``kept`` grows from stage to stage: what earlier ones left for later ones under a name.
    """

    folder: Path | None = None
    resume: bool = False
    listener: Listener = silent
    cache: TrunkCache | None = None
    metrics: tuple[str, ...] = ()
    identity: tuple[tuple[str, str], ...] = ()
    kept: dict[str, Kept] = field(default_factory=dict)


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

    A framing that reads more of the model than its body (a decoder) says so before, in ``opens(backbone)``. A stage ``apart`` gets a copy.
    """
    if hasattr(stage.framing, "opens"):
        stage.framing.opens(backbone)
    if getattr(stage, "apart", False):
        backbone = copy.deepcopy(backbone)
    with torch_stream(seeds.init, "init", "tuning"):
        stage.tuning.attach(backbone)
    with torch_stream(seeds.init, "init", "framing"):
        framing = stage.framing.build(task, backbone)
    if stage.label_smoothing_factor and not framing.smooths:
        raise RecipeError(
            f"label_smoothing_factor {stage.label_smoothing_factor:g} spreads targets over classes, and framing {name_of(stage.framing)[1]}"
            f" of a task of kind {task.kind!r} has no such targets; leave it out"
        )
    framing.smoothing, framing.compared = stage.label_smoothing_factor, compares_scores(stage)
    _check_trains(stage, backbone, framing)
    check_carried(stage, framing)
    value = getattr(framing, "settled", stage.framing)  # what is saved, where the task's rows settled it
    learner = Learner(backbone, framing, stage.tuning, {"framing": value, "positive": positive_class(task)})
    learner.eval_batch_size = stage.per_device_eval_batch_size
    return learner if getattr(stage, "trains", True) else learner.requires_grad_(False)


def compares_scores(stage: Any) -> bool:
    """Whether a method of ``stage`` reads scores while training, or adds to what the body reads, so that it wants all there is."""
    return any({"term", "base", "noise"} & set(s.touches) for s in getattr(stage, "live", ()))


def _check_trains(stage: Any, backbone: Backbone, framing: Any) -> None:
    """Refuse a stage that takes steps and would train nothing."""
    if stage.students and not any(w.requires_grad for part in (backbone, framing) for w in part.parameters()):
        raise RecipeError(
            f"framing {name_of(stage.framing)[1]} has no weights of its own here, and tuning {name_of(stage.tuning)[1]} trains none of"
            f" {backbone.source} ({backbone.layout.family}), so that nothing would be trained; use another tuning such as lora, or put the"
            " framing into a stage use"
        )


def check_carried(stage: Any, framing: nn.Module) -> None:
    """Refuse methods that compare positions of several passes, where one pass is several runs of the body over texts of other lengths."""
    walking = (one for one in framing.modules() if isinstance(one, VerbalizerModule) and one.walks)
    lengths = {len(word) for one in walking for row in getattr(one, "table", None) or () for word in row}
    carried = [name_of(s)[1] for s in getattr(stage, "live", ()) if getattr(s, "carries", False) or getattr(s, "reads_layers", False)]
    if carried and len(lengths) > 1:
        raise RecipeError(
            f"{carried[0]} carries what it does to a token from one pass to the next, and label words of {min(lengths)} to {max(lengths)}"
            f" tokens are read from texts with as many masks each, so that tokens do not match; give words of as many tokens, use r3f, or"
            f" drop {carried[0]}"
        )


def leave(stage: Any, backbone: Backbone, learned: Sequence[str] = ()) -> None:
    """After a stage that is not the last: its tuning is folded into the weights. A stage that worked on a copy has ``leave`` of its own,
    and one ``apart`` leaves nothing in the model. Where nothing moved, the base is still the one that its name says. ``learned`` are the
    weights of `learned_anew`.
    """
    backbone.learned |= set(learned)
    if getattr(stage, "apart", False):
        return
    if hasattr(stage, "leave"):
        stage.leave(backbone)
    else:
        stage.tuning.merge(backbone)
    backbone.changed = backbone.changed or moves(stage)


def positive_class(task: Task) -> Any:
    """The class that f1, precision and recall speak of in every split of a binary task: the rarer one in training."""
    if task.kind != "classification" or len(task.labels) != 2 or not len(task.train):
        return None
    indices = [task.label_index(e.label) for e in task.train]
    return task.labels[int(2 * sum(indices) <= len(indices))]


def rows_of(stage: Any, task: Task, seeds: Seeds) -> tuple[Sequence[Example], Sequence[Example]]:
    """(training rows, rows to evaluate on while training). Of unlabeled text 1 in 20 is held out where the stage evaluates, with all its
    copies, and copies of dev and test texts are left out; labels are never read there. Running text has no examples: see `material`.
    """
    if stage.text == "labeled" and stage.framing.supervised:
        return task.train.examples, task.dev.examples if task.dev is not None else ()
    if streams(stage):
        return (), ()
    texts = unseen(task) if stage.text in OWN else unseen(task, list(_texts(source_of(stage))))
    if not texts:
        raise no_text(f"task {task.name}" if stage.text in OWN else stage.text)
    hashes = np.fromiter((text_hash(" ".join(e.texts)) for e in texts), np.uint64, len(texts))
    train, held = apart(stage, hashes, seeds)
    return [texts[i] for i in train], [texts[i] for i in held]


def _texts(source: Source) -> Iterator[Example]:
    return (Example((text,), row=i) for i, text in enumerate(source, start=1))


class Material(NamedTuple):
    """What a stage trains and evaluates on. ``identity`` is what its checkpoints must agree with beside that of the run."""

    feed: Feed
    evaluator: Evaluator | None
    identity: dict[str, str]


def material(
    stage: Any,
    learner: Learner,
    task: Task,
    rows: tuple[Sequence[Example], Sequence[Example]],
    seeds: Seeds,
    around: Surroundings,
) -> Material:
    """The feed and the evaluator of ``stage``: on ``rows`` (see `rows_of`), or on the running text that it names."""
    check_weights(stage, task)
    if not streams(stage):
        feed = Feed(learner.framing, rows[0], stage, seeds, weights=row_weights(stage, task, rows[0]))
        return Material(feed, evaluator_of(stage, task, rows[1], around), {})
    stream = open_stream(stage, learner, task, seeds, around.listener)
    feed = Feed(learner.framing, cast("Sequence[Example]", stream.rows), stage, seeds, ready=stream.rows)
    size = stage.per_device_eval_batch_size
    evaluator = Evaluator((), "text", (), (), size, listener=around.listener, ready=stream.held_out) if len(stream.held_out) else None
    return Material(feed, evaluator, {"text": stream.key})


def evaluator_of(stage: Any, task: Task, held_out: Sequence[Example], around: Surroundings) -> Evaluator | None:
    if not held_out:
        return None
    kind: Kind = task.kind if predicts(stage.framing) else "text"
    own = stage.metric_for_best_model
    metrics = (*around.metrics, own) if own and own != "loss" else around.metrics
    return Evaluator(held_out, kind, task.labels, metrics, stage.per_device_eval_batch_size, listener=around.listener)


def metric_of(stage: Any, task: Task, extra: Sequence[str]) -> str:
    """What chooses the best weights. A metric that means nothing here is refused before anything is trained."""
    own = stage.metric_for_best_model
    if not predicts(stage.framing):
        if own not in (None, "loss"):
            raise RecipeError(
                f"metric_for_best_model {own!r} compares labels, and framing {name_of(stage.framing)[1]} predicts none; leave it out or set"
                " loss"
            )
        return "loss"
    metric = own or default_metric(task.kind, task.labels)
    check_metrics([name for name in (metric, *extra) if name != "loss"], task.kind, task.labels)
    return metric


def fresh_note(learner: Learner) -> str:
    """A warning where weights that the checkpoint does not hold were drawn anew and stay as drawn."""
    body = learner.backbone
    drawn = body.own - body.pretrained - body.learned
    idle = [n for n, p in body.model.named_parameters() if n in drawn and not p.requires_grad]
    if not idle or learner.framing.reads != "pooler":
        return ""
    return f"{body.source} holds no {idle[0]}; it was drawn at random and this tuning leaves it so: take tuning=full, or framing.pool=mean"


def learned_anew(learner: Learner) -> list[str]:
    """The weights that the checkpoint lacks and that a stage has just trained: of the body through its head, of the language-model head."""
    body = learner.backbone
    trained = [n for n, p in body.model.named_parameters() if n in body.own - body.pretrained and p.requires_grad]
    words = [n for n, p in body.named_parameters() if n.startswith("lm_head.") and p.requires_grad] if random_head(body) else []
    return (trained if learner.framing.reads == "pooler" else []) + (words if learner.framing.reads_lm_head else [])


def tell_notes(learner: Learner, around: Surroundings, more: Sequence[str] = (), known: set[str] | None = None) -> None:
    """Tell of weights that stay as they were drawn, what the framing found worth telling, and ``more``; not what is ``known`` already."""
    for note in (fresh_note(learner), *learner.framing.notes, *more):
        if note and note not in (known or ()):
            if known is not None:
                known.add(note)
            around.listener({"event": "note", "text": note})
