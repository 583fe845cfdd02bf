"""Does training on other labelled data first help? Intermediate training, several tasks at once, and many tasks, against none.

    python experiments/intermediate.py [--seeds 3] [--rows N] [--source-rows N] [--first-steps N] [--hours H]
        [--arms none,stilts,multi-task] [--output runs/intermediate] [key=value for the last stage of every arm ...]
    python experiments/intermediate.py --arms none,stilts,multi-task,muppet --source-rows 2000     # with 19 data sets at once

Arms, all of which end in the same last stage (recipe full) with the same rows and seeds: ``none`` is that stage alone; ``stilts`` trains on
snli_10k first (Phang et al. 2018; for rte, mrpc, stsb); ``multi-task`` on rte, mrpc, stsb and snli_10k at once; ``muppet`` on all of MANY
at once, with R3F and losses over log n (Aghajanyan et al. 2021: fewer than about 15 data sets are known to hurt). A first stage runs once
a seed; the bodies it leaves in OUTPUT/bodies serve every target. Test split, read once a fit; differences to none are paired by seed.
--rows cuts every target's training rows, by seed, also where it is one of several tasks; --source-rows those of all other data sets.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import MODEL, Cells, OutOfTimeError, cut, difference, load, markdown, names, outcome, paired, parser, publish, spread, verdict

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.exporting import save_body
from tempering.fitting import fit
from tempering.recipe import Recipe, parse_settings
from tempering.stages.setup import Surroundings, leave
from tempering.tasks import Task

SOURCE = "snli_10k"
FOUR = ("rte", "mrpc", "stsb", SOURCE)
MANY = tuple(
    "sst5 mr cr mpqa trec6 sms_spam ag_news_7k cola tweet_irony tweet_emotion clinc150 rte mrpc snli_10k stsb chemprot acl_arc imdb_2k"
    " hyperpartisan".split()
)
ARMS = ("none", "stilts", "multi-task", "muppet")
LEAST = 16  # data sets of muppet
DEV_ROWS = 500  # rows of other data sets that a first stage looks at; more would cost time and decide nothing


def plan(args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """(task, arm, seed), seed by seed; the source of intermediate training is not trained on twice."""
    return [
        (task, arm, seed)
        for seed in range(args.seeds)
        for arm in args.arms
        for task in args.tasks
        if not (arm == "stilts" and task == SOURCE)
    ]


def key(task: str, arm: str, seed: int) -> str:
    """The name of a cell."""
    return f"{task}/{arm}/{seed}"


def sources(arm: str) -> tuple[str, ...]:
    """The data sets of an arm's first stage."""
    return {"none": (), "stilts": (SOURCE,), "multi-task": FOUR, "muppet": MANY}[arm]


def rows_for(name: str, arm: str, args: argparse.Namespace) -> int | None:
    """How many rows of ``name`` the first stage of ``arm`` may see: no target more than its last stage does."""
    rows: int | None = args.rows if arm != "stilts" and name in args.tasks else args.source_rows
    return rows


