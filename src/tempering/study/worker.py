"""Running one cell, in this process or in a child that may die without taking the study along."""

from __future__ import annotations

import copy
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tempering.contracts import Seeds
from tempering.errors import TemperingError
from tempering.recipe import Recipe
from tempering.study.crossing import levels_of, seeds_of
from tempering.study.records import Record
from tempering.study.store import Cell
from tempering.tasks.task import Task


@dataclass(frozen=True)
class Order:
    """What a worker needs to run any cell of a study. ``base_seed`` is added to a cell's seed."""

    task: Task
    model: str
    recipes: dict[str, str]  # name -> YAML
    metric: str
    higher: bool
    majority: float
    metrics: tuple[str, ...]
    cache: Path | None
    base_seed: int = 0
    quantize: str | None = None


@dataclass
class Bench:
    """A worker's tools: the pretrained model, loaded once, and the cache of frozen trunks."""

    order: Order
    _pristine: Any = None
    _cache: Any = field(default=None)

    def run(self, cell: Cell) -> Record:
        """The record of ``cell``; whatever goes wrong in it is a failed record with its reason."""
        blank = cell.blank()
        start, before = time.perf_counter(), 0.0
        try:
            self._set_up()
            start, before = time.perf_counter(), self._cache.seconds
            record = self._run(cell, blank)
        except TemperingError as error:
            record = replace(blank, status="failed", reason=str(error))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            words = str(error).splitlines()[0] if str(error) else ""
            record = replace(blank, status="failed", reason=f"{type(error).__name__}: {words} ({Path(place.filename).name}:{place.lineno})")
        shared = self._cache.seconds - before if self._cache is not None else 0.0
        return replace(record, seconds=time.perf_counter() - start - shared, cache_seconds=shared)

    def _run(self, cell: Cell, blank: Record) -> Record:
        from tempering.fitting import evaluator_of, fit
        from tempering.tasks.metrics import per_item
        from tempering.tasks.sampling import nested_subsets

        order, seeds = self.order, seeds_for(cell, self.order.base_seed)
        size = None if cell.size == "all" else int(cell.size)
        recipe = Recipe.from_yaml(order.recipes[cell.recipe]).override(dict(cell.setting))
        subset = order.task.with_train(nested_subsets(order.task, [size], seeds.sampling)[size], seeds.sampling)
        learner = fit(
            recipe, replace(subset, test=None), self._backbone(recipe, seeds.init), seeds=seeds, metrics=order.metrics, cache=self._cache
        )
        record = _filled(blank, learner)
        if cell.phase != "search" and order.task.test is not None:
            test, predictions = evaluator_of(learner, subset, order.task.test, order.metrics, self._cache)(learner)
            labels = [p.label for p in predictions]
            items = per_item(order.task.kind, order.task.test.labels, labels)
            collapsed = _at_most(test[order.metric], order.majority, order.higher)
            record = replace(record, test=test, items=items, predictions=labels, collapsed=collapsed)
        return record

    def _set_up(self) -> None:
        """What the first run of a process brings about and no run is charged for: imports, the model, an empty cache."""
        from tempering.backbone import Backbone
        from tempering.cache import TrunkCache

        if self._pristine is None:
            self._pristine = Backbone.load(self.order.model, quantize=self.order.quantize)
            self._cache = TrunkCache(self.order.cache)

    def _backbone(self, recipe: Recipe, init: int) -> Any:
        """A fresh backbone. One that no stage changes is lent as it is; one with weights drawn from the seed is loaded anew."""
        from tempering.backbone import Backbone

        if self._pristine.pretrained != self._pristine.own:
            return Backbone.load(self.order.model, init, self.order.quantize)
        untouched = len(recipe.stages) == 1 and _suited(recipe.stages[0], self.order.task).cached
        return self._pristine if untouched else copy.deepcopy(self._pristine)


def seeds_for(cell: Cell, base: int) -> Seeds:
    """The streams of a cell: all four from its seed or, where it crosses them, each from its own level."""
    return seeds_of(levels_of(cell.seed), base) if cell.levels else Seeds.of(base + cell.seed)


def _suited(stage: Any, task: Task) -> Any:
    """The stage as it will run on ``task``."""
    return stage.suited(task.kind) if hasattr(stage, "suited") else stage


def _filled(blank: Record, learner: Any) -> Record:
    from tempering.saving import eject

    record = learner.record
    eject(learner.tuning, learner.backbone)  # as saving does: the network that makes a prompt is not kept
    kept = sum(w.numel() * w.element_size() for w in learner.kept().values())
    if learner.backbone.changed:  # an earlier stage changed the base, so the base has to be kept along; a trained weight counts once
        body, added = learner.backbone.model.state_dict(keep_vars=True), learner.backbone.own
        kept += sum(t.numel() * t.element_size() for n, t in body.items() if n in added and not t.requires_grad)
    return replace(
        blank,
        rows=record["rows"]["train"],
        dev=record["metrics"].get("dev", {}),
        peak_memory=record["peak_memory"],
        trained_parameters=record["trained_parameters"],
        total_parameters=record["total_parameters"],
        artefact_bytes=kept,
        seeds=record["seeds"],
        versions=record["versions"],
        facts=record["stage"].get("facts", []),
        notes=_notes(record),
    )


def _notes(record: Mapping[str, Any]) -> list[str]:
    """What a stage had to say of itself, and that memory was short in the last."""
    last = record["stage"]
    told = [note for stage in (*record.get("earlier", ()), last) for note in stage.get("notes", ())]
    return told + ([f"micro-batches were cut into {last['split']} parts for want of memory"] if last["split"] > 1 else [])


def _at_most(value: float, bar: float, higher: bool) -> bool:
    """Whether a score is no better than the baseline's (a score that is not a number never is better)."""
    return not (value > bar if higher else value < bar)


def _follow(parent: int) -> None:
    """End with the driver: a child whose driver was killed must not go on with work that another driver takes over."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _serve(pipe: Connection, order: Order, threads: int) -> None:
    """The child's loop: a cell in, a record out."""
    import signal

    import torch

    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    torch.set_num_threads(threads)
    bench = Bench(order)
    while True:
        try:
            cell = pipe.recv()
        except EOFError:
            return
        pipe.send(bench.run(cell))


class Child:
    """A child process with a `Bench`, started at first use and again after it died."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._process: Any = None
        self._pipe: Any = None

    def run(self, cell: Cell, tick: Any) -> Record | None:
        """The record of ``cell``, or None if the child died over it. ``tick`` is called every few seconds meanwhile."""
        if self._process is None or not self._process.is_alive():
            self._start()
        try:
            self._pipe.send(cell)
            while not self._pipe.poll(5.0):
                tick()
            found: Record = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.stop()
            return None
        return found

    def _start(self) -> None:
        import torch

        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.order, torch.get_num_threads()), daemon=True)
        self._process.start()
        theirs.close()

    def stop(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = None
