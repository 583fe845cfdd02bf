"""The one gradient loop. Read it top to bottom: everything a recipe does while training happens in `fit`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempering.batching import out_of_memory
from tempering.contracts import Batch, Stabilizer, Weights
from tempering.errors import CollapseError
from tempering.learner import Learner
from tempering.passes import Passes
from tempering.tasks.metrics import higher_is_better
from tempering.train import checkpoint, hooks, optimizer
from tempering.train.device import Place, place
from tempering.train.evaluate import Evaluator
from tempering.train.feed import Feed, mass
from tempering.train.memory import backed_off, refuse_alone, refuse_back_off, refuse_shared
from tempering.train.progress import Listener, silent
from tempering.train.refresh import Refresh
from tempering.train.schedule import factor
from tempering.train.settings import Loop
from tempering.train.sharding import parted, whole


@dataclass
class Run:
    """Where a run stands. What a checkpoint's JSON holds is exactly this."""

    step: int = 0
    split: int = 1  # parts a micro-batch is cut into, after memory back-offs
    best: float | None = None
    best_step: int = 0
    stale: int = 0  # evaluations since the best one
    stopped: bool = False
    passes: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    facts: list[dict[str, float]] = field(default_factory=list)  # what the framing told after each refresh


@dataclass(frozen=True)
class Plan:
    """What `fit` needs beside the learner and its feed. ``folder`` None = no checkpoints. ``metric`` is a metric name or "loss"."""

    settings: Loop
    stabilizers: Sequence[tuple[str, Stabilizer]] = ()
    seed: int = 0
    evaluator: Evaluator | None = None
    metric: str = "loss"
    folder: Path | None = None
    resume: bool = False
    identity: dict[str, Any] = field(default_factory=dict)
    listener: Listener = silent
    prepared: Weights = field(default_factory=dict)  # what stabilizers chose before the first step, as a checkpoint holds it


def supervised(passes: Passes) -> Tensor:
    """The supervised loss, averaged over every student pass that any term asked for."""
    return passes.supervised()


def fit(learner: Learner, feed: Feed, plan: Plan) -> Run:
    """Train ``learner`` in place and return how it went. Afterwards it holds the best (or final) weights."""
    settings, where = plan.settings, place(plan.settings, learner.sharded)
    refuse_shared(plan.stabilizers, where.world)
    learner.to(where.device)
    feed.rank, feed.world, feed.together = where.rank, where.world, where.sharded
    plan = plan if where.rank == 0 else dataclasses.replace(plan, listener=silent)
    trained = learner.trained()
    learner.steps = steps = settings.total_steps(feed.rows)
    folded = hooks.start(plan.stabilizers, learner, trained, plan.seed, plan.prepared)
    kept = learner.kept()
    evaluate_at = settings.marks(settings.eval_strategy, settings.eval_steps, steps) if plan.evaluator else frozenset()
    save_at = settings.marks(settings.save_strategy, settings.save_steps, steps) if plan.folder else frozenset()
    optim = optimizer.make(trained, settings, per_weight=folded.rates, undecayed=learner.framing.undecayed)
    refresh = Refresh(learner, feed, plan, folded, trained, optim, steps)
    run, best = _resume(plan, kept, optim, folded) if plan.resume else (Run(), {})

    learner.train()  # a body comes in evaluation mode, whatever mode the learner says it is in
    while run.step < steps and not run.stopped:
        refresh(run)
        progress = run.step / steps
        if not learner.training:
            learner.train()
        loss = _accumulate(learner, feed, folded, trained, run, plan, where)
        _refuse_collapse(loss, run.step + 1, steps, settings.learning_rate)
        folded.scale_gradients(trained)
        scale = factor(settings.lr_scheduler_type, run.step, steps, settings.warmup(steps), settings.lr_scheduler_power)
        optimizer.set_rates(optim, folded, scale, progress)
        optimizer.clip(trained.values(), settings.max_grad_norm)
        optim.step()
        optim.zero_grad()
        folded.after_step(trained)
        run.step += 1
        plan.listener({"event": "step", "step": run.step, "total": steps, "loss": loss, "learning_rate": settings.learning_rate * scale})
        if run.step in evaluate_at:
            best = evaluate_and_keep(learner, plan, folded, kept, run, best, steps, where)
        if run.step in save_at or run.stopped:
            _save(plan, where, kept, optim, folded, run, best, steps)

    assign(kept, best if settings.load_best_model_at_end and best else folded.final() if folded.final else {})
    learner.eval()
    return run


def _refuse_collapse(loss: float, step: int, steps: int, rate: float) -> None:
    if not math.isfinite(loss):
        raise CollapseError(f"the loss became {loss} in step {step} of {steps}; lower learning_rate (now {rate:g})")


