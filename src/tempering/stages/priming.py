"""The outer loop of priming. Read `prime` top to bottom: episodes, one step of AdamW, evaluation, checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from tempering.batching import out_of_memory
from tempering.contracts import Seeds, Weights
from tempering.errors import CollapseError, MemoryShort, RecipeError
from tempering.learner import Learner
from tempering.stages.episodes import Nursery
from tempering.stages.finishing import account
from tempering.stages.setup import Surroundings, parts_of, tell_notes
from tempering.streams import numpy_stream
from tempering.tasks.metrics import default_metric
from tempering.train import checkpoint, optimizer
from tempering.train.device import Place, place
from tempering.train.evaluate import Evaluator
from tempering.train.fit import assign
from tempering.train.hooks import Folded
from tempering.train.meta import accumulate, adapt, episode
from tempering.train.schedule import factor
from tempering.train.several import MEAN


@dataclass
class Progress:
    """Where priming stands: what a checkpoint's JSON holds."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    passes: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def prime(stage: Any, nursery: Nursery, seeds: Seeds, around: Surroundings) -> Learner:
    """Train what the outer loop trains, in place, and return the learner that holds it."""
    settings, learner = stage.loop, nursery.learner
    where = _place(settings)
    _prepare(nursery, where, seeds, around)
    trained: Weights = {name: weight for name, weight in learner.named_parameters() if name in nursery.outer}
    optim = optimizer.make(trained, settings, per_weight=False, undecayed=learner.framing.undecayed)
    evaluators = _evaluators(stage, nursery) if stage.eval_strategy != "no" else {}
    evaluate_at = settings.marks(stage.eval_strategy, stage.eval_steps, stage.outer_steps) if evaluators else frozenset()
    save_at = settings.marks(stage.save_strategy, stage.save_steps, stage.outer_steps) if around.folder else frozenset()
    run, best = _resume(nursery, trained, optim, around) if around.resume else (Progress(), {})
    warmup = settings.warmup(stage.outer_steps)
    while run.step < stage.outer_steps:
        loss = _step(nursery, trained, run, where)
        scale = factor(stage.lr_scheduler_type, run.step, stage.outer_steps, warmup)
        optimizer.set_rates(optim, Folded([]), scale, run.step / stage.outer_steps)
        optimizer.clip(trained.values(), stage.max_grad_norm)
        optim.step()
        optim.zero_grad()
        run.step += 1
        told = {"step": run.step, "total": stage.outer_steps, "loss": loss, "learning_rate": stage.learning_rate * scale}
        around.listener({"event": "step", **told})
        if run.step in evaluate_at:
            best = _evaluate(nursery, evaluators, trained, run, best, where, around)
        if run.step in save_at:
            _save(nursery, trained, optim, run, best, around)
    if stage.load_best_model_at_end and best:
        assign(trained, best)
    learner.record["stage"] = _account(stage, nursery, run)
    return learner.eval()


def _place(settings: Any) -> Place:
    where = place(settings)
    if where.world > 1:
        raise RecipeError(f"prime runs in one process, found {where.world}; start it without a launcher")
    return where


def _prepare(nursery: Nursery, where: Place, seeds: Seeds, around: Surroundings) -> None:
    """Everything on its device; framings choose from their rows."""
    nursery.learner.backbone.recompute(False)
    done: set[int] = set()
    for name, learner, task in zip(nursery.names, nursery.learners, nursery.tasks, strict=True):
        learner.to(where.device).eval()
        if id(learner) not in done:
            learner.framing.prepare(learner, task.train.examples, numpy_stream(seeds.sampling, "framing", name))
            tell_notes(learner, around)
            done.add(id(learner))
    for part in (p for p in parts_of(nursery.stage.tuning) if hasattr(p, "prepare")):
        part.prepare(nursery.learner, None)  # those that would look at rows, by a probe, are refused
    nursery.heads = [{name: w.to(where.device) for name, w in head.items()} for head in nursery.heads]


def _step(nursery: Nursery, trained: Weights, run: Progress, where: Place) -> float:
    """Meta-gradients of one outer step, a mean over its tasks, and the mean query loss."""
    sources, total, losses = nursery.chosen(run.step), dict[str, torch.Tensor](), []
    for slot, source in enumerate(sources):
        loss, gradients = _episode(nursery, source, run.step, slot, where)
        accumulate(total, gradients, 1 / len(sources))
        losses.append(loss)
        run.passes += nursery.stage.students
    loss = float(np.mean(losses))
    if not math.isfinite(loss):
        raise CollapseError(
            f"the query loss became {loss} in step {run.step + 1} of {nursery.stage.outer_steps}; lower inner_learning_rate"
            f" (now {nursery.stage.inner_learning_rate:g}) or learning_rate (now {nursery.stage.learning_rate:g})"
        )
    for name, weight in trained.items():
        weight.grad = total.get(name)
    return loss