def as_folder(name: str, rows: int | None, seed: int, args: argparse.Namespace) -> Path:
    """The data set as a folder with ``rows`` training rows, the very ones that `cut` gives, without its test split."""
    folder: Path = args.output / "data" / f"{name}-{rows or 'all'}-{seed}"
    if not (folder / "dev.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        chosen = cut(load(args.data, name), rows, seed).train
        lines = (args.data / name / "train.jsonl").read_text(encoding="utf-8").split("\n")
        (folder / "train.jsonl").write_text("".join(f"{lines[e.row - 1]}\n" for e in chosen), encoding="utf-8")
        dev = [line for line in (args.data / name / "dev.jsonl").read_text(encoding="utf-8").split("\n") if line]
        kept = sorted(np.random.default_rng(0).permutation(len(dev))[:DEV_ROWS])
        (folder / "dev.jsonl").write_text("".join(f"{dev[i]}\n" for i in kept), encoding="utf-8")
    return folder


def first_stage(arm: str, folders: Sequence[str], steps: int | None) -> Any:
    """The first stage of the recipe of that name on the data in ``folders``."""
    recipe = Recipe.load(arm)
    settings: dict[str, Any] = {"stages.0.data": folders[0]} if arm == "stilts" else {"stages.0.tasks": list(folders)}
    if arm == "muppet":
        settings["stages.0.gradient_accumulation_steps"] = len(folders)  # a step holds all tasks, on average
    if steps:
        settings["stages.0.max_steps"] = steps
    return recipe.override(settings).stages[0]


def body(arm: str, seed: int, args: argparse.Namespace, cells: Cells) -> str:
    """The folder of the body that the first stage of ``arm`` leaves; the pretrained model where there is none."""
    if arm == "none":
        return str(args.model)
    folder: Path = args.output / "bodies" / f"{arm}-{seed}"
    if not folder.exists():
        cells.in_time()
        found = [str(as_folder(name, rows_for(name, arm, args), seed, args)) for name in sources(arm)]
        stage, seeds = first_stage(arm, found, args.first_steps), Seeds.of(seed)
        backbone = Backbone.load(args.model, seeds.init)
        stage.run(backbone, Task.from_file(found[0]), seeds, around=Surroundings())
        leave(stage, backbone)
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        save_body(backbone, part)
        part.rename(folder)
    return str(folder)


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Every cell that is not there."""
    last = Recipe.load("full").override(parse_settings(args.settings))
    for task, arm, seed in plan(args):
        if key(task, arm, seed) not in cells:
            start = body(arm, seed, args, cells)
            rows = cut(load(args.data, task, args.test_rows), args.rows, seed)
            cells.get(key(task, arm, seed), lambda m=start, t=rows, s=seed: outcome(fit(last, t, m, seed=s)))


def table(cells: Cells, args: argparse.Namespace) -> str:
    """Markdown: scores by arm, and each arm against none."""
    others = [arm for arm in args.arms if arm != "none"]
    tests = max(1, len({(t, a) for t, a, _ in plan(args) if a != "none"}))
    rows, against = [], []
    for task in args.tasks:
        scores = {arm: cells.scores(key(task, arm, s) for s in range(args.seeds)) for arm in args.arms}
        metric = next((c["main_metric"] for k, c in cells.done.items() if k.startswith(f"{task}/")), "")
        rows.append([task, metric, *(spread(scores[arm]) for arm in args.arms)])
        for arm in others if "none" in args.arms else []:
            if not (arm == "stilts" and task == SOURCE):
                pair = paired(scores[arm], scores["none"])
                against.append([task, arm, difference(pair, tests), verdict(pair, tests)])
    amount = f"{args.rows or 'all'} training rows of each target, {args.source_rows or 'all'} of each other data set, {args.seeds} seeds"
    about = f"Written by `python experiments/intermediate.py`. {amount}. Test split: mean ± standard deviation (95 % interval of the mean)."
    return "\n".join(
        [
            f"# Training on other labelled data first, {Path(args.model).name}",
            "",
            about,
            "",
            markdown(["task", "metric", *args.arms], rows),
            "",
            f"Difference to none, paired by seed; p values times {tests} tests. The last column says whether the arm helps.",
            "",
            markdown(["task", "arm", "difference", "help"], against),
            "",
        ]
    )


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__, Path(__file__), model=MODEL, seeds=3, tasks=FOUR, table="intermediate.md")
    made.add_argument("--arms", type=names, default=list(ARMS[:3]))
    made.add_argument("--rows", type=int, default=None, help="training rows of each target; default: all")
    made.add_argument("--source-rows", type=int, default=None, help="those of each other data set (muppet: 150 at least); default: all")
    made.add_argument("--first-steps", type=int, default=None, help="steps of the first stage; default: the recipe's epochs")
    made.add_argument("settings", nargs="*", help="key=value for the last stage of every arm")
    args = made.parse_args(words)
    if unknown := set(args.arms) - set(ARMS):
        made.error(f"--arms: there is no arm {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    return args


def main() -> None:
    """Run what is missing; write the table."""
    args = parsed()
    shared = ("model", "rows", "source_rows", "first_steps", "test_rows", "settings")
    cells = Cells.open(args.output, {name: getattr(args, name) for name in shared}, args.hours)
    try:
        run(cells, args)
    except OutOfTimeError:
        print(f"{args.hours} hours are spent; the same command goes on from here")
    publish(table(cells, args), args.table)


if __name__ == "__main__":
    main()
