"""The report of claims-stability.py: what each method did to the mean and to the spread, task by task, and in words."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tempering.study.decide import Cell

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
