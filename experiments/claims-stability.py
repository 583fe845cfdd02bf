"""Do published ways to steadier fine-tuning hold on real tasks? Studies of small cuts, paired by seed; "no" is as welcome as "yes".

    python experiments/claims-stability.py [--data ../shared/data] [--mlm ../shared/models/minilm-mlm] [--rows 128] [--seeds 4] [--hours 3]
        [--tasks rte,mrpc,...] [--report-only]

On every task: plain fine-tuning, several heads (MHLoss) and the margin's term (MMR) on MiniLM; plain fine-tuning and re-training on the
task's own texts (SURT) on a MiniLM with a trained masked-LM head. On the tasks of --more also mixout, R3F, LNSR, re-init, self-distillation
with the mean of the last steps (SDA), and longer training with bias correction. Nothing is searched: every recipe runs as shipped, but
for SURT's steps (--surt-steps), which its recipe sets for larger machines.

Finished runs are kept in --runs and never run again; when --hours are over, the report is written of what there is, and the same command
goes on. It writes claims-stability.md beside this file.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from claims_table import Result, report
from scipy import stats

from tempering.recipe import Recipe
from tempering.study.decide import SizeResult
from tempering.studying import Study, compare
from tempering.tasks import Task
from tempering.tasks.task import Split

TASKS = ("rte", "mrpc", "cola", "stsb", "snli_10k", "sst2", "trec6", "chemprot", "tweet_emotion", "tweet_irony", "sms_spam")
MORE = ("rte", "mrpc", "sst2")
PLAIN, FIRST, SECOND = "full", ("multi-head", "mmr"), ("mixout", "r3f", "lnsr", "re-init", "self-distillation", "long")


class OutOfTime(Exception):
    """The hours are over; what is finished is kept."""


def main() -> None:
    """Run what is not done, then write what was found."""
    args = _arguments()
    started = time.perf_counter()
    ended = False

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "cell":
            print(
                f"[{event['done']}/{event['total']}] {event['recipe']}, seed {event['seed']}: {event['score']} {event['reason']}",
                flush=True,
            )
            if time.perf_counter() - started > 3600 * args.hours:
                raise OutOfTime

    try:
        for folder, task, recipes, model in () if args.report_only else _studies(args):
            print(f"{folder.name}: {', '.join(r.name for r in recipes)}", flush=True)
            compare(recipes, task, model, sizes=(args.rows,), seeds=args.seeds, output_dir=folder, listener=watch)
    except OutOfTime:
        ended = True
        print(f"{args.hours:g} hours are over; the same command goes on from here", flush=True)
    args.output.write_text(report(list(_results(args)), args, ended), encoding="utf-8")
    print(f"{args.output} is written")


def _arguments() -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=here / ".." / ".." / "shared" / "data")
    parser.add_argument("--mlm", type=Path, default=here / ".." / ".." / "shared" / "models" / "minilm-mlm")
    parser.add_argument("--model", default="minilm", help="the backbone of everything but SURT")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--more", default=",".join(MORE), help="tasks on which all methods run")
    parser.add_argument("--rows", type=int, default=128, help="training rows")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--dev-rows", type=int, default=200, help="a development split as small as this is cut to")
    parser.add_argument("--test-rows", type=int, default=400)
    parser.add_argument("--surt-steps", type=int, default=100, help="steps of SURT's re-training at most")
    parser.add_argument("--steps", type=int, default=0, help="steps of every stage, for a trial")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/claims-stability"))
    parser.add_argument("--output", type=Path, default=here / "claims-stability.md")
    parser.add_argument("--report-only", action="store_true")
    return parser.parse_args()


def _names(words: str) -> list[str]:
    return [word for word in words.split(",") if word]


def _studies(args: argparse.Namespace) -> Iterator[tuple[Path, Task, list[Recipe], str]]:
    """Folder, task, recipes and model of every study, the claims of the stability paper on all tasks first."""
    for name in _names(args.tasks):
        task = _task(args, name)
        first = [m for m in FIRST if m != "mmr" or task.kind != "regression"]  # values have no classes to move apart
        yield args.runs / f"{name}-{args.rows}", task, [_recipe(args, m) for m in (PLAIN, *first)], args.model
        yield args.runs / f"{name}-{args.rows}-mlm", task, [_recipe(args, m) for m in (PLAIN, "surt")], str(args.mlm)
    for name in (n for n in _names(args.more) if n in _names(args.tasks)):
        yield args.runs / f"{name}-{args.rows}", _task(args, name), [_recipe(args, m) for m in (PLAIN, *SECOND)], args.model


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
    return recipe.override(settings)


def _results(args: argparse.Namespace) -> Iterator[Result]:
    """All finished comparisons, task by task."""
    for name in _names(args.tasks):
        for folder in (args.runs / f"{name}-{args.rows}", args.runs / f"{name}-{args.rows}-mlm"):
            if not (folder / "study.sqlite").exists():
                continue
            study = Study.open(folder)
            for size in study.conclude().sizes:
                yield from _against_plain(study, size, name)


def _against_plain(study: Study, size: SizeResult, task: str) -> Iterator[Result]:
    cells, sign = {cell.recipe: cell for cell in size.cells}, 1.0 if study.info.higher_is_better else -1.0
    for method in (m for m in (*FIRST, "surt", *SECOND) if m in cells and PLAIN in cells):
        pair = next((p for p in size.pairs if {p.a, p.b} == {PLAIN, method}), None)
        both = _paired(study, method)
        if pair is None or len(both) < 2:
            continue
        turn = sign if pair.a == method else -sign
        low, high = sorted((turn * pair.low, turn * pair.high))
        ratio, p = morgan_pitman(*zip(*both, strict=True))
        better, metric = turn * pair.difference, study.info.metric
        yield Result(task, method, metric, cells[PLAIN], cells[method], better, low, high, pair.p_adjusted, ratio, p)


def _paired(study: Study, method: str) -> list[tuple[float, float]]:
    """Scores of plain and of ``method`` for every seed that both finished."""
    scores: dict[str, dict[int, float]] = {PLAIN: {}, method: {}}
    for record in study.records():
        if record.recipe in scores and record.status == "done" and math.isfinite(record.test.get(study.info.metric, math.nan)):
            scores[record.recipe][record.seed] = record.test[study.info.metric]
    return [(score, scores[method][seed]) for seed, score in sorted(scores[PLAIN].items()) if seed in scores[method]]


def morgan_pitman(plain: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """sd(other) / sd(plain) and p of equal variances of pairs: r of sums with differences is 0 (Morgan 1939, Pitman 1939)."""
    a, b = np.asarray(plain, dtype=float), np.asarray(other, dtype=float)
    first, second = float(a.std(ddof=1)), float(b.std(ddof=1))
    ratio = second / first if first > 0 else math.nan
    if len(a) < 3 or np.ptp(a + b) == 0 or np.ptp(a - b) == 0:
        return ratio, math.nan
    return ratio, float(stats.pearsonr(a + b, b - a).pvalue)


if __name__ == "__main__":
    main()
