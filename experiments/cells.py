"""What the experiments share: finished cells kept in a file, a budget of hours, rows cut the same way every time, and tables."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from published import beside_project, keep, portable, publish
from scipy import stats

from tempering.contracts import Seeds
from tempering.recipe import Recipe, parse_settings
from tempering.registry import name_of
from tempering.study.pairs import Pair, compare_all
from tempering.tasks import Task, nested_subsets
from tempering.tasks.task import Split

EVERYWHERE = ("bf16",)  # settings that say how a machine counts, not what is trained


class OutOfTimeError(Exception):
    """The hours given are spent; the same command goes on from here."""


@dataclass
class Cells:
    """Finished cells by key, in ``path``. Every cell is written as soon as it is there, and never made again.

    ``settings`` is what all cells have in common; a file made with other settings is refused, since its cells would not be comparable.
    Commands for different cells may run beside each other: each keeps what the other has written, and what several cells start from is made
    by one of them (`making`).
    """

    path: Path
    settings: Mapping[str, Any]
    hours: float | None = None
    done: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any], hours: float | None = None, first: Path | None = None) -> Cells:
        """The cells in ``folder`` and those of the table whose cells are in ``first``; none if nothing was run there."""
        folder.mkdir(parents=True, exist_ok=True)
        cells = cls(folder / "cells.json", json.loads(json.dumps(settings)), hours)
        for path in (first, cells.path):
            if path is not None and (path == first or path.exists()):
                found = json.loads(path.read_text(encoding="utf-8"))
                cells.check(found["settings"], path)
                cells.done |= found["cells"]
        return cells

    def check(self, found: Mapping[str, Any], path: Path) -> None:
        """End with a sentence where the cells in ``path`` were made otherwise."""
        for name in sorted({*found, *self.settings}):
            if found.get(name) != self.settings.get(name):
                what = f"{name}={found.get(name)!r}, and now {name}={self.settings.get(name)!r} is asked for"
                raise SystemExit(f"{path} holds cells made with {what}; give another --output, or the same settings")

    def __contains__(self, key: str) -> bool:
        return key in self.done

    def __getitem__(self, key: str) -> Any:
        return self.done[key]

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The cell ``key``, made if it is not there; no cell is begun once the hours are spent."""
        if key not in self.done:
            self.in_time()
            start = time.perf_counter()
            self.done[key] = make()
            self.write()
            print(f"{key:60s} {told(self.done[key])}  {time.perf_counter() - start:.0f} s", flush=True)
        return self.done[key]

    def in_time(self) -> None:
        """Raise `OutOfTimeError` once the hours are spent."""
        if self.hours is not None and time.monotonic() - self.started > 3600 * self.hours:
            raise OutOfTimeError

    def write(self) -> None:
        """The whole file anew, renamed into place, with what another command has written meanwhile."""
        part = self.path.with_suffix(".part")
        with FileLock(self.path.with_suffix(".lock")):
            if self.path.exists():
                self.done = json.loads(self.path.read_text(encoding="utf-8"))["cells"] | self.done
            part.write_text(json.dumps({"settings": self.settings, "cells": self.done}, indent=1), encoding="utf-8")
            part.replace(self.path)

    def scores(self, keys: Iterable[str]) -> list[float]:
        """The score of each key, nan where it is not there yet."""
        return [float(self.done[key]["score"]) if key in self.done else math.nan for key in keys]


@contextmanager
def making(path: Path) -> Iterator[bool]:
    """Whether ``path`` is still to be made. While open no other command makes it: one that wants it, too, waits, and then finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield not path.exists()


def everywhere(settings: Sequence[str], where: str = "") -> dict[str, Any]:
    """Those of the ``key=value`` words for a last stage that hold for the stages before it, too, as settings of the stage ``where``."""
    return {f"{where}{name}": value for name, value in parse_settings(settings).items() if name in EVERYWHERE}


def told(cell: Any) -> str:
    """A cell in a few words."""
    score = cell.get("score", cell.get("dev")) if isinstance(cell, Mapping) else None
    return f"{100 * score:5.1f}" if isinstance(score, float) else ""


def last_stage(name: str, args: argparse.Namespace, more: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe ``name`` with the options of `options.with_last_stage`, ``more``, and the settings of the command, which come last."""
    recipe = Recipe.load(name)
    settings = {"min_steps": max(recipe.stages[-1].min_steps, args.min_steps)}
    rate = {"learning_rate": args.learning_rate} if name_of(recipe.stages[-1].tuning)[1] == "full" else {}
    return recipe.override(settings | rate | dict(more or {}) | parse_settings(args.settings))


