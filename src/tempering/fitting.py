"""Fit one recipe: data and a pretrained model in, a learner (and a folder) out. The command line and the study both come here."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.choosing import choose
from tempering.codec import encode
from tempering.contracts import Seeds, predicts
from tempering.errors import RecipeError
from tempering.exporting import distinct
from tempering.learner import Learner
from tempering.peak import peak_bytes, reset_peak, versions
from tempering.quantizing import checked, packed_numbers
from tempering.recipe import Recipe
from tempering.resuming import restore
from tempering.stages.checks import check_quantized, check_sharded, labelled, moves
from tempering.stages.finishing import as_kept
from tempering.stages.kept import Kept, read_kept, write_kept
from tempering.stages.setup import Surroundings, learned_anew, leave
from tempering.stages.sharing import check_shared
from tempering.stages.sources import check_against, fingerprints, naming
from tempering.streams import seeds_before
from tempering.tasks.metrics import default_metric
from tempering.tasks.task import Split, Task
from tempering.train.device import on_first, wait
from tempering.train.evaluate import Evaluator
from tempering.train.progress import Listener, first_process, silent

RECORD = "record.json"  # of a finished stage that is not the last, beside its backbone


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
    quantize: str | None = None,
) -> Learner:
    """Run every stage of ``recipe`` on ``task`` from the pretrained ``model`` and return the learner.

    ``recipe`` is a `Recipe`, the name of a shipped one, a YAML file, or "auto"; ``task`` a `Task` or a file; ``model`` a folder, a
    hub id, "minilm", or a loaded `Backbone` (which is changed in place). ``seeds`` overrides the four seeds derived from ``seed``.
    With ``output_dir`` checkpoints go to ``output_dir/checkpoints`` and ``resume`` continues from the newest. ``metrics`` are further
    metric names or ``module:function``. ``quantize`` "8bit" or "4bit" packs the frozen matrices of a model that is loaded here
    (`tempering.quantizing`). The learner's ``record`` holds metrics on dev and test, seconds, counts, seeds, versions.
    """
    started = time.perf_counter()
    task = task if isinstance(task, Task) else Task.from_file(task, seed=seed)
    seeds = seeds or Seeds.of(seed)
    recipe, why = choose(task) if recipe == "auto" else (Recipe.load(recipe), "")
    notes = [*([why] if why else []), *task.notes, *recipe.check(labelled(task))]
    packed = model.quantized if isinstance(model, Backbone) else checked(quantize)
    if packed != checked(quantize or packed):
        raise RecipeError(f"quantize {quantize}: the model is loaded already; give its name, or Backbone.load(name, quantize={quantize!r})")
    check_quantized(recipe.stages, packed)
    check_sharded(recipe.stages, packed)
    check_shared(recipe.stages)
    sources = fingerprints(recipe.stages)
    notes += check_against(recipe.stages, task)
    for note in notes:
        listener({"event": "note", "text": note})
    if output_dir and not resume:  # what an older run left must not be taken for this one's later
        shutil.rmtree(Path(output_dir) / "checkpoints", ignore_errors=True)
    reset_peak()
    backbone = model if isinstance(model, Backbone) else Backbone.load(model, seeds.init, packed)
    backbone.start()
    around = Surroundings(Path(output_dir) / "checkpoints" if output_dir else None, resume, listener, cache, tuple(metrics))
    if output_dir:
        around = dataclasses.replace(around, identity=_identity(recipe, task, backbone, seeds, sources))
    learner = _run(recipe, backbone, task, seeds, around)
    notes += [note for stage in (*learner.record.get("earlier", ()), learner.record["stage"]) for note in stage.get("notes", ())]
    train_seconds = time.perf_counter() - started
    results = on_first(lambda: evaluate(learner, task, tuple(metrics), cache, listener))
    account(learner, recipe, task, seeds, results, notes, started, train_seconds)
    learner.record |= {"sources": sources} if sources else {}
    learner.record |= {"model_identity": dict(around.identity)["model"]} if around.identity else {}
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
        "main_metric": default_metric(task.kind, task.labels),
        "rows": {s.name: len(s) for s in (task.train, task.dev, task.test) if s is not None},
        "train_seconds": train_seconds,
        "seconds": time.perf_counter() - started,
        "peak_memory": peak_bytes(),
        "trained_parameters": sum(w.numel() for w in learner.trained().values()),
        "total_parameters": sum(p.numel() for p in learner.parameters()) + packed_numbers(learner),
        "seeds": asdict(seeds),
        "versions": versions(),
        "columns": task.columns,
        "split": task.split_record,
        "data": task.fingerprint(),
        "notes": list(notes),
    }


def _identity(recipe: Recipe, task: Task, backbone: Backbone, seeds: Seeds, sources: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What a checkpoint must agree with to be continued; ``sources`` are the fingerprints of the data that stages name."""
    found = {
        "recipe": recipe.key(),
        "data": task.fingerprint(),
        **{f"data {path}": fingerprint for path, fingerprint in sources.items()},
        "seeds": json.dumps(asdict(seeds)),  # before the model: weights that its checkpoint lacks are drawn from them
        "model": identity_of(backbone),
    }
    return tuple(found.items())


