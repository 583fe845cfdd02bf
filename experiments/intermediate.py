"""Does training on other labelled data first help? Intermediate training, several tasks at once, and many tasks, against none.

    python experiments/intermediate.py [--seeds 3] [--rows N] [--source-rows N] [--first-steps N] [--hours H]
        [--arms none,stilts,multi-task-alone,multi-task] [--output runs/intermediate] [key=value for the last stage of every arm ...]
    python experiments/intermediate.py --arms none,muppet --rows 1000 --source-rows 1000 --test-rows 1000 --hours 3
        --output runs/intermediate-many --table experiments/intermediate-many.md bf16=true                     # 19 data sets at once

Arms: ``none`` is fine-tuning on a single task (recipe full); ``multi-task-alone`` one model trained on rte, mrpc, stsb and snli_10k at
once, as it comes out. The others end in the stage of ``none``, with the same rows and seeds, after another one: ``stilts`` trains on
snli_10k first (Phang et al. 2018; for rte, mrpc, stsb); ``multi-task`` on the four at once; ``muppet`` on all of MANY at once, with R3F
and losses over log n (Aghajanyan et al. 2021: fewer than about 15 data sets are known to hurt). A first stage runs once a seed, and goes
on from its last checkpoint where it was killed; the bodies it leaves in OUTPUT/bodies serve every target. The test split is read once a
model; differences to none are paired by seed. Rows of a first stage that hold a development or test text of another data set are left
out: mrpc and stsb share hundreds of pairs, snli_10k and stsb captions, mr and sst5 sentences. --rows cuts every target's training rows,
by seed, also where it is one of several tasks; --source-rows those of all other data sets. bf16=true holds for first stages, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cells, carry_out, cut, difference, everywhere, load, markdown, outcome, paired, spread, verdict
from options import MODEL, check, names, of_cells, with_settings

from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.corpora.worker import text_hash
from tempering.exporting import save_body
from tempering.fitting import evaluate, fit
from tempering.framings.head import Head
from tempering.recipe import Recipe, parse_settings
from tempering.stages.setup import Surroundings, leave, positive_class
from tempering.tasks import Task
from tempering.tasks.metrics import default_metric
from tempering.train.several import SeveralEvaluator

SOURCE = "snli_10k"
FOUR = ("rte", "mrpc", "stsb", SOURCE)
MANY = tuple(
    "sst5 mr cr mpqa trec6 sms_spam ag_news_7k cola tweet_irony tweet_emotion clinc150 rte mrpc snli_10k stsb chemprot acl_arc imdb_2k"
    " hyperpartisan".split()
)
ALONE = "multi-task-alone"
ARMS = ("none", "stilts", ALONE, "multi-task", "muppet")
SCORES = "alone.json"  # beside a body: what the first stage's own heads score
LEAST = 16  # data sets of MANY, of which the arm muppet ...
LEAST_ROWS = 150  # ... takes so many rows at least: clinc150 has as many classes
DEV_ROWS = 500  # rows of other data sets that a first stage looks at; more would cost time and decide nothing


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
    rows: int | None = args.rows if arm != "stilts" and name in targets(args) else args.source_rows
    return rows


@cache
def judged(data: Path) -> dict[str, frozenset[int]]:
    """Hashes of the development and test texts of every data set there is."""
    tasks = {name: load(data, name) for name in MANY if (data / name).exists()}
    return {n: frozenset(h for split in (t.dev, t.test) for e in split or () for h in hashes(e)) for n, t in tasks.items()}


def hashes(example: Example) -> set[int]:
    """One a text, whatever its case."""
    return {text_hash(text.lower()) for text in example.texts}


def as_folder(name: str, rows: int | None, seed: int, args: argparse.Namespace) -> Path:
    """The data set as a folder with ``rows`` training rows, the very ones that `cut` gives, without its test split. Rows with a text that
    another data set is judged by are left out.
    """
    folder: Path = args.output / "data" / f"{name}-{rows or 'all'}-{seed}"
    if not (folder / "dev.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        others = frozenset[int]().union(*(found for other, found in judged(args.data).items() if other != name))
        chosen = [e for e in cut(load(args.data, name), rows, seed).train if not hashes(e) & others]
        lines = (args.data / name / "train.jsonl").read_text(encoding="utf-8").split("\n")
        (folder / "train.jsonl").write_text("".join(f"{lines[e.row - 1]}\n" for e in chosen), encoding="utf-8")
        dev = [line for line in (args.data / name / "dev.jsonl").read_text(encoding="utf-8").split("\n") if line]
        kept = sorted(np.random.default_rng(0).permutation(len(dev))[:DEV_ROWS])
        (folder / "dev.jsonl").write_text("".join(f"{dev[i]}\n" for i in kept), encoding="utf-8")
    return folder


def first_stage(arm: str, folders: Sequence[str], steps: int | None, more: Sequence[str] = ()) -> Any:
    """The first stage of the recipe of that name on the data in ``folders``; of the settings ``more`` those that hold everywhere."""
    recipe = Recipe.load(arm)
    settings: dict[str, Any] = {"stages.0.data": folders[0]} if arm == "stilts" else {"stages.0.tasks": list(folders)}
    if arm == "muppet":
        settings["stages.0.gradient_accumulation_steps"] = len(folders)  # a step holds all tasks, on average
    if steps:
        settings["stages.0.max_steps"] = steps
    return recipe.override(settings | everywhere(more, "stages.0.")).stages[0]


def body(arm: str, seed: int, args: argparse.Namespace, cells: Cells) -> str:
    """The folder of the body that the first stage of ``arm`` leaves; the pretrained model where there is none."""
    if arm == "none":
        return str(args.model)
    folder: Path = args.output / "bodies" / f"{arm}-{seed}"
    if not folder.exists():
        cells.in_time()
        found = [str(as_folder(name, rows_for(name, arm, args), seed, args)) for name in sources(arm)]
        stage, seeds = first_stage(arm, found, args.first_steps, args.settings), Seeds.of(seed)
        backbone = Backbone.load(args.model, seeds.init)
        work, part = (folder.with_name(f"{folder.name}.{kind}") for kind in ("run", "part"))
        learner = stage.run(backbone, Task.from_file(found[0]), seeds, around=Surroundings(work, resume=True))
        scores = alone(learner, found, args) if arm == "multi-task" else {}
        leave(stage, backbone)
        shutil.rmtree(part, ignore_errors=True)
        save_body(backbone, part)
        (part / SCORES).write_text(json.dumps(scores), encoding="utf-8")
        part.rename(folder)
        shutil.rmtree(work, ignore_errors=True)
    return str(folder)


def alone(learner: Any, folders: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """What the heads of a first stage on the four tasks score by themselves."""
    scores = {}
    for folder, name in zip(folders, FOUR, strict=True):
        task, part = load(args.data, name, args.test_rows), Path(folder).name
        view = SeveralEvaluator({}, {part: {"framing": Head(), "positive": positive_class(task)}}).view(learner, part)
        found, main = evaluate(view, task), default_metric(task.kind, task.labels)
        scores[name] = {"score": found["test"][main], "dev": found["dev"][main], "metrics": found, "main_metric": main}
    return scores


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Every cell that is not there."""
    last = Recipe.load("full").override(parse_settings(args.settings))
    for task, arm, seed in plan(args):
        if arm == ALONE and key(task, arm, seed) not in cells:
            found = json.loads(Path(body("multi-task", seed, args, cells), SCORES).read_text(encoding="utf-8"))
            cells.get(key(task, arm, seed), lambda f=found, t=task: f[t])
        elif key(task, arm, seed) not in cells:
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
            if (task, arm, 0) in plan(args):
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
    made = of_cells(__doc__, Path(__file__), model=MODEL, seeds=3, tasks=FOUR, table="intermediate.md")
    made.add_argument("--arms", type=names, default=list(ARMS[:4]))
    made.add_argument("--rows", type=int, default=None, help="training rows of each target; default: all")
    made.add_argument("--source-rows", type=int, default=None, help=f"of each other data set (muppet: {LEAST_ROWS} at least); default: all")
    made.add_argument("--first-steps", type=int, default=None, help="steps of the first stage; default: the recipe's epochs")
    with_settings(made, "the last stage of every arm")
    args = made.parse_args(words)
    check(made, "--arms", args.arms, ARMS)
    if "muppet" in args.arms and args.source_rows is not None and args.source_rows < LEAST_ROWS:
        made.error(f"--source-rows {args.source_rows}: muppet needs {LEAST_ROWS} at least, one for each class of clinc150")
    return args


def main() -> None:
    """Run what is missing; write the table."""
    args = parsed()
    shared = ("model", "rows", "source_rows", "first_steps", "test_rows", "settings")
    carry_out(args, shared, lambda cells: run(cells, args), table, targets=targets(args))  # bodies hang on them


if __name__ == "__main__":
    main()
