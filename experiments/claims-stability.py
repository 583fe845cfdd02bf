"""Do published ways to steadier fine-tuning hold on real tasks? Studies of small cuts, paired by seed; "no" is as welcome as "yes".

    python experiments/claims-stability.py [KEY=VALUE ...] [--data ../shared/data] [--mlm ../shared/models/minilm-mlm] [--rows 128]
        [--seeds 4] [--hours 3] [--tasks rte,mrpc,...] [--dev-rows 200] [--test-rows 400] [--runs FOLDER] [--report-only]

On every task: plain fine-tuning, several heads (MHLoss) and the margin's term (MMR) on MiniLM; plain fine-tuning and re-training on the
task's own texts (SURT) on a MiniLM with a trained masked-LM head. On the tasks of --more also mixout, R3F, LNSR, re-init, self-distillation
with the mean of the steps before (SDA), longer training, and Adam without bias correction (plain has it). Nothing is searched: every recipe
runs as shipped, but for SURT's steps (--surt-steps), which its recipe sets for larger machines, and for the settings given, which hold for
all recipes as in ``temper compare``: ``bf16=true`` for the last stage, ``stages.0.bf16=true`` for the first (SURT's re-training; the only
one of others). With --model the folder of --mlm, all runs start from there, and SURT shares the plain runs of the others: a sixth of the
runs less.

Finished runs are kept in --runs and never run again. All studies first get three seeds, then a fourth, and so on, so that whenever
--hours are over, there is about as much of every task; the report is written of what there is, and the same command goes on. --runs made
with other settings are refused. It writes claims-stability.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from claims_statistics import Run, morgan_pitman, paired
from claims_table import Result, report

from tempering.errors import TemperingError
from tempering.recipe import Recipe, parse_settings
from tempering.study.decide import SizeResult
from tempering.studying import Study, compare
from tempering.tasks import Task
from tempering.tasks.task import Split

TASKS = ("rte", "mrpc", "cola", "stsb", "snli_10k", "sst2", "trec6", "chemprot", "tweet_emotion", "tweet_irony", "sms_spam")
MORE = ("sst2", "trec6", "tweet_emotion")  # on rte, mrpc, cola and chemprot 128 rows end at the majority, where nothing is to be steadied
PLAIN, FIRST = "full", ("multi-head", "mmr")
SECOND = ("mixout", "r3f", "lnsr", "re-init", "self-distillation", "long", "no-bias-correction")
FEW = 3  # seeds that every study gets before any gets more: fewer tell nothing about a spread
SAME = ("settings", "model", "dev_rows", "test_rows", "surt_steps", "steps")  # what all runs in a folder have in common


class OutOfTime(Exception):
    """The hours are over; what is finished is kept."""


def main(words: Sequence[str] | None = None) -> None:
    """Run what is not done, then write what was found."""
    args = parsed(words)
    try:
        for name in (PLAIN, *FIRST, "surt", *SECOND):
            _recipe(args, name)  # a setting that cannot be is refused before anything is run or noted
        agree(args)
        ended = False if args.report_only else _run(args)
    except TemperingError as error:
        raise SystemExit(str(error)) from None
    args.output.write_text(report(list(results(args)), args, ended), encoding="utf-8")
    print(f"{args.output} is written")


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of every recipe, as of temper compare")
    parser.add_argument("--data", type=Path, default=here / ".." / ".." / "shared" / "data")
    parser.add_argument("--mlm", type=Path, default=here / ".." / ".." / "shared" / "models" / "minilm-mlm")
    parser.add_argument("--model", default="minilm", help="the backbone of everything but SURT")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--more", default=",".join(MORE), help="tasks on which all methods run")
    parser.add_argument("--rows", type=int, default=128, help="training rows")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--dev-rows", type=int, default=200, help="a development split is cut to as many")
    parser.add_argument("--test-rows", type=int, default=400)
    parser.add_argument("--surt-steps", type=int, default=100, help="steps of SURT's re-training at most")
    parser.add_argument("--steps", type=int, default=0, help="steps of every stage, for a trial")
    parser.add_argument("--hours", type=float, default=3.0, help="begin no run after so many; the same command goes on later")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims-stability"))
    parser.add_argument("--output", type=Path, default=here / "claims-stability.md")
    parser.add_argument("--report-only", action="store_true", help="write the report of the runs that are there")
    return parser.parse_intermixed_args(words)


def agree(args: argparse.Namespace) -> None:
    """Note in --runs what all runs there have in common; refuse to add others, which could not stand in one table with them.

    Only to report, what is noted there is taken over, so that the report says how its runs were made.
    """
    path, now = args.runs / "settings.json", {name: getattr(args, name) for name in SAME}
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if args.report_only:
        vars(args).update(found or {})
        return
    for name in (n for n in SAME if found is not None and found[n] != now[n]):
        raise SystemExit(f"{args.runs} holds runs made with {name}={found[name]!r}, now it is {now[name]!r}; give another --runs")
    args.runs.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(now, indent=1), encoding="utf-8")


def _run(args: argparse.Namespace) -> bool:
    """Run what is missing; whether the hours were over before all was there."""
    started = time.perf_counter()

    def in_time() -> None:
        if time.perf_counter() - started > 3600 * args.hours:
            raise OutOfTime

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "cell":
            told = f"{event['score']} {event['reason']} ({event['seconds']:.0f} s)"
            print(f"[{event['done']}/{event['total']}] {event['recipe']}, seed {event['seed']}: {told}", flush=True)
            in_time()

    try:
        for folder, task, recipes, model, seeds in studies(args):
            in_time()
            print(f"{folder.name}, {seeds} seeds: {', '.join(r.name for r in recipes)}", flush=True)
            compare(recipes, task, model, sizes=(args.rows,), seeds=seeds, output_dir=folder, listener=watch)
    except OutOfTime:
        print(f"{args.hours:g} hours are over; the same command goes on from here", flush=True)
        return True
    return False


def _names(words: str) -> list[str]:
    return [word for word in words.split(",") if word]


def studies(args: argparse.Namespace) -> Iterator[tuple[Path, Task, list[Recipe], str, int]]:
    """Folder, task, recipes, model and seeds of every study: a few seeds of all, the claims of the stability paper first; then more."""
    tasks = {name: _task(args, name) for name in _names(args.tasks)}
    one = _one_model(args)
    for seeds in range(min(FEW, args.seeds), args.seeds + 1):
        for name, task in tasks.items():
            first = [_recipe(args, m) for m in (PLAIN, *FIRST, *(("surt",) if one else ()))]
            yield args.runs / f"{name}-{args.rows}", task, first, args.model, seeds
            if not one:
                yield args.runs / f"{name}-{args.rows}-mlm", task, [_recipe(args, m) for m in (PLAIN, "surt")], str(args.mlm), seeds
        for name in (n for n in _names(args.more) if n in tasks):
            second = [_recipe(args, m) for m in (PLAIN, *SECOND)]
            yield args.runs / f"{name}-{args.rows}", tasks[name], second, args.model, seeds


def _one_model(args: argparse.Namespace) -> bool:
    """Whether SURT starts from the same weights as everything else."""
    return Path(args.model).exists() and Path(args.model).resolve() == args.mlm.resolve()


def _task(args: argparse.Namespace, name: str) -> Task:
    folder = args.data / name
    task = Task.from_file(folder / "train.jsonl", dev=folder / "dev.jsonl", test=folder / "test.jsonl", seed=0)
    assert task.dev is not None and task.test is not None
    return replace(task, dev=_cut(task.dev, args.dev_rows), test=_cut(task.test, args.test_rows))


def _cut(split: Split, rows: int) -> Split:
    """So many rows, always the same ones, in their order."""
    if len(split) <= rows:
        return split
    chosen = sorted(np.random.default_rng(0).choice(len(split), rows, replace=False).tolist())
    return replace(split, examples=tuple(split.examples[i] for i in chosen))


def _recipe(args: argparse.Namespace, name: str) -> Recipe:
    recipe = Recipe.load(name)
    settings: dict[str, Any] = {}
    for i in range(len(recipe.stages)):
        if args.steps:
            settings |= {f"stages.{i}.max_steps": args.steps}
        elif name == "surt" and i == 0:
            settings |= {"stages.0.max_steps": args.surt_steps, "stages.0.min_steps": 0}
    recipe = recipe.override(settings | parse_settings(args.settings))
    recipe.check()
    return recipe


def results(args: argparse.Namespace) -> Iterator[Result]:
    """All comparisons of which two seeds are finished, task by task."""
    for name in _names(args.tasks):
        for folder in (args.runs / f"{name}-{args.rows}", args.runs / f"{name}-{args.rows}-mlm"):
            if not (folder / "study.sqlite").exists():
                continue
            study = Study.open(folder)
            for size in study.conclude().sizes:
                yield from _against_plain(study, size, name)


def _against_plain(study: Study, size: SizeResult, task: str) -> Iterator[Result]:
    cells, sign = {cell.recipe: cell for cell in size.cells}, 1.0 if study.info.higher_is_better else -1.0
    methods = [m for m in (*FIRST, "surt", *SECOND) if m in cells and PLAIN in cells]
    plain = _runs(study, PLAIN)
    for method in methods:
        other = _runs(study, method)
        pair = paired(plain, other, len(methods))
        if pair is None:
            continue
        low, high = sorted((sign * pair.low, sign * pair.high)) if math.isfinite(pair.low) else (math.nan, math.nan)
        both = sorted(plain.keys() & other.keys())
        ratio = morgan_pitman([plain[s].score for s in both], [other[s].score for s in both])
        p = min(1.0, len(methods) * pair.p)
        found = (sign * pair.difference, low, high, pair.p, p)
        yield Result(task, method, study.info.metric, cells[PLAIN], cells[method], len(both), *found, *ratio)


def _runs(study: Study, recipe: str) -> Mapping[int, Run]:
    """The finished runs of a recipe, by seed."""
    done = [r for r in study.records() if r.recipe == recipe and r.status == "done"]
    scores = {r.seed: Run(r.test.get(study.info.metric, math.nan), tuple(r.items)) for r in done}
    return {seed: run for seed, run in scores.items() if math.isfinite(run.score)}


if __name__ == "__main__":
    main()