def identity_of(backbone: Backbone) -> str:
    """What names a pretrained model for good: what the user called it, and its weights."""
    packed = f", packed in {backbone.quantized}" if backbone.quantized else ""
    return f"{backbone.source} with weights {backbone.fingerprint()}{packed}"


def _run(recipe: Recipe, backbone: Backbone, task: Task, seeds: Seeds, around: Surroundings) -> Learner:
    """Stage after stage. A finished stage leaves its backbone on disk, so that a resumed run starts in the stage it died in."""
    last, earlier = len(recipe.stages) - 1, []
    for i, stage in enumerate(recipe.stages):
        here = around.folder / f"stage-{i}" if around.folder else None
        done = here / "backbone.safetensors" if here else None
        if i < last and done is not None and around.resume and _finished(done, around):
            restore(backbone, stage, done, seeds_before(seeds, i))
            backbone.changed = backbone.changed or moves(stage)
            around.kept.update(read_kept(done.parent))
            earlier.append(json.loads((done.parent / RECORD).read_text(encoding="utf-8")))
            backbone.learned |= set(earlier[-1].get("learned", ()))
            continue
        if hasattr(stage.framing, "opens"):  # what the framing loads belongs to the base
            stage.framing.opens(backbone)
        if i == last:
            backbone.base_fingerprint = backbone.fingerprint()
        if len(recipe.stages) > 1:
            around.listener(
                {
                    "event": "note",
                    "text": f"stage {i + 1} of {last + 1}: {encode(stage.framing, 'framing')}, {encode(stage.tuning, 'tuning')}",
                }
            )
        known = set(around.kept)
        mine = seeds if i == last else seeds_before(seeds, i)
        with naming(stage, i):
            learner: Learner = stage.run(backbone, task, mine, around=dataclasses.replace(around, folder=here))
        if i < last:
            learned = learned_anew(learner)
            earlier.append(learner.record["stage"] | ({"learned": learned} if learned else {}))
            leave(stage, backbone, learned)
            if done is not None and first_process():
                _finish(done, backbone, earlier[-1], {name: around.kept[name] for name in around.kept.keys() - known}, around.identity)
            wait()
    learner.record |= {"earlier": earlier} if earlier else {}
    return learner


def _finish(
    done: Path, backbone: Backbone, record: dict[str, Any], kept: Mapping[str, Kept], identity: tuple[tuple[str, str], ...]
) -> None:
    """Leave what a resumed run needs of a finished stage; the backbone comes last, as the sign that all of it is there."""
    done.parent.mkdir(parents=True, exist_ok=True)
    write_kept(done.parent, kept)
    (done.parent / RECORD).write_text(json.dumps(record), encoding="utf-8")
    part = done.with_suffix(".part")
    save_file(distinct(backbone.state_dict()), part, dict(identity))
    part.replace(done)


def _finished(done: Path, around: Surroundings) -> bool:
    """Whether this very run wrote ``done``; what an older run with other settings left in the folder does not count."""
    if not done.exists():
        return False
    with safe_open(done, framework="pt") as file:
        return (file.metadata() or {}) == dict(around.identity)


def evaluate(
    learner: Learner, task: Task, metrics: tuple[str, ...] = (), cache: TrunkCache | None = None, listener: Listener = silent
) -> dict[str, dict[str, float]]:
    """Metrics on the development and the test split; the test split is read here and nowhere else."""
    if not predicts(learner.record["framing"]):
        found_then = as_kept(learner.record["stage"])
        return {"dev": {"loss": found_then["loss"]}} if found_then else {}
    found = {}
    for split in (task.dev, task.test):
        if split is not None:
            known = _known(learner) if split is task.dev else None
            found[split.name] = known or evaluator_of(learner, task, split, metrics, cache, listener)(learner)[0]
    return found


def _known(learner: Learner) -> dict[str, float] | None:
    """The development metrics of the weights that were kept, as found while training or when thresholds were chosen after it; none where
    the framing has learned more since it was looked at.
    """
    stage = learner.record.get("stage", {})
    if "settled" in stage:
        return dict(stage["settled"])
    kept = as_kept(stage) if stage.get("best_kept") and not stage.get("finished") else None
    return {k: v for k, v in kept.items() if k != "step"} if kept else None


def evaluator_of(
    learner: Learner,
    task: Task,
    split: Split,
    metrics: tuple[str, ...] = (),
    cache: TrunkCache | None = None,
    listener: Listener = silent,
) -> Evaluator:
    """An evaluator on ``split``; a frozen trunk's outputs come from the cache."""
    evaluator = Evaluator(split.examples, task.kind, task.labels, metrics, learner.eval_batch_size, listener=listener)
    if cache is not None and learner.record.get("stage", {}).get("cached"):
        evaluator.features = lambda prompts: cache.features(learner, prompts)
    return evaluator