def load(data: Path, name: str, test_rows: int | None = None, dev_rows: int | None = None) -> Task:
    """A data set by name, with at most so many test and development rows, drawn once for all cells."""
    task = Task.from_file(data / name)
    return replace(task, dev=few(task.dev, dev_rows), test=few(task.test, test_rows))


def few(split: Split | None, rows: int | None) -> Split | None:
    """At most ``rows`` rows of a split, always the same ones, in their order."""
    if split is None or not rows or rows >= len(split):
        return split
    chosen = sorted(np.random.default_rng(0).permutation(len(split))[:rows])
    return replace(split, examples=tuple(split.examples[i] for i in chosen))


def cut(task: Task, rows: int | None, seed: int) -> Task:
    """At most ``rows`` training rows, drawn by ``seed``, in the proportions of their classes."""
    if not rows or rows >= len(task.train):
        return task
    sampling = Seeds.of(seed).sampling
    return task.with_train(nested_subsets(task, [rows], sampling)[rows], sampling)


def outcome(learner: Any) -> dict[str, Any]:
    """What a cell keeps of a learner: its main metric on test and dev, all metrics, and what it took."""
    record, main = learner.record, learner.record["main_metric"]
    kept = {name: record[name] for name in ("metrics", "main_metric", "rows", "train_seconds", "trained_parameters", "peak_memory")}
    return {"score": record["metrics"]["test"][main], "dev": record["metrics"]["dev"][main]} | kept


def spread(values: Sequence[float], scale: float = 100) -> str:
    """Mean, sample standard deviation, and the 95 % t interval of the mean; what is missing is left out.

    Equal values have no interval: they are rounded ones, and one of no width would call the mean certain.
    """
    found = [scale * v for v in values if math.isfinite(v)]
    if len(found) < 2:
        return f"{found[0]:.1f}" if found else ""
    mean, deviation = statistics.mean(found), statistics.stdev(found)
    if max(found) == min(found):
        return f"{mean:.1f} ± 0.0"
    half = float(stats.t.isf(0.025, len(found) - 1)) * deviation / math.sqrt(len(found))
    return f"{mean:.1f} ± {deviation:.1f} ({mean - half:.1f} to {mean + half:.1f})"


def paired(first: Sequence[float], second: Sequence[float]) -> Pair:
    """``first`` minus ``second``, paired by seed (t test)."""
    (pair,) = compare_all({"first": first, "second": second})
    return pair


def difference(pair: Pair, tests: int = 1) -> str:
    """A difference in points with its interval and its p value, times the number of ``tests``; empty where a side is missing."""
    p = min(1.0, pair.p * tests)
    said = "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"
    return gap(pair) + (f", {said}" if math.isfinite(pair.low) else "")


def gap(pair: Pair) -> str:
    """A difference in points with its interval, where seeds differ; empty where a side is missing."""
    if not math.isfinite(pair.difference):
        return ""
    interval = f" ({100 * pair.low:+.1f} to {100 * pair.high:+.1f})" if math.isfinite(pair.low) else ""
    return f"{100 * pair.difference:+.1f}{interval}"


def verdict(pair: Pair, tests: int = 1, margin: float = 0.05) -> str:
    """In a word whether ``first`` is higher, after `difference` was corrected for so many tests."""
    if not math.isfinite(pair.difference):
        return "not run"
    if pair.p * tests < margin:
        return "holds" if pair.difference > 0 else "is reversed"
    direction = "no difference" if abs(pair.difference) < 1e-12 else "right direction" if pair.difference > 0 else "other direction"
    return f"not decided ({direction})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def carry_out(
    args: argparse.Namespace,
    shared: Sequence[str],
    run: Callable[[Cells], None],
    report: Callable[[Cells, argparse.Namespace], str],
    **more: Any,
) -> None:
    """``run`` what is missing of the cells in ``--output``, for as long as ``--hours`` lets it, and write the table of what is there.

    ``shared`` are the options that all cells must have been made with, and ``more`` what else they have in common.
    """
    settings = {name: beside_project(getattr(args, name)) if name == "model" else getattr(args, name) for name in shared}
    cells = Cells.open(args.output, settings | more, args.hours, args.cells)
    try:
        if args.hours != 0:  # nothing would begin, and the data need not be there
            run(cells)
    except OutOfTimeError:
        print(f"{args.hours} hours are spent; the same command goes on from here")
    publish(report(cells, args), args.table)
    keep(args.table.with_suffix(".json"), portable(sys.argv), cells.settings, cells.done)
