"""Train several tasks in one batch over one frozen backbone: each has its own data, recipe, seeds, optimizer, schedule and best weights."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tempering.backbone import Backbone
from tempering.batching import out_of_memory
from tempering.cache import TrunkCache
from tempering.choosing import choose
from tempering.contracts import Batch, Seeds
from tempering.dropout import dropout_stream
from tempering.errors import MemoryShort, RecipeError
from tempering.fitting import account, evaluate, identity_of
from tempering.mixing.lane import Lane, due, leading
from tempering.mixing.learner import OF_PARTS, MixedLearner
from tempering.mixing.resuming import Keeping, identity
from tempering.peak import reset_peak
from tempering.quantizing import Quantize, checked
from tempering.recipe import Recipe
from tempering.registry import name_of
from tempering.stages.checks import check_quantized
from tempering.stages.finishing import close
from tempering.stages.live_dropout import dropout_notes
from tempering.stages.setup import Surroundings, assemble, material, metric_of, prepared, rows_of, tell_notes
from tempering.stages.sources import fingerprints
from tempering.stages.train import Train
from tempering.streams import numpy_stream
from tempering.tasks.task import Task
from tempering.train.checkpoint import latest
from tempering.train.device import Place, place
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
    output_dir: str | Path | None = None,
    resume: bool = False,
    metrics: Sequence[str] = (),
    listener: Listener = silent,
    cache: TrunkCache | None = None,
    quantize: str | None = None,
) -> MixedLearner:
    """Train every task of ``tasks`` (name -> `Task` or file) by its recipe (one for all, or a name -> recipe mapping), together.

    Each task trains as `tempering.fit` would train it by itself: the same rows in the same batches, its own AdamW, schedule, clipping,
    gradient accumulation, evaluations and best weights; with dropout off the results are equal to rounding. What is shared is the
    pass through the frozen backbone: up to ``rows_per_batch`` rows of all tasks go through it at once. A task without rows in a batch
    does not move. ``model`` is not changed. Seconds and peak memory in the records are those of all tasks together.

    With ``output_dir`` checkpoints of all tasks go to ``output_dir/checkpoints``, as often as the longest task's recipe says, and
    ``resume`` continues from the newest, bit for bit. ``quantize`` "8bit" or "4bit" packs the frozen matrices of a model that is loaded
    here.
    """
    started = time.perf_counter()
    packed = _packed(model, quantize)
    jobs = {name: _job(name, task, recipes, seed, packed) for name, task in tasks.items()}
    where = _agreed(jobs)
    for name, job in jobs.items():
        for note in job.notes:
            listener({"event": "note", "text": f"{name}: {note}"})
    seeds = Seeds.of(seed)
    reset_peak()
    base = copy.deepcopy(model) if isinstance(model, Backbone) else Backbone.load(model, seeds.init, packed)
    base.start()
    mixed = MixedLearner(base).to(where.device)
    base.base_fingerprint, called = base.fingerprint(), identity_of(base)
    folder = Path(output_dir) / "checkpoints" if output_dir else None
    if folder and not resume:  # what an older run left must not be taken for this one's later
        shutil.rmtree(folder, ignore_errors=True)
    around = Surroundings(folder, resume, listener, cache or TrunkCache(), tuple(metrics))
    made = {name: _lane(mixed, name, job, seeds, around, where) for name, job in jobs.items()}
    lanes, parts = [lane for lane, _ in made.values()], {name: part for name, (_, part) in made.items()}
    for name, why in mixed.apart.items():
        listener({"event": "note", "text": f"{name} runs in passes of its own: {why}"})
    keeping = Keeping(folder, resume, identity(called, seeds, rows_per_batch, parts), listener)
    _train(mixed, lanes, rows_per_batch, seeds, where, keeping)
    for lane, job in zip(lanes, jobs.values(), strict=True):
        _close(lane, job, started, seeds, around)
    return mixed.eval()


def _packed(model: str | Backbone, quantize: str | None) -> Quantize | None:
    """How the frozen matrices are packed; a loaded model that is packed otherwise is refused."""
    packed = model.quantized if isinstance(model, Backbone) else checked(quantize)
    if packed != checked(quantize or packed):
        raise RecipeError(f"quantize {quantize}: the model is loaded already; give its name, or Backbone.load(name, quantize={quantize!r})")
    return packed


def _job(name: str, task: Task | str | Path, recipes: Recipe | str | Mapping[str, Recipe | str], seed: int, packed: Quantize | None) -> Job:
    given = recipes.get(name) if isinstance(recipes, Mapping) else recipes
    if given is None:
        raise RecipeError(f"task {name}: no recipe is given for it; give one by that name, or one recipe for all tasks")
    found = task if isinstance(task, Task) else Task.from_file(task, seed=seed)
    if found.kind in ("tagging", "question_answering"):
        raise RecipeError(f"task {name}: {OF_PARTS}; take it out and fit it by itself")
    recipe, why = choose(found) if given == "auto" else (Recipe.load(given), "")
    notes = (*([why] if why else ()), *found.notes, *recipe.check())
    if len(recipe.stages) != 1 or not isinstance(recipe.stages[0], Train):
        raise RecipeError(
            f"task {name}: {recipe.name} has {len(recipe.stages)} stages, and tasks in one batch share one frozen backbone in one stage;"
            " run the earlier stages first and give their result as the model"
        )
    try:
        check_quantized(recipe.stages, packed)
    except RecipeError as error:
        raise RecipeError(f"task {name}: {error}") from None
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


def _lane(mixed: MixedLearner, name: str, job: Job, seeds: Seeds, around: Surroundings, where: Place) -> tuple[Lane, dict[str, str]]:
    """Set the task up as its stage does, and take it into the mixed learner; with what its part of a checkpoint must agree with."""
    stage, task = job.stage, job.task
    metric, rows = metric_of(stage, task, around.metrics), rows_of(stage, task, seeds)
    learner = assemble(stage, copy.deepcopy(mixed.backbone), task, seeds).to(where.device)
    learner.framing.prepare(learner, rows[0], numpy_stream(seeds.sampling, "framing"))
    tell_notes(learner, around, dropout_notes(stage, learner))
    feed, evaluator, own = material(stage, learner, task, rows, seeds, around)
    named = [(name_of(part)[1], part) for part in stage.acting]
    plan = Plan(stage, named, seeds.dropout, evaluator, metric, listener=around.listener)
    if not (around.resume and around.folder and latest(around.folder)):  # a checkpoint holds what was chosen
        plan = prepared(stage, learner, feed, plan, seeds)
    mixed.add(name, learner)
    cache = around.cache
    if stage.cached and cache is not None:
        feed.features = cache.features(learner, feed.prompts(), stage.per_device_eval_batch_size)
        if evaluator is not None:
            evaluator.features = lambda prompts: cache.features(learner, prompts, stage.per_device_eval_batch_size)
    own |= {"recipe": job.recipe.key(), "data": task.fingerprint()} | fingerprints(job.recipe.stages)
    return Lane(name, learner, feed, plan, where), own


def _train(mixed: MixedLearner, lanes: Sequence[Lane], rows: int, seeds: Seeds, where: Place, keeping: Keeping) -> None:
    """The one loop over all tasks. Losses of several tasks add up to gradients of separate weights, so none weighs on another."""
    mixed.train()
    count = keeping.restore(lanes)
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
        if (leader := leading(live)) in chosen:
            keeping.save(lanes, leader, count)
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
    learner = lane.learner
    close(learner, job.stage, lane.plan.evaluator, lane.run, lane.feed.examples, seeds)
    seconds = time.perf_counter() - started
    results = evaluate(learner, job.task, around.metrics, around.cache)
    account(learner, job.recipe, job.task, seeds, results, [*job.notes, *learner.record["stage"].get("notes", ())], started, seconds)
