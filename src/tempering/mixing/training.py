"""Train several tasks in one batch over one frozen backbone: each has its own data, recipe, seeds, optimizer, schedule and best weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tempering.backbone import Backbone
from tempering.batching import out_of_memory
from tempering.cache import TrunkCache
from tempering.contracts import Batch, Seeds
from tempering.dropout import dropout_stream
from tempering.errors import MemoryShort, RecipeError
from tempering.fitting import account, evaluate
from tempering.mixing.lane import Lane, due
from tempering.mixing.learner import OF_PARTS, MixedLearner
from tempering.peak import reset_peak
from tempering.recipe import Recipe
from tempering.registry import name_of
from tempering.stages.setup import Surroundings, assemble, evaluator_of, metric_of, prepared, row_weights, rows_of
from tempering.stages.train import Train
from tempering.tasks.task import Task
from tempering.train.device import Place, place
from tempering.train.evaluate import fit_thresholds
from tempering.train.feed import Feed
from tempering.train.fit import Plan
from tempering.train.progress import Listener, silent


@dataclass(frozen=True)
class Job:
    """One task with the recipe that trains it, and what to say about it."""

    task: Task
    recipe: Recipe
    notes: tuple[str, ...]

    @property
    def stage(self) -> Train:
        """The recipe's only stage."""
        stage: Train = self.recipe.stages[0]
        return stage


def fit_many(
    tasks: Mapping[str, Task | str | Path],
    recipes: Recipe | str | Mapping[str, Recipe | str] = "lora",
    model: str | Backbone = "minilm",
    *,
    seed: int = 0,
    rows_per_batch: int = 256,
    metrics: Sequence[str] = (),
    listener: Listener = silent,
    cache: TrunkCache | None = None,
) -> MixedLearner:
    """Train every task of ``tasks`` (name -> `Task` or file) by its recipe (one for all, or a name -> recipe mapping), together.

    Each task trains as `tempering.fit` would train it by itself: the same rows in the same batches, its own AdamW, schedule, clipping,
    gradient accumulation, evaluations and best weights; with dropout off the results are equal to rounding. What is shared is the
    pass through the frozen backbone: up to ``rows_per_batch`` rows of all tasks go through it at once. A task without rows in a batch
    does not move. ``model`` is not changed. Seconds and peak memory in the records are those of all tasks together.
    """
    started = time.perf_counter()
    jobs = {name: _job(name, task, recipes, seed) for name, task in tasks.items()}
    where = _agreed(jobs)
    for name, job in jobs.items():
        for note in job.notes:
            listener({"event": "note", "text": f"{name}: {note}"})
    seeds = Seeds.of(seed)
    reset_peak()
    base = copy.deepcopy(model) if isinstance(model, Backbone) else Backbone.load(model, seeds.init)
    mixed = MixedLearner(base).to(where.device)
    mixed.backbone.base_fingerprint = mixed.backbone.fingerprint()
    around = Surroundings(listener=listener, cache=cache or TrunkCache(), metrics=tuple(metrics))
    lanes = [_lane(mixed, name, job, seeds, around, where) for name, job in jobs.items()]
    for name, why in mixed.apart.items():
        listener({"event": "note", "text": f"{name} runs in passes of its own: {why}"})
    _train(mixed, lanes, rows_per_batch, seeds, where)
    for lane, job in zip(lanes, jobs.values(), strict=True):
        _close(lane, job, started, seeds, around)
    return mixed.eval()


def _job(name: str, task: Task | str | Path, recipes: Recipe | str | Mapping[str, Recipe | str], seed: int) -> Job:
    given = recipes.get(name) if isinstance(recipes, Mapping) else recipes
    if given is None:
        raise RecipeError(f"task {name}: no recipe is given for it; give one by that name, or one recipe for all tasks")
    recipe, found = Recipe.load(given), task if isinstance(task, Task) else Task.from_file(task, seed=seed)
    if found.kind in ("tagging", "question_answering"):
        raise RecipeError(f"task {name}: {OF_PARTS}; take it out and fit it by itself")
    notes = (*found.notes, *recipe.check())
    if len(recipe.stages) != 1 or not isinstance(recipe.stages[0], Train):
        raise RecipeError(
            f"task {name}: {recipe.name} has {len(recipe.stages)} stages, and tasks in one batch share one frozen backbone in one stage;"
            " run the earlier stages first and give their result as the model"
        )
    stage = recipe.stages[0]
    touching = [name_of(s)[1] for s in stage.acting if not s.neutral and _touches_passes(s)]
    if touching or stage.gradient_checkpointing:
        what = (touching or ["gradient_checkpointing"])[0]
        raise RecipeError(f"task {name}: {what} needs forward passes of this task alone; train it by itself, and join it with load_many")
    return Job(found, recipe, notes)


