"""The arms of intermediate.py: what each trains on before its last stage, and how many rows of it."""

from __future__ import annotations

import argparse

SOURCE = "snli_10k"
FOUR = ("rte", "mrpc", "stsb", SOURCE)
MANY = tuple(
    "sst5 mr cr mpqa trec6 sms_spam ag_news_7k cola tweet_irony tweet_emotion clinc150 rte mrpc snli_10k stsb chemprot acl_arc imdb_2k"
    " hyperpartisan".split()
)
ALONE = "multi-task-alone"
ARMS = ("none", "stilts", ALONE, "multi-task", "muppet")
RATES = {"learning_rate": 1e-4, "head_learning_rate": 1e-3}  # muppet's own 1e-5 moves 19 fresh heads nowhere in a few hundred steps
LEAST_ROWS = 150  # that the arm muppet takes of each: clinc150 has as many classes


def plan(args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """(task, arm, seed), seed by seed; the source of intermediate training is not trained on twice."""
    return [
        (task, arm, seed)
        for seed in range(args.seeds)
        for arm in args.arms
        for task in args.tasks
        if not (arm == "stilts" and task == SOURCE) and not (arm == ALONE and task not in FOUR)
    ]


def key(task: str, arm: str, seed: int) -> str:
    """The name of a cell."""
    return f"{task}/{arm}/{seed}"


def sources(arm: str) -> tuple[str, ...]:
    """The data sets of an arm's first stage."""
    return {"none": (), "stilts": (SOURCE,), "multi-task": FOUR, "muppet": MANY}[arm]


def targets(args: argparse.Namespace) -> list[str]:
    """The data sets that count as targets, whichever of the four are asked for: bodies serve later commands as well."""
    return sorted({*FOUR, *args.tasks})


def rows_for(name: str, arm: str, args: argparse.Namespace) -> int | None:
    """How many rows of ``name`` the first stage of ``arm`` may see: no target more than its last stage does."""
    others = {"stilts": args.source_rows, "muppet": args.many_rows}
    rows: int | None = args.rows if arm != "stilts" and name in targets(args) else others.get(arm)
    return rows
