"""Rank pretrained models for a task, or other tasks as intermediate training for it, by frozen features alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.head import Head
from tempering.framings.pooling import Pool
from tempering.learner import Learner
from tempering.ranking.evidence import Floats, log_me
from tempering.ranking.probe import chances, fitted, probe
from tempering.ranking.separation import h_score, leep, n_leep
from tempering.stages.data_source import DataSource
from tempering.stages.sources import distinct_names, read_source
from tempering.streams import torch_stream
from tempering.tasks.sampling import nested_subsets
from tempering.tasks.task import Task
from tempering.tunings.frozen import Frozen

MEASURES = ("logme", "h_score", "leep", "probe")
KINDS = ("classification", "regression", "multilabel")
_EACH_MODEL = "fine-tune each candidate for a few steps instead: temper fit DATA --model MODEL max_steps=100"
_ONE_AFTER_ANOTHER = (
    "train on each candidate for a few steps instead, and then on your data: temper fit DATA --recipe stilts --model MODEL"
    " stages.0.data=CANDIDATE stages.0.max_steps=100"
)


@dataclass(frozen=True)
class Candidate:
    """A model or task with what every measure says of it: higher is better; None where a measure is not for this kind of task."""

    name: str
    scores: dict[str, float | None]
    seconds: float
    rows: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """Candidates, best first by the measure ``by``."""

    task: str
    by: str
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()

    def rank(self, measure: str) -> list[str]:
        """Names, best first by another ``measure``."""
        found = [c for c in self.candidates if c.scores[measure] is not None]
        return [c.name for c in sorted(found, key=lambda c: -float(c.scores[measure] or 0.0))]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        listed = [{"name": c.name, **c.scores, "seconds": c.seconds, "rows": c.rows, **c.facts} for c in self.candidates]
        return {"task": self.task, "by": self.by, "candidates": listed, "notes": list(self.notes)}


def rank_models(
    models: Sequence[str | Backbone],
    task: Task,
    *,
    rows: int = 2000,
    pool: Pool = "mean",
    by: str = "logme",
    seed: int = 0,
    cache: TrunkCache | None = None,
) -> Ranking:
    """``models`` (names as in `tempering.fit`) for ``task``, by LogME, H-score, NLEEP and a linear probe on ``rows`` training rows.

    Each model reads the texts once, without gradients. The measures guess how well its features hold the labels, which is more telling
    of light tunings than of full fine-tuning.
    """
    _check(task, by, pool, len(models))
    sample, cache = _sample(task, rows, seed), cache or TrunkCache()
    found = []
    for model in models:
        start = time.perf_counter()
        backbone = model if isinstance(model, Backbone) else Backbone.load(model, seed)
        features = _features(backbone, task, sample.train.examples, pool, seed, cache)
        scores = measured(features, sample, seed)
        size = sum(p.numel() for p in backbone.model.parameters())
        found.append(Candidate(backbone.source, scores, time.perf_counter() - start, len(sample.train), {"parameters": size}))
    return _ranking(task, by, found)


def rank_tasks(
    candidates: Sequence[str | Path | DataSource | Task],
    task: Task,
    model: str | Backbone = "minilm",
    *,
    rows: int = 2000,
    pool: Pool = "mean",
    by: str = "leep",
    seed: int = 0,
    cache: TrunkCache | None = None,
) -> Ranking:
    """``candidates`` as intermediate tasks for ``task``, by what a linear probe of each says of the task's texts.

    A candidate is a path, a path with its columns (`tempering.stages.data_source.DataSource`) or a task.
    A probe is fitted on each candidate's frozen features; its answers on the texts of ``task`` are scored against the task's labels: LEEP
    on its probabilities (candidates with classes), LogME, H-score and a probe on its logits. ``similarity`` is the cosine of the mean
    features of both sets of texts (after Vu et al. 2020, TextEmb): how alike the texts are, whatever the labels.
    """
    _check(task, by, pool, len(candidates), _ONE_AFTER_ANOTHER)
    tasks = [one if isinstance(one, Task) else read_source(_named(one), what="candidate") for one in candidates]
    for other in tasks:  # before the first of them is worked on
        _check(other, by, pool, 2, _ONE_AFTER_ANOTHER, "candidate ")
    backbone = model if isinstance(model, Backbone) else Backbone.load(model, seed)
    sample, cache = _sample(task, rows, seed), cache or TrunkCache()
    mine = _features(backbone, task, sample.train.examples, pool, seed, cache)
    found = []
    for name, other in zip(distinct_names(tasks), tasks, strict=True):
        start = time.perf_counter()
        theirs = _sample(other, rows, seed)
        features = _features(backbone, other, theirs.train.examples, pool, seed, cache)
        scores = _transferred(features, theirs, mine, sample, seed)
        facts = {"similarity": _cosine(features.mean(0), mine.mean(0)), "kind": other.kind, "own_rows": len(other.train)}
        found.append(Candidate(name, scores, time.perf_counter() - start, len(theirs.train), facts))
    return _ranking(task, by, found)


def measured(features: Floats, task: Task, seed: int = 0, groups: bool = True) -> dict[str, float | None]:
    """Every measure of the training rows' ``features`` [rows, dim]; of sets of labels the mean over labels of those on yes and no
    (None where every label is on all rows or on none).

    Without ``groups`` there is no NLEEP: another classifier's answers are there in its place.
    """
    labels = task.train.labels
    targets = _targets(task, labels)
    columns = [np.argmax(targets, 1)] if task.kind == "classification" else [c.astype(np.int64) for c in targets.T]
    scores: dict[str, float | None] = {"logme": log_me(features, targets), "h_score": None, "leep": None}
    if task.kind != "regression":
        both = [c for c in columns if len(np.unique(c)) > 1]
        scores["h_score"] = float(np.mean([h_score(features, c) for c in both])) if both else None
        scores["leep"] = float(np.mean([n_leep(features, c, seed) for c in both])) if both and groups else None
    return scores | {"probe": probe(features, task, labels, seed)}


def _transferred(features: Floats, source: Task, mine: Floats, task: Task, seed: int) -> dict[str, float | None]:
    """The measures of ``task`` on what a probe of ``source`` says of its rows."""
    made = fitted(features, source, source.train.labels)
    said = np.asarray(made.predict(mine) if source.kind == "regression" else _decided(made, mine), dtype=np.float64).reshape(len(mine), -1)
    said = (said - said.mean(0)) / np.maximum(said.std(0), 1e-9)
    scores = measured(np.concatenate([said, np.ones((len(said), 1))], 1), task, seed, groups=False)
    theirs = source.kind == "classification" and task.kind == "classification"
    classes = np.asarray([task.target(label) for label in task.train.labels]) if theirs else None
    return scores | {"leep": leep(chances(made, mine, len(source.labels)), classes) if classes is not None else None}


def _decided(made: Any, features: Floats) -> Any:
    """Logits where the map has them, else its probabilities."""
    return made.decision_function(features) if hasattr(made, "decision_function") else made.predict_proba(features)


def _targets(task: Task, labels: Sequence[Any]) -> Floats:
    """[rows, columns]: one a class, one a label, or the standardized values."""
    found = np.asarray([task.target(label) for label in labels])
    if task.kind == "classification":
        return np.asarray(np.eye(len(task.labels))[found], dtype=np.float64)
    if task.kind == "multilabel":
        return found.astype(np.float64)
    return np.asarray((found - found.mean()) / max(float(found.std()), 1e-9), dtype=np.float64)[:, None]


def _features(backbone: Backbone, task: Task, examples: Sequence[Example], pool: Pool, seed: int, cache: TrunkCache) -> Floats:
    """Pooled frozen features [rows, dim] in double precision; known ones come from the cache."""
    with torch_stream(seed, "init", "framing"):
        framing = Head(pool=pool).build(task, backbone)
    learner = Learner(backbone, framing, Frozen()).to(torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu"))
    prompts = [found[0] for found in framing.render(examples, (), np.random.default_rng(0))]
    return np.asarray(cache.features(learner, prompts).numpy(), dtype=np.float64)


def _sample(task: Task, rows: int, seed: int) -> Task:
    """At most ``rows`` training rows, every class with its share."""
    if len(task.train) <= rows:
        return task
    return task.with_train(nested_subsets(task, [rows], seed)[rows], seed)


def _cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _named(candidate: str | Path | DataSource) -> str | DataSource:
    return str(candidate) if isinstance(candidate, Path) else candidate


def _check(task: Task, by: str, pool: str, count: int, instead: str = _EACH_MODEL, what: str = "") -> None:
    """Refuse what cannot be ranked; ``instead`` is the command that tries one candidate, ``what`` the task is beside the user's own."""
    if count < 2:
        raise RecipeError(f"a ranking needs at least two candidates, found {count}; name more")
    if by not in MEASURES:
        raise RecipeError(f"measure {by!r} is not known; known: {', '.join(MEASURES)}")
    if pool not in get_args(Pool):
        raise RecipeError(f"pool {pool!r} is not known; known: {', '.join(get_args(Pool))}")
    if task.kind not in KINDS:
        raise DataError(
            f"{what}{task.name} is of kind {task.kind}: one vector a text says nothing of it; ranking serves {', '.join(KINDS)}; {instead}"
        )


def _ranking(task: Task, by: str, found: Sequence[Candidate]) -> Ranking:
    """Best first. Where ``by`` is not for some candidate, the ranking goes by LogME, which is for all, and says so."""
    notes: tuple[str, ...] = ()
    if any(c.scores[by] is None for c in found):
        notes, by = (f"{by} needs classes on both sides, which not every candidate has here: ranked by logme",), "logme"
    key: Callable[[Candidate], float] = lambda c: -float(c.scores[by] or 0.0)  # noqa: E731
    return Ranking(task.name, by, tuple(sorted(found, key=key)), notes)