def _touches_passes(part: object) -> bool:
    """Whether a method changes what happens inside a pass, which here other tasks' rows share."""
    return bool({"weights", "noise", "base"} & set(getattr(part, "touches", ()))) or bool(getattr(part, "perturbations", 0))


def _agreed(jobs: Mapping[str, Job]) -> Place:
    """The one place where all tasks run."""
    if len({job.stage.bf16 for job in jobs.values()}) > 1:
        raise RecipeError("bf16 differs between the tasks, and one batch has one precision; give all recipes the same bf16")
    if not jobs:
        raise RecipeError("there is no task to train; give at least one by name")
    where = place(next(iter(jobs.values())).stage)
    if where.world > 1:
        raise RecipeError(f"mixed training runs in one process, found {where.world}; start it without a launcher")
    return where


def _lane(mixed: MixedLearner, name: str, job: Job, seeds: Seeds, around: Surroundings, where: Place) -> Lane:
    """Set the task up as its stage does, and take it into the mixed learner."""
    stage, task = job.stage, job.task
    metric = metric_of(stage, task, around.metrics)
    examples, held_out = rows_of(stage, task, seeds)
    learner = assemble(stage, copy.deepcopy(mixed.backbone), task, seeds).to(where.device)
    evaluator = evaluator_of(stage, task, held_out, around)
    feed = Feed(learner.framing, examples, stage, seeds, weights=row_weights(stage, task, examples))
    named = [(name_of(part)[1], part) for part in stage.acting]
    plan = Plan(stage, named, seeds.dropout, evaluator, metric, listener=around.listener)
    plan = prepared(stage, learner, feed, plan, seeds)
    mixed.add(name, learner)
    cache = around.cache
    if stage.cached and cache is not None:
        feed.features = cache.features(learner, feed.prompts(), stage.per_device_eval_batch_size)
        if evaluator is not None:
            evaluator.features = lambda prompts: cache.features(learner, prompts, stage.per_device_eval_batch_size)
    return Lane(name, learner, feed, plan, where)


def _train(mixed: MixedLearner, lanes: Sequence[Lane], rows: int, seeds: Seeds, where: Place) -> None:
    """The one loop over all tasks. Losses of several tasks add up to gradients of separate weights, so none weighs on another."""
    mixed.train()
    count = 0
    while live := [lane for lane in lanes if not lane.done]:
        chosen = due(live, rows)
        try:
            _pass(mixed, chosen, seeds.dropout, count, where)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise MemoryShort(
                f"out of memory in a batch of {', '.join(lane.name for lane in chosen)}; lower rows_per_batch (now {rows}), or"
                " per_device_train_batch_size in the recipes where it is one task alone"
            ) from None
        for lane in chosen:
            lane.settle()
        count += 1
    for lane in lanes:
        lane.finish()


def _pass(mixed: MixedLearner, lanes: Sequence[Lane], seed: int, count: int, where: Place) -> None:
    """One forward and one backward pass over the next micro-batch of each of ``lanes``."""
    batches: dict[str, Batch] = {lane.name: lane.take() for lane in lanes}
    with dropout_stream(seed, "mixed", count, device=where.device), where.autocast():
        scores = mixed(batches)
    parts = [lane.loss(slab, batches[lane.name]) for lane, slab in zip(lanes, scores.slabs, strict=True)]
    torch.stack(parts).sum().backward()


def _close(lane: Lane, job: Job, started: float, seeds: Seeds, around: Surroundings) -> None:
    """The record of one task, as a single run writes it."""
    learner, run, evaluator = lane.learner, lane.run, lane.plan.evaluator
    if evaluator is not None and job.stage.framing.supervised:
        fit_thresholds(learner, evaluator)
    learner.record["stage"] = {
        "steps": run.step,
        "best_step": run.best_step,
        "best_kept": job.stage.load_best_model_at_end and bool(run.history),
        "history": run.history,
        **({"facts": run.facts} if run.facts else {}),
        "passes": run.passes,
        "cached": job.stage.cached,
        "split": run.split,
        "rows": len(lane.feed.examples),
    }
    seconds = time.perf_counter() - started
    results = evaluate(learner, job.task, around.metrics, around.cache)
    account(learner, job.recipe, job.task, seeds, results, job.notes, started, seconds)
