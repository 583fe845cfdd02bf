"""Fit one recipe: data and a pretrained model in, a learner (and a folder) out. The command line and the study both come here."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.choosing import choose
from tempering.codec import encode
from tempering.contracts import Seeds
from tempering.exporting import distinct
from tempering.framings.output_head import language_head
from tempering.learner import Learner
from tempering.peak import peak_bytes, reset_peak, versions
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings
from tempering.streams import torch_stream
from tempering.tasks.metrics import default_metric
from tempering.tasks.task import Split, Task
from tempering.train.evaluate import Evaluator
from tempering.train.progress import Listener, silent


def fit(
    recipe: Recipe | str,
    task: Task | str | Path,
    model: str | Backbone = "minilm",
    *,
    seed: int = 0,
    seeds: Seeds | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    metrics: Sequence[str] = (),
    listener: Listener = silent,
    cache: TrunkCache | None = None,
) -> Learner:
    """Run every stage of ``recipe`` on ``task`` from the pretrained ``model`` and return the learner.

    ``recipe`` is a `Recipe`, the name of a shipped one, a YAML file, or "auto"; ``task`` a `Task` or a file; ``model`` a folder, a
    hub id, "minilm", or a loaded `Backbone` (which is changed in place). ``seeds`` overrides the four seeds derived from ``seed``.
    With ``output_dir`` checkpoints go to ``output_dir/checkpoints`` and ``resume`` continues from the newest. ``metrics`` are further
    metric names or ``module:function``. The learner's ``record`` holds metrics on dev and test, seconds, counts, seeds, versions.
    """
    started = time.perf_counter()
    task = task if isinstance(task, Task) else Task.from_file(task, seed=seed)
    seeds = seeds or Seeds.of(seed)
    recipe, why = choose(task) if recipe == "auto" else (Recipe.load(recipe), "")
    notes = [*([why] if why else []), *task.notes, *recipe.check()]
    for note in notes:
        listener({"event": "note", "text": note})
    if output_dir and not resume:  # what an older run left must not be taken for this one's later
        shutil.rmtree(Path(output_dir) / "checkpoints", ignore_errors=True)
    reset_peak()
    backbone = model if isinstance(model, Backbone) else Backbone.load(model, seeds.init)
    around = _surroundings(recipe, task, backbone, seeds, Path(output_dir) if output_dir else None, resume, metrics, listener, cache)
    learner = _run(recipe, backbone, task, seeds, around)
    train_seconds = time.perf_counter() - started
    results = evaluate(learner, task, tuple(metrics), cache, listener)
    account(learner, recipe, task, seeds, results, notes, started, train_seconds)
    return learner


def account(
    learner: Learner,
    recipe: Recipe,
    task: Task,
    seeds: Seeds,
    metrics: dict[str, dict[str, float]],
    notes: Sequence[str],
    started: float,
    train_seconds: float,
) -> None:
    """Write into the learner's record how it was made; ``started`` is the moment by ``time.perf_counter``."""
    learner.record |= {
        "name": task.name,
        "recipe": recipe.to_plain(),
        "recipe_key": recipe.key(),
        "metrics": metrics,
        "main_metric": default_metric(task.kind),
        "rows": {s.name: len(s) for s in (task.train, task.dev, task.test) if s is not None},
        "train_seconds": train_seconds,
        "seconds": time.perf_counter() - started,
        "peak_memory": peak_bytes(),
        "trained_parameters": sum(w.numel() for w in learner.trained().values()),
        "total_parameters": sum(p.numel() for p in learner.parameters()),
        "seeds": asdict(seeds),
        "versions": versions(),
        "columns": task.columns,
        "split": task.split_record,
        "data": task.fingerprint(),
        "notes": list(notes),
    }


