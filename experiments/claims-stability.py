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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tempering.recipe import Recipe
from tempering.study.decide import Cell, SizeResult
from tempering.studying import Study, compare
from tempering.tasks import Task
from tempering.tasks.task import Split

TASKS = ("rte", "mrpc", "cola", "stsb", "snli_10k", "sst2", "trec6", "chemprot", "tweet_emotion", "tweet_irony", "sms_spam")
MORE = ("rte", "mrpc", "sst2")
PLAIN, FIRST, SECOND = "full", ("multi-head", "mmr"), ("mixout", "r3f", "lnsr", "re-init", "self-distillation", "long")
NAMES = {
    "multi-head": "MHLoss, ten heads (Fu et al. 2023)",
    "mmr": "MMR, margin's term (Fu et al. 2023)",
    "surt": "SURT, re-training on the task's texts (Fu et al. 2023)",
    "mixout": "mixout (Lee et al. 2020)",
    "r3f": "R3F (Aghajanyan et al. 2020)",
    "lnsr": "LNSR, noise stability (Hua et al. 2021)",
    "re-init": "re-initialized top layers (Zhang et al. 2021)",
    "self-distillation": "self-distillation SDA (Xu et al. 2020)",
    "long": "longer training, small rate (Mosbach et al. 2021)",
}


class OutOfTime(Exception):
    """The hours are over; what is finished is kept."""


@dataclass(frozen=True)
class Result:
    """One method against plain fine-tuning on one task: cells of the study, the paired difference, and seeds that both finished."""

    task: str
    method: str
    metric: str
    plain: Cell
    cell: Cell
    better: float  # in the direction of the metric
    low: float
    high: float
    p: float
    ratio: float  # of standard deviations, method / plain
    ratio_p: float


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


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % t interval over tasks; nan where one task tells of no other."""
    found = [v for v in values if math.isfinite(v)]
    if len(found) < 2:
        return (found[0] if found else math.nan), math.nan, math.nan
    half = float(stats.t.isf(0.025, len(found) - 1)) * float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return float(np.mean(found)), float(np.mean(found)) - half, float(np.mean(found)) + half


def report(results: Sequence[Result], args: argparse.Namespace, ended: bool) -> str:
    """The whole of claims-stability.md."""
    plural = f"{args.rows} training rows, {args.seeds} seeds, at most {args.test_rows} test rows a task"
    trial = f"; {args.steps} steps only: a trial" if args.steps else ""
    parts = [
        "# Claims of steadier fine-tuning, on real tasks",
        (
            f"Written by `python experiments/claims-stability.py`; do not edit. {plural}; recipes as shipped, nothing searched{trial}. "
            f"Backbone {args.model}; for SURT, and the plain runs beside it, a MiniLM with a trained masked-LM head and {args.surt_steps} "
            "steps of re-training at most. Each seed draws its own rows, initialization and order, the same for every method."
        ),
    ]
    if ended:
        parts.append("The hours were over before all runs were done: what is missing is not in the tables, and the same command goes on.")
    if not results:
        return "\n\n".join([*parts, "No comparison is finished."]) + "\n"
    parts += ["## Does the published direction hold?", _summary(results), NOTES]
    for method in NAMES:
        mine = [r for r in results if r.method == method]
        if mine:
            parts += [f"## {NAMES[method]}", _table(mine)]
    return "\n\n".join(parts) + "\n"


NOTES = (
    "Gain: the method's mean minus plain, in points (turned where lower is better), mean over tasks with its 95 % t interval over tasks. "
    "Ratio: the standard deviation over seeds against plain's, geometric mean over tasks with the same interval; below 1 is steadier. "
    "Yes or no only where the whole interval lies on one side; else it is not shown, which is not the same as no. The published "
    "direction is: a higher mean, a smaller standard deviation. With few seeds a single task's ratio says next to nothing. Below, gain and "
    "adjusted p of a task are those of its study, corrected for all pairs of its recipes; the p of a ratio is Morgan and Pitman's, alone."
)


def _summary(results: Sequence[Result]) -> str:
    rows = [
        "| method | tasks | gain in points (95 %) | better mean? | ratio of sds (95 %) | steadier? |",
        "| --- | ---: | ---: | --- | ---: | --- |",
    ]
    for method, name in NAMES.items():
        mine = [r for r in results if r.method == method]
        if mine:
            gain = interval([100 * r.better for r in mine])
            logs = interval([math.log(r.ratio) for r in mine if math.isfinite(r.ratio) and r.ratio > 0])
            ratio = tuple(math.exp(x) if math.isfinite(x) else math.nan for x in logs)
            verdicts = _verdict(gain[1] > 0, gain[2] < 0), _verdict(logs[2] < 0, logs[1] > 0)
            rows.append(f"| {name} | {len(mine)} | {_span(*gain, 1)} | {verdicts[0]} | {_span(*ratio, 2)} | {verdicts[1]} |")
    return "\n".join(rows)


def _verdict(yes: bool, no: bool) -> str:
    return "**yes**" if yes else "**no**" if no else "not shown"


def _span(value: float, low: float, high: float, digits: int) -> str:
    if not math.isfinite(value):
        return "n/a"
    value, low, high = (round(x, digits) + 0.0 for x in (value, low, high))  # no negative zero
    return f"{value:.{digits}f}" + (f" ({low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) and math.isfinite(high) else "")


def _table(results: Sequence[Result]) -> str:
    heads = (
        "task",
        "metric",
        "plain: mean, sd (95 %)",
        "method: mean, sd (95 %)",
        "gain (95 %)",
        "adjusted p",
        "ratio of sds (p)",
        "churn",
    )
    head = f"| {' | '.join(heads)} |"
    rows = [head, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for r in results:
        churn = f"{_churn(r.plain)} to {_churn(r.cell)}"
        ratio = _span(r.ratio, math.nan, math.nan, 2) + (f" ({r.ratio_p:.2f})" if math.isfinite(r.ratio_p) else "")
        gain = _span(100 * r.better, 100 * r.low, 100 * r.high, 1)
        rows.append(f"| {r.task} | {r.metric} | {_cell(r.plain)} | {_cell(r.cell)} | {gain} | {r.p:.3f} | {ratio} | {churn} |")
    return "\n".join(rows)


def _cell(cell: Cell) -> str:
    """Mean and standard deviation in points, with collapsed runs where there are any."""
    spread = cell.interval
    fell = f"; {cell.collapsed} of {spread.n} collapsed" if cell.collapsed else ""
    return f"{100 * spread.mean:.1f}, {_span(100 * spread.sd, 100 * spread.sd_low, 100 * spread.sd_high, 1)}{fell}"


def _churn(cell: Cell) -> str:
    value = cell.churn.value
    return "n/a" if not math.isfinite(value) else f"{value:.2f} sd" if cell.churn.in_sd else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