def _accumulate(learner: Learner, feed: Feed, folded: hooks.Folded, trained: Weights, run: Run, plan: Plan, where: Place) -> float:
    """Gradients of one optimizer step, averaged over all its rows in all processes, and the loss that is.

    Out of memory: halve the micro-batches and do the step again; in every process, as soon as one has no memory left.
    """
    while True:
        loss, made, short = 0.0, 0, False
        batches = feed.micro(run.step, run.split)
        (total,) = where.total(sum(mass(b) for b in batches))
        try:
            for i, batch in enumerate(batches):
                passes = _passes(learner, batch, folded, trained, plan, (plan.seed, run.step, i, where.rank), where)
                part = folded.loss(passes, supervised) * (mass(batch) / total)
                where.backward(part)
                loss, made = loss + float(part.detach()), made + passes.made
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            refuse_alone(plan.settings, where.sharded)
            short = True
        anywhere, loss = where.total(float(short), loss)
        if not anywhere:
            where.sum_gradients(trained.values())
            run.passes += made
            return loss
        refuse_back_off(plan.stabilizers, feed, run.split)
        run.split = backed_off(run.split, trained, plan.listener)


def _passes(
    learner: Learner, batch: Batch, folded: hooks.Folded, trained: Weights, plan: Plan, key: tuple[Any, ...], where: Place
) -> Passes:
    batch = batch.to(where.device) if where.device.type != "cpu" else batch
    return Passes(
        learner,
        batch,
        trained,
        key,
        folded.view,
        folded.noises,
        where.device,
        where.autocast,
        native_dropout=plan.settings.gradient_checkpointing,
        layered=folded.layered,
    )


def evaluate_and_keep(
    learner: Learner, plan: Plan, folded: hooks.Folded, kept: Weights, run: Run, best: Weights, steps: int, where: Place
) -> Weights:
    """Evaluate on the development split; keep the weights if they are the best so far; stop when patience is spent."""
    evaluator = plan.evaluator
    assert evaluator is not None
    now = {n: w.detach().clone() for n, w in kept.items()}
    assign(kept, folded.final() if folded.final else {})
    metrics = where.once(lambda: evaluator(learner)[0])
    shown = {n: w.detach().clone() for n, w in kept.items()} if folded.final else now
    assign(kept, now if folded.final else {})
    run.history.append({"step": run.step, **metrics})
    score = metrics[plan.metric] if plan.metric != "loss" and higher_is_better(plan.metric) else -metrics[plan.metric]
    score = -math.inf if math.isnan(score) else score
    if run.best is None or score > run.best:
        run.best, run.best_step, run.stale, best = score, run.step, 0, shown
    else:
        run.stale += 1
        run.stopped = run.stale >= (plan.settings.early_stopping_patience or math.inf)
    plan.listener({"event": "evaluate", "step": run.step, "total": steps, "metrics": metrics, "metric": plan.metric})
    return best


@torch.no_grad()
def assign(kept: Weights, values: Weights) -> None:
    for name, value in values.items():
        kept[name].copy_(value)


def _save(
    plan: Plan, where: Place, kept: Weights, optim: torch.optim.Optimizer, folded: hooks.Folded, run: Run, best: Weights, steps: int
) -> None:
    if plan.folder is None:
        return
    parts = {"weights": kept, "optimizer": checkpoint.optimizer_tensors(optim), "stabilizers": folded.save(), "best": best}
    tensors = {group: whole(weights, keep=where.rank == 0) for group, weights in parts.items()}
    if where.rank > 0:
        return
    state = {k: v for k, v in vars(run).items() if k != "step"}
    checkpoint.write(plan.folder, run.step, tensors, state | {"total": steps, "identity": plan.identity})
    plan.listener({"event": "save", "step": run.step, "total": steps, "folder": str(plan.folder), "best": run.best})


def _resume(plan: Plan, kept: Weights, optim: torch.optim.Optimizer, folded: hooks.Folded) -> tuple[Run, Weights]:
    """The run as the newest checkpoint left it, or a fresh one where there is none."""
    path = checkpoint.latest(plan.folder) if plan.folder else None
    if path is None:
        return Run(), {}
    tensors, state = checkpoint.read(path, plan.identity)
    tensors |= {group: parted(tensors[group], kept) for group in ("weights", "optimizer", "best")}
    assign(kept, tensors["weights"])
    checkpoint.restore_optimizer(optim, tensors["optimizer"])
    folded.restore(tensors["stabilizers"])
    run = Run(**{k: v for k, v in state.items() if k in Run.__dataclass_fields__})
    plan.listener({"event": "note", "text": f"resumed from {path.name}, step {run.step}"})
    return run, tensors["best"]