def _surroundings(
    recipe: Recipe,
    task: Task,
    backbone: Backbone,
    seeds: Seeds,
    folder: Path | None,
    resume: bool,
    metrics: Sequence[str],
    listener: Listener,
    cache: TrunkCache | None,
) -> Surroundings:
    """What belongs to the run; ``identity`` is what a checkpoint must agree with to be continued."""
    if folder is None:
        return Surroundings(None, resume, listener, cache, tuple(metrics))
    identity = {
        "recipe": recipe.key(),
        "data": task.fingerprint(),
        "seeds": json.dumps(asdict(seeds)),  # before the model: weights that its checkpoint lacks are drawn from them
        "model": f"{backbone.source} with weights {backbone.fingerprint()}",
    }
    return Surroundings(folder / "checkpoints", resume, listener, cache, tuple(metrics), tuple(identity.items()))


def _run(recipe: Recipe, backbone: Backbone, task: Task, seeds: Seeds, around: Surroundings) -> Learner:
    """Stage after stage. A finished stage leaves its backbone on disk, so that a resumed run starts in the stage it died in."""
    last = len(recipe.stages) - 1
    for i, stage in enumerate(recipe.stages):
        here = around.folder / f"stage-{i}" if around.folder else None
        done = here / "backbone.safetensors" if here else None
        if i < last and done is not None and around.resume and _finished(done, around):
            _restore(backbone, load_file(done), seeds)
            backbone.changed = True
            continue
        if i == last:
            backbone.base_fingerprint = backbone.fingerprint()
        if len(recipe.stages) > 1:
            around.listener(
                {
                    "event": "note",
                    "text": f"stage {i + 1} of {last + 1}: {encode(stage.framing, 'framing')}, {encode(stage.tuning, 'tuning')}",
                }
            )
        mine = Surroundings(here, around.resume, around.listener, around.cache, around.metrics, around.identity)
        learner: Learner = stage.run(backbone, task, seeds, around=mine)
        if i < last:
            stage.tuning.merge(backbone)
            backbone.changed = True
            if done is not None:
                part = done.with_suffix(".part")
                save_file(distinct(backbone.state_dict()), part, dict(around.identity))
                part.replace(done)
    return learner


def _finished(done: Path, around: Surroundings) -> bool:
    """Whether this very run wrote ``done``; what an older run with other settings left in the folder does not count."""
    if not done.exists():
        return False
    with safe_open(done, framework="pt") as file:
        return (file.metadata() or {}) == dict(around.identity)


def _restore(backbone: Backbone, state: dict[str, Tensor], seeds: Seeds) -> None:
    """The backbone as a finished stage left it, with its language-model head if it had one."""
    if any(name.startswith("lm_head.") for name in state):
        with torch_stream(seeds.init, "init", "framing"):
            language_head(backbone)
    backbone.load_state_dict(state, strict=False)  # tied tensors stand in the file once


def evaluate(
    learner: Learner, task: Task, metrics: tuple[str, ...] = (), cache: TrunkCache | None = None, listener: Listener = silent
) -> dict[str, dict[str, float]]:
    """Metrics on the development and the test split; the test split is read here and nowhere else."""
    if not getattr(learner.record["framing"], "supervised", True):
        return {"dev": {"loss": learner.record["stage"]["history"][-1]["loss"]}} if learner.record["stage"]["history"] else {}
    found = {}
    for split in (task.dev, task.test):
        if split is not None:
            known = _known(learner) if split is task.dev and task.kind != "multilabel" else None
            found[split.name] = known or evaluator_of(learner, task, split, metrics, cache, listener)(learner)[0]
    return found


def _known(learner: Learner) -> dict[str, float] | None:
    """The development metrics of the weights that were kept, as found while training; a last evaluation would only repeat them."""
    stage = learner.record.get("stage", {})
    kept = [h for h in stage.get("history", ()) if h["step"] == stage["best_step"]]
    return {k: v for k, v in kept[0].items() if k != "step"} if kept and stage["best_kept"] else None


def evaluator_of(
    learner: Learner,
    task: Task,
    split: Split,
    metrics: tuple[str, ...] = (),
    cache: TrunkCache | None = None,
    listener: Listener = silent,
) -> Evaluator:
    """An evaluator on ``split``; a frozen trunk's outputs come from the cache."""
    evaluator = Evaluator(split.examples, task.kind, task.labels, metrics, listener=listener)
    if cache is not None and learner.record.get("stage", {}).get("cached"):
        evaluator.features = lambda prompts: cache.features(learner, prompts)
    return evaluator
