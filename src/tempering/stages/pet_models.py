"""The models of `PET`: one for every pattern, repetition and generation, what they say of the unlabelled texts, and the classifier."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.errors import RecipeError
from tempering.framings.cloze import Cloze
from tempering.hashing import hashed
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.finishing import account
from tempering.stages.live_dropout import dropout_notes
from tempering.stages.pet_sets import Labelled, draw, ensemble, others, sizes
from tempering.stages.pet_training import AuxiliaryLM, Distill
from tempering.stages.setup import Surroundings, assemble, evaluator_of, metric_of, prepared, tell_notes
from tempering.streams import key_of, numpy_stream
from tempering.tasks.task import Split, Task
from tempering.train import checkpoint
from tempering.train.device import place
from tempering.train.feed import Feed
from tempering.train.fit import Plan, fit
from tempering.train.progress import first_process
from tempering.train.settings import Loop

DONE = "logits.safetensors"


@dataclass(frozen=True)
class Teacher:
    """What is left of a model: its logits on the pool [rows, classes], and its accuracy on the labelled rows before it was trained."""

    logits: Tensor
    weight: float


@dataclass
class Teachers:
    """All models of a stage. ``account`` tells of each in the record."""

    stage: Any
    backbone: Backbone
    task: Task
    pool: Sequence[Example]
    seeds: Seeds
    around: Surroundings
    account: list[dict[str, Any]] = field(default_factory=list)
    standing: dict[tuple[str, str, str], Teacher] = field(default_factory=dict)  # of models that were not trained: see `_as_it_stands`
    told: set[str] = field(default_factory=set)  # notes of models before: another model of the same pattern tells them no second time

    @property
    def count(self) -> int:
        """Models of a generation."""
        return len(self.stage.patterns) * int(self.stage.repetitions)

    @property
    def labelled(self) -> Sequence[Example]:
        """The labelled rows: none where the stage begins without them."""
        return () if self.stage.zero_shot else self.task.train.examples

    def soft_labels(self) -> Tensor:
        """The logits [rows, classes] that the classifier learns: the ensemble of the last generation."""
        found = [self._model(0, m, ()) for m in range(self.count)]
        for generation in range(1, self.stage.generations + 1):
            found = [self._model(generation, m, self.new_set(generation, m, found)) for m in range(self.count)]
        return ensemble([t.logits for t in found], self.weights(found))

    def weights(self, found: Sequence[Teacher]) -> list[float] | None:
        """Those of the ensemble; None where all count alike (also where nothing is known, without labelled rows)."""
        return [t.weight for t in found] if self.stage.weighting == "wmean" and self.labelled else None

    def new_set(self, generation: int, own: int, found: Sequence[Teacher]) -> list[Labelled]:
        """The rows of the pool that model ``own`` learns in ``generation``, labelled by some of the others."""
        rng = numpy_stream(self.seeds.sampling, "ipet", generation, own)
        chosen = [found[i] for i in others(len(found), own, self.stage.others, rng)]
        logits = ensemble([t.logits for t in chosen], self.weights(chosen))
        classes = [self.task.label_index(e.label) for e in self.labelled]
        counts = [classes.count(c) for c in range(len(self.task.labels))]
        most = self.stage.most_likely if self.stage.zero_shot and generation == 1 else None
        return draw(logits, sizes(counts, generation, self.stage.scale), rng, most, self.task.labels)

    def _model(self, generation: int, number: int, new: Sequence[Labelled]) -> Teacher:
        """Train a model, or take what a run that was stopped has left of it."""
        pattern = self.stage.patterns[number // self.stage.repetitions]
        folder = None if self.around.folder is None else self.around.folder / f"generation-{generation}" / f"model-{number}"
        done = None if folder is None else folder / DONE
        found = _read(done, self._identity) if done is not None and self.around.resume else None
        if found is None:
            words = f"generation {generation + 1} of {self.stage.generations + 1}, model {number + 1} of {self.count}: {pattern}"
            self.around.listener({"event": "note", "text": words})
            found = self._trained(pattern, generation, number, new, folder)
            if done is not None and first_process():
                _write(done, found, self._identity)
        if folder is not None and first_process():
            checkpoint.clear(folder)  # its logits are there; a model with its optimizer is several times as large as the pretrained one
        self.account.append({"generation": generation, "pattern": pattern, "weight": found.weight, "new_rows": len(new)})
        return found

    @property
    def _identity(self) -> dict[str, str]:
        return {"identity": json.dumps(dict(self.around.identity), sort_keys=True)}

    def _trained(self, pattern: str, generation: int, number: int, new: Sequence[Labelled], folder: Path | None) -> Teacher:
        stage, task = self.stage, self.task
        seeds = Seeds(**{f.name: key_of(getattr(self.seeds, f.name), "pet", generation, number) for f in dataclasses.fields(Seeds)})
        settings = Loop(
            learning_rate=stage.pattern_learning_rate, max_steps=stage.pattern_steps, weight_decay=0.01, warmup_steps=0,
            per_device_train_batch_size=stage.pattern_batch_size, eval_strategy="no", load_best_model_at_end=False, bf16=stage.bf16,
            save_strategy=stage.save_strategy, save_steps=stage.save_steps,
            per_device_eval_batch_size=stage.per_device_eval_batch_size,
        )  # fmt: skip
        parts = _Parts(stage.cloze(pattern), stage.tuning, per_device_eval_batch_size=stage.per_device_eval_batch_size)
        learner = assemble(parts, copy.deepcopy(self.backbone), task, seeds).to(place(settings).device)
        added = [dataclasses.replace(self.pool[n.row], label=task.labels[n.label]) for n in new]
        rows = [*self.labelled, *added]
        learner.framing.prepare(learner, self.labelled, numpy_stream(seeds.sampling, "framing"))
        tell_notes(learner, self.around, known=self.told)
        weight = accuracy(learner, self.labelled)
        if not rows:
            return self._as_it_stands(learner, pattern, weight)
        prompts = [p for found in learner.framing.render(self.pool, (), np.random.default_rng(0)) for p in found]
        named = [("auxiliary_lm", auxiliary)] if not (auxiliary := AuxiliaryLM(stage.alpha, prompts)).neutral else []
        feed = Feed(learner.framing, rows, settings, seeds)
        identity = dict(self.around.identity) | {"pet": f"{generation} {number}"}
        plan = Plan(settings, named, seeds.dropout, None, "loss", folder, self.around.resume, identity, self.around.listener)
        fit(learner, feed, prepared(parts, learner, feed, plan, seeds))
        return Teacher(logits_of(learner, self.pool, settings.per_device_eval_batch_size), weight)

    def _as_it_stands(self, learner: Learner, pattern: str, weight: float) -> Teacher:
        """A model that is not trained. Repetitions of a pattern differ in what they draw alone: where that is nothing, one reads the texts
        for all of them.
        """
        weights = {f"{part}.{name}": w for part in ("backbone", "framing") for name, w in getattr(learner, part).state_dict().items()}
        key = pattern, hashed(learner.backbone.config, weights, None).words, json.dumps(learner.framing.keep(), sort_keys=True, default=str)
        if key not in self.standing:
            self.standing[key] = Teacher(logits_of(learner, self.pool, self.stage.per_device_eval_batch_size), weight)
        return self.standing[key]


def foretold(patterns: Sequence[Cloze], backbone: Backbone, task: Task | None) -> tuple[str, ...]:
    """The notes of the framings of ``patterns``, each once. Without a task the labels are those that the patterns name words for."""
    if not patterns or (task is not None and task.kind not in patterns[0].kinds):
        return ()
    named = patterns[0].named
    known = task or Task("task", "classification", tuple(map(str, named or ("a", "b"))), Split("train", ()))
    body = copy.deepcopy(backbone)  # a language-model head is put in place
    try:
        return tuple(dict.fromkeys(note for pattern in patterns for note in pattern.build(known, body).notes))
    except RecipeError:
        if task is None and not named:
            return ()  # labels that stand in for those of the data need be no words of the model
        raise


@dataclass(frozen=True)
class _Parts:
    """What `assemble` reads of a stage."""

    framing: Any
    tuning: Any
    stabilizers: tuple[Any, ...] = ()
    label_smoothing_factor: float = 0.0
    students: int = 1
    per_device_eval_batch_size: int = 64


def accuracy(learner: Learner, examples: Sequence[Example]) -> float:
    """Share of ``examples`` that the model gets right as it stands; 0 where there are none."""
    said = learner.predictions(examples)
    return float(np.mean([p.label == e.label for p, e in zip(said, examples, strict=True)])) if said else 0.0


def logits_of(learner: Learner, examples: Sequence[Example], batch_size: int) -> Tensor:
    """Class scores [rows, classes] of ``examples`` in evaluation mode."""
    prompts = [found[0] for found in learner.framing.render(examples, (), np.random.default_rng(0))]
    return learner.score(prompts, batch_size).only.logits.mean(0).float()


def distilled(
    stage: Any, backbone: Backbone, task: Task, pool: Sequence[Example], soft: Tensor, seeds: Seeds, around: Surroundings
) -> Learner:
    """The classifier, trained on the soft labels alone; its development metrics are those of the task."""
    learner = assemble(stage, backbone, task, seeds)
    learner.to(place(stage).device)
    held = task.dev.examples if task.dev is not None else ()
    learner.framing.prepare(learner, pool, numpy_stream(seeds.sampling, "framing"))
    tell_notes(learner, around, notes := dropout_notes(stage, learner))
    rendered = learner.framing.render(pool, (), np.random.default_rng(0))
    ready = [dataclasses.replace(found[0], target=i) for i, found in enumerate(rendered)]
    feed = Feed(learner.framing, pool, stage, seeds, ready=ready)
    evaluator, metric = evaluator_of(stage, task, held, around), metric_of(stage, task, around.metrics)
    named = [("distill", Distill(soft, stage.temperature)), *((name_of(part)[1], part) for part in stage.acting)]
    backbone.recompute(stage.gradient_checkpointing)
    folder = None if around.folder is None else around.folder / stage.trained_in
    plan = Plan(stage, named, seeds.dropout, evaluator, metric, folder, around.resume, dict(around.identity), around.listener)
    run = fit(learner, feed, prepared(stage, learner, feed, plan, seeds))
    learner.record["stage"] = account(stage, run, len(pool), run.split, notes=notes)
    return learner.eval()


def _write(path: Path, found: Teacher, identity: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({"logits": found.logits.contiguous(), "weight": torch.tensor(found.weight, dtype=torch.float64)}, part, identity)
    part.replace(path)


def _read(path: Path, identity: dict[str, str]) -> Teacher | None:
    """What was left at ``path`` by this very run; None where there is nothing of it."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}) != identity:
            return None
    tensors = load_file(path)
    return Teacher(tensors["logits"], float(tensors["weight"]))
