"""What intermediate.md says of finished runs: scores, each arm against none, and what the first stages reached."""

from __future__ import annotations

import argparse
from pathlib import Path

from cells import Cells, gap, markdown, paired, spread
from intermediate_arms import ALONE, RATES, key, plan, sources
from verdicts import HOW, together, verdicts


def against_none(cells: Cells, args: argparse.Namespace) -> tuple[list[list[str]], list[list[str]]]:
    """A row for each arm, judged by the mean over its targets, and one for each arm and target."""
    scores = {arm: {t: cells.scores(key(t, arm, s) for s in range(args.seeds)) for t in args.tasks} for arm in args.arms}
    tried = {arm: [t for t in args.tasks if (t, arm, 0) in plan(args)] for arm in args.arms if arm != "none" and "none" in args.arms}
    said = verdicts({arm: together(scores[arm], scores["none"], [tasks] if tasks else []) for arm, tasks in tried.items()})
    each = [[arm, t, gap(paired(scores[arm][t], scores["none"][t]))] for arm, tasks in tried.items() for t in tasks]
    return [[arm, ", ".join(tried[arm]), *words] for arm, words in said.items()], each


def first_stages(cells: Cells, args: argparse.Namespace) -> list[list[str]]:
    """What each first stage reached on the development rows of its own data: one that learned nothing cannot help."""
    rows = []
    for arm in dict.fromkeys("multi-task" if arm == ALONE else arm for arm in args.arms if arm != "none"):
        found = [c for seed in range(args.seeds) if (c := cells.done.get(f"first stage/{arm}/{seed}"))]
        steps = ", ".join(sorted({str(c["steps"]) for c in found}))
        rows.append([arm, str(len(sources(arm))), steps, *(spread([c[name] for c in found]) for name in ("early", "dev"))])
    return rows


def table(cells: Cells, args: argparse.Namespace) -> str:
    """Markdown: scores by arm, each arm against none, and what first stages reached."""
    rows = []
    for task in args.tasks:
        metric = next((c["main_metric"] for k, c in cells.done.items() if k.startswith(f"{task}/")), "")
        rows.append([task, metric, *(spread(cells.scores(key(task, arm, s) for s in range(args.seeds))) for arm in args.arms)])
    claims, each = against_none(cells, args)
    return "\n\n".join(
        [
            f"# Training on other labelled data first, {Path(args.model).name}",
            about(args),
            markdown(["task", "metric", *args.arms], rows),
            f"Difference to none; the last column says whether it holds that the arm is better. {HOW}",
            markdown(["arm", "tasks", "difference of the means (95 %)", "p", "better than none"], claims),
            "On each task, without a verdict: the difference, paired by seed, with its 95 % interval alone.",
            markdown(["task", "arm", "difference"], [[task, arm, shown] for arm, task, shown in each]),
            "First stages on the development rows of their own data (of several data sets the mean of their main metrics).",
            markdown(["first stage", "data sets", "steps", "after its first epoch", "at its best"], first_stages(cells, args)) + "\n",
        ]
    )


def about(args: argparse.Namespace) -> str:
    """How the figures came about."""
    return (
        f"Written by `python experiments/intermediate.py`. {args.rows or 'All'} training rows of each target, {args.source_rows or 'all'}"
        f" of the source of stilts, {args.many_rows or 'all'} of each other data set of muppet, {args.seeds} seeds. Last stages take"
        f" {args.min_steps} steps at least at a rate of {args.learning_rate:g}, first ones learn at {RATES['learning_rate']:g} (heads"
        f" {RATES['head_learning_rate']:g}). Test split: mean ± standard deviation (95 % interval of the mean)."
    )