def _episode(nursery: Nursery, source: int, step: int, slot: int, where: Place) -> tuple[float, Weights]:
    """Query loss and meta-gradient of one episode; a head that is kept goes on from where it ends."""
    stage = nursery.stage
    weights = nursery.weights(source, step, slot)
    support, query = nursery.batches(source, nursery.epoch(step), step, slot)
    losses = [nursery.loss(source, batch, where.autocast) for batch in (support, query)]
    try:
        found = episode(losses[0], losses[1], weights, nursery.moved, nursery.outer, nursery.inner)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise MemoryShort(
            f"out of memory in an episode of {len(support)} and {len(query)} rows; lower support_rows and query_rows"
            + (", or set second_order to false" if stage.second_order else "")
        ) from None
    if nursery.heads:
        nursery.heads[source] = {name: found.adapted[name] for name in nursery.heads[source] if name in found.adapted}
    return found.loss, found.gradients


def _evaluators(stage: Any, nursery: Nursery) -> dict[int, Evaluator]:
    """An evaluator on the development rows of every source that has some."""
    found = {}
    for i, task in enumerate(nursery.tasks):
        if task.dev is not None and len(task.dev):
            found[i] = Evaluator(task.dev.examples, task.kind, task.labels, (), stage.per_device_eval_batch_size)
    return found


def _evaluate(
    nursery: Nursery, evaluators: dict[int, Evaluator], trained: Weights, run: Progress, best: Weights, where: Place, around: Surroundings
) -> Weights:
    """Rehearse the tuning on every source, always on the same training rows, and score its development rows; the best weights so far."""
    metrics: dict[str, float] = {}
    main, losses = [], []
    for source, evaluator in evaluators.items():
        evaluator.listener = around.listener
        found = _rehearsed(nursery, source, evaluator, where)
        metrics |= {f"{nursery.names[source]}/{name}": value for name, value in found.items()}
        main.append(found[default_metric(evaluator.kind, evaluator.labels)])
        losses.append(found["loss"])
    metrics = {"loss": float(np.mean(losses)), MEAN: float(np.mean(main))} | metrics
    run.history.append({"step": run.step, **metrics})
    told = {"step": run.step, "total": nursery.stage.outer_steps, "metrics": metrics, "metric": MEAN}
    around.listener({"event": "evaluate", **told})
    score = -math.inf if math.isnan(metrics[MEAN]) else metrics[MEAN]
    if _better(score, run):
        run.best, run.best_step = score, run.step
        return {name: weight.detach().clone() for name, weight in trained.items()}
    return best


def _better(score: float, run: Progress) -> bool:
    """Whether the newest look is the best so far. Where scores are equal (few steps find no entity: F1 is 0 each time) the loss decides."""
    if run.best is None or score != run.best:
        return run.best is None or score > run.best
    held = next(look for look in run.history if look["step"] == run.best_step)
    return bool(run.history[-1]["loss"] < held["loss"])


def _rehearsed(nursery: Nursery, source: int, evaluator: Evaluator, where: Place) -> dict[str, float]:
    """Metrics on the development rows after an episode's inner loop, and the support loss before and after it."""
    weights = nursery.weights(source, "evaluate")
    support, _ = nursery.batches(source, 0, "evaluate")
    loss = nursery.loss(source, support, where.autocast)
    moved = {name: weight.detach().requires_grad_() for name, weight in weights.items() if name in nursery.moved}
    still = {name: weight.detach() for name, weight in weights.items()}
    adapted = {name: w.detach() for name, w in adapt(lambda phi: loss(still | phi), moved, replace(nursery.inner, exact=False)).items()}
    with torch.no_grad():
        support_losses = {"support_before": float(loss(still)), "support_after": float(loss(still | adapted))}
    with nursery.holding(source, still | adapted) as learner:
        found, _ = evaluator(learner)
    return found | support_losses


def _save(nursery: Nursery, trained: Weights, optim: torch.optim.Optimizer, run: Progress, best: Weights, around: Surroundings) -> None:
    if around.folder is None:
        return
    heads = {f"{i}/{name}": weight for i, head in enumerate(nursery.heads) for name, weight in head.items()}
    tensors = {"weights": trained, "optimizer": checkpoint.optimizer_tensors(optim), "heads": heads, "best": best}
    state = {name: value for name, value in vars(run).items() if name != "step"}
    checkpoint.write(around.folder, run.step, tensors, state | {"identity": dict(around.identity)})


def _resume(nursery: Nursery, trained: Weights, optim: torch.optim.Optimizer, around: Surroundings) -> tuple[Progress, Weights]:
    """As the newest checkpoint left it, or afresh where there is none."""
    path = checkpoint.latest(around.folder) if around.folder else None
    if path is None:
        return Progress(), {}
    tensors, state = checkpoint.read(path, dict(around.identity))
    assign(trained, tensors["weights"])
    checkpoint.restore_optimizer(optim, tensors["optimizer"])
    for key, weight in tensors["heads"].items():
        number, _, name = key.partition("/")
        nursery.heads[int(number)][name] = weight.to(nursery.learner.device)
    around.listener({"event": "note", "text": f"resumed from {path.name}, step {state['step']}"})
    return Progress(**{name: value for name, value in state.items() if name in Progress.__dataclass_fields__}), tensors["best"]


def _account(stage: Any, nursery: Nursery, run: Progress) -> dict[str, Any]:
    sources = {name: len(task.train) for name, task in zip(nursery.names, nursery.tasks, strict=True)}
    return account(stage, run, sum(sources.values()), sources=sources)
