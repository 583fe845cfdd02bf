"""The report of claims-stability.py: what each method did to the mean and to the spread, task by task, and in words."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from claims_statistics import Average, average, holm

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
    "no-bias-correction": "Adam without bias correction (Mosbach et al. 2021: worse, less steady)",
}


@dataclass(frozen=True)
class Result:
    """One method against plain fine-tuning on one task, in the direction of the metric, over the ``seeds`` that both finished.

    The interval and ``adjusted`` are corrected for all methods of the task; ``p`` and ``ratio_p`` are not.
    """

    task: str
    method: str
    metric: str
    plain: Cell
    cell: Cell
    seeds: int
    better: float
    low: float
    high: float
    p: float
    adjusted: float
    ratio: float  # of standard deviations, method / plain
    ratio_p: float


def report(results: Sequence[Result], args: argparse.Namespace, ended: bool) -> str:
    """The whole of claims-stability.md."""
    parts = ["# Claims of steadier fine-tuning, on real tasks", _how(results, args)]
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


def _how(results: Sequence[Result], args: argparse.Namespace) -> str:
    """What was run, and what it took."""
    trial = f"; {args.steps} steps only: a trial" if args.steps else ""
    given = f", but for {', '.join(args.settings)}" if args.settings else ""
    runs = {id(cell): cell for r in results for cell in (r.plain, r.cell)}  # plain runs are those of several methods
    hours = sum(cell.seconds * cell.interval.n for cell in runs.values()) / 3600
    took = f" {sum(cell.interval.n for cell in runs.values())} runs took {hours:.1f} hours." if runs else ""
    model, mlm = Path(args.model).name, Path(args.mlm).name
    if model == mlm:
        backbone = f"Backbone of all runs: {mlm}, a MiniLM with a trained masked-LM head; SURT re-trains it for"
    else:
        backbone = (
            f"Backbone {model}; for SURT, and the plain runs beside it, {mlm}, a MiniLM with a trained masked-LM head, re-trained for"
        )
    return (
        f"Written by `python experiments/claims-stability.py`; do not edit. {args.rows} training rows, up to {args.seeds} seeds, at most"
        f" {args.dev_rows} development and {args.test_rows} test rows a task; recipes as shipped{given}, nothing searched{trial}. "
        f"{backbone} {args.surt_steps} steps at most. Each seed draws its own rows, initialization and order, the same for every method."
        + took
    )


NOTES = (
    "Gain: the method's mean minus plain, in points (turned where lower is better), mean over tasks with its 95 % t interval over tasks. "
    "Ratio: the standard deviation over seeds against plain's, geometric mean over tasks with the same interval; below 1 is steadier. A "
    "task on which a side never varies has no such ratio, but counts among those on which the method varies less. The published "
    "direction is: a higher mean, a smaller standard deviation; for Adam without bias correction the other way round. Plain has bias "
    "correction, a warm-up and at least 100 steps; longer training has at least 300. **Yes** or **no**: shown for tasks such as these (t "
    "test over tasks, 5 % "
    "after Holm's correction for all methods). Yes or no *here*: shown on these tasks only, which may differ (the tasks' own tests, "
    "joined after Stouffer, corrected alike). Else it is not shown, which is not the same as no. "
    "With few seeds a single task's ratio says next to nothing. Below, interval and adjusted p of a gain are corrected for all methods of "
    "the task (a paired test over seeds and, where the metric is a mean over rows, test rows); the p of a ratio is Morgan and Pitman's "
    "test of paired variances, alone. It asks for scores that scatter normally: a run in a few that collapses is better seen in the counts."
)


def _summary(results: Sequence[Result]) -> str:
    rows = [
        "| method | tasks | gain in points (95 %) | better mean? | ratio of sds (95 %) | varies less on | steadier? |",
        "| --- | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    by_method = {m: found for m in NAMES if (found := [r for r in results if r.method == m])}
    gains = {m: average([100 * r.better for r in found], [(r.better, r.p) for r in found]) for m, found in by_method.items()}
    ratios = {m: average([_log(r) for r in found], [(_log(r), r.ratio_p) for r in found]) for m, found in by_method.items()}
    better, steadier = _verdicts(gains, 1), _verdicts(ratios, -1)
    for m, found in by_method.items():
        gain, ratio = gains[m], ratios[m]
        cells = [NAMES[m], str(len(found)), _span(gain.mean, gain.low, gain.high, 1), better[m]]
        cells += [_span(*(math.exp(x) for x in (ratio.mean, ratio.low, ratio.high)), 2), _fewer(found), steadier[m]]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _log(result: Result) -> float:
    """log of the ratio of standard deviations; nan where a side has none."""
    return math.log(result.ratio) if math.isfinite(result.ratio) and result.ratio > 0 else math.nan


def _fewer(results: Sequence[Result]) -> str:
    """On how many tasks the method's standard deviation is the smaller one, of those on which the two differ."""
    pairs = [(r.cell.interval.sd, r.plain.interval.sd) for r in results]
    return f"{sum(mine < plain for mine, plain in pairs)} of {sum(mine != plain for mine, plain in pairs)}"


def _verdicts(averages: Mapping[str, Average], sign: int) -> dict[str, str]:
    """In words, for each method, whether its mean lies on the side of ``sign``; all of them corrected together."""
    general = holm({m: a.p for m, a in averages.items()})
    here = holm({m: a.here for m, a in averages.items()})
    found = {}
    for m, a in averages.items():
        side = "yes" if sign * a.mean > 0 else "no"
        found[m] = f"**{side}**" if general[m] < 0.05 else f"{side}, here" if here[m] < 0.05 else "not shown"
    return found


def _span(value: float, low: float, high: float, digits: int) -> str:
    if not math.isfinite(value):
        return "n/a"
    value, low, high = (round(x, digits) + 0.0 for x in (value, low, high))  # no negative zero
    return f"{value:.{digits}f}" + (f" ({low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) and math.isfinite(high) else "")


def _table(results: Sequence[Result]) -> str:
    heads = (
        "task",
        "metric",
        "seeds",
        "plain: mean, sd (95 %); range",
        "method: mean, sd (95 %); range",
        "gain (interval)",
        "adjusted p",
        "ratio of sds (p)",
        "churn",
    )
    head = f"| {' | '.join(heads)} |"
    rows = [head, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for r in results:
        churn = f"{_churn(r.plain)} to {_churn(r.cell)}"
        ratio = _span(r.ratio, math.nan, math.nan, 2) + (f" ({r.ratio_p:.2f})" if math.isfinite(r.ratio_p) else "")
        gain = _span(100 * r.better, 100 * r.low, 100 * r.high, 1)
        cells = (r.task, r.metric, str(r.seeds), _cell(r.plain), _cell(r.cell), gain, f"{r.adjusted:.3f}", ratio, churn)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(cell: Cell) -> str:
    """Mean and standard deviation in points, with the range, and collapsed and failed runs where there are any."""
    spread = cell.interval
    parts = [f"{100 * spread.mean:.1f}, {_span(100 * spread.sd, 100 * spread.sd_low, 100 * spread.sd_high, 1)}"]
    parts.append(f"{100 * min(cell.scores):.1f} to {100 * max(cell.scores):.1f}")
    parts += [f"{cell.collapsed} of {spread.n} collapsed"] if cell.collapsed else []
    parts += [f"{cell.failed} failed"] if cell.failed else []
    return "; ".join(parts)


def _churn(cell: Cell) -> str:
    value = cell.churn.value
    return "n/a" if not math.isfinite(value) else f"{value:.2f} sd" if cell.churn.in_sd else f"{100 * value:.1f} %"
