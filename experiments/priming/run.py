"""Does priming on two languages help adapters on the third? WikiANN in English, German and French, each the target once.

    python experiments/priming/run.py [--model multilingual] [--sizes 100,500,all] [--seeds 5] [--recipes prime-none,prime,...]
        [--largest prime-none,prime] [--outer-steps 1000] [--tasks-per-step 4] [--outer-learning-rate 2e-4] [--hours H]
        [--output runs/priming] [--table results.md] [key=value for the adapters ...]

Every recipe's first stage runs once for each target and seed, with as many updates of the body at the same rate, and leaves the body as it
is after the last of them (nothing is chosen among several looks). Its head and adapters are draws of its own. Its last stage, the same
adapters in all of them, is then run on that body with each number of rows, the same rows and seeds for every recipe, in --min-steps steps
at least and without stopping early: an F1 of 0 in the first looks is no reason to. Only prime-kept-start hands it more than the body: the
start of adapters and head. Entity F1 on the test split, read once. Differences to no priming (prime-none) are paired by seed, with a t
test, over the mean of the languages and for each as the target; p values are multiplied by the number of tests in their table. Rows of a
source that hold a development or test sentence of the target are left out. --largest: the recipes that are run with the last of --sizes.
Finished runs are kept in --output and not run again, and a first stage that is killed goes on from its last checkpoint. bf16=true holds
for first stages, too. ``--model multilingual`` trains a small encoder on the training texts of the three languages first; minilm read
English only.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import multilingual
import numpy as np
from cells import Cells, carry_out, everywhere, last_stage, load, making
from options import basic, check, names, with_settings, with_store
from tables import LANGUAGES, PLAIN, recipes_of, report

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.corpora.worker import text_hash
from tempering.fitting import evaluate
from tempering.recipe import Recipe
from tempering.stages.kept import Kept
from tempering.stages.setup import Surroundings, leave
from tempering.stages.train import Train
from tempering.streams import seeds_before
from tempering.tasks import Task, nested_subsets
from tempering.tasks.metrics import default_metric
from tempering.train.progress import Listener, silent

RECIPES = (PLAIN, "prime", "prime-multitask", "prime-finetune", "prime-maml", "prime-one-step", "prime-zero-steps", "prime-kept-heads",
           "prime-fresh-heads", "prime-kept-start")  # fmt: skip


def with_sources(recipe: Recipe, sources: Sequence[str], args: argparse.Namespace) -> Recipe:
    """The recipe with its first stage on ``sources``: so many updates of the body, each of so many tasks, at the rate that all have."""
    prime = hasattr(recipe.stages[0], "sources")
    settings: dict[str, Any] = {"sources" if prime else "tasks": list(sources), "learning_rate": args.outer_learning_rate}
    settings["eval_strategy"] = "no"  # all bodies end after as many updates: the best of several looks would favor arms that look more
    if args.outer_steps:
        settings["outer_steps" if prime else "max_steps"] = args.outer_steps
    if args.tasks_per_step:
        settings["tasks_per_step" if prime else "gradient_accumulation_steps"] = args.tasks_per_step
    return recipe.override({f"stages.0.{name}": value for name, value in settings.items()} | everywhere(args.settings, "stages.0."))


def source_folder(source: Path, target: Path, args: argparse.Namespace) -> Path:
    """The data set ``source`` without its test split, and without rows that ``target`` is judged by: languages share sentences."""
    folder: Path = args.output / "data" / f"{source.name}-for-{target.name}"
    with making(folder) as wanted:
        if wanted:
            hidden, part = multilingual.judged_by(target), folder.with_name(f"{folder.name}.part")
            part.mkdir(parents=True, exist_ok=True)
            for split, most in (("train", None), ("dev", args.dev_rows)):
                found = multilingual.lines(source, split)
                free = [line for line in found if text_hash(multilingual.text_of(line).lower()) not in hidden]
                kept = sorted(np.random.default_rng(0).permutation(len(free))[:most])
                (part / f"{split}.jsonl").write_text("".join(f"{free[i]}\n" for i in kept), encoding="utf-8")
            part.rename(folder)
    return folder


@dataclass(frozen=True)
class Primed:
    """The body after all stages but the ``last``, what they ``kept`` for it under a name, and the seconds that took."""

    body: Backbone
    kept: dict[str, Kept]
    last: Train
    seconds: float


def body_of(recipe: Recipe, task: Task, model: str, seeds: Seeds, listener: Listener = silent, folder: Path | None = None) -> Primed:
    """What comes before the last stage; with a ``folder`` it goes on where it was killed."""
    start, backbone, kept = time.perf_counter(), Backbone.load(model, seeds.init), dict[str, Kept]()
    for i, stage in enumerate(recipe.stages[:-1]):
        here = folder / f"stage-{i}" if folder else None
        stage.run(backbone, task, seeds_before(seeds, i), around=Surroundings(here, resume=here is not None, listener=listener, kept=kept))
        leave(stage, backbone)
    return Primed(backbone, kept, recipe.stages[-1], time.perf_counter() - start)


def run(cells: Cells, args: argparse.Namespace, listener: Listener = silent) -> None:
    """All runs that are not there, by target/recipe/seed/size: seed by seed, so that a part is paired."""
    folders = [args.data / name for name in args.languages]
    model = args.model
    if model == "multilingual":
        made, bf16 = args.output / "multilingual", everywhere(args.settings).get("bf16")
        if not made.exists():
            cells.in_time()
        model = str(multilingual.build(folders, made, args.pretraining_steps, listener=listener, bf16=bf16))
    for seed in range(args.seeds):
        for target in folders:
            task = load(args.data, target.name, args.test_rows, args.dev_rows)
            for name in args.recipes:
                sizes = [size for size in args.sizes if name in recipes_of(size, args)]
                wanted = [size for size in sizes if f"{target.name}/{name}/{seed}/{size}" not in cells]
                if wanted:
                    sources = [str(source_folder(f, target, args)) for f in folders if f != target]
                    primed(cells, args, task, model, (name, target.name, seed), sources, wanted, listener)


def primed(
    cells: Cells,
    args: argparse.Namespace,
    task: Task,
    model: str,
    where: tuple[str, str, int],
    sources: Sequence[str],
    sizes: Sequence[str],
    listener: Listener,
) -> None:
    """One body, and adapters on it for each of ``sizes``."""
    cells.in_time()
    name, target, seed = where
    recipe = last_stage(name, args, {"early_stopping_patience": None})
    if len(recipe.stages) > 1:
        recipe = with_sources(recipe, sources, args)
    work = args.output / "checkpoints" / f"{target}-{name}-{seed}-{'-'.join(args.sizes)}"  # another command may be at other sizes
    found = body_of(recipe, task, model, Seeds.of(seed), listener, work)
    for size in sizes:
        key = f"{target}/{name}/{seed}/{size}"
        cells.get(key, lambda size=size: adapters(task, found, size, seed) | {"priming_seconds": found.seconds})
    shutil.rmtree(work, ignore_errors=True)


def adapters(task: Task, primed: Primed, size: str, seed: int) -> dict[str, Any]:
    """The last stage on a copy of what was primed."""
    seeds = Seeds.of(seed)
    rows = None if size == "all" else int(size)
    subset = task.with_train(nested_subsets(task, [rows], seeds.sampling)[rows], seeds.sampling)
    start, around = time.perf_counter(), Surroundings(kept=primed.kept)
    learner = primed.last.run(copy.deepcopy(primed.body), subset, seeds, around=around)
    seconds, main = time.perf_counter() - start, default_metric(task.kind, task.labels)
    metrics = evaluate(learner, subset)
    return {"score": metrics["test"][main], "dev": metrics["dev"][main],
            "seconds": seconds, "trained_parameters": sum(w.numel() for w in learner.trained().values())}  # fmt: skip


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__)
    made.add_argument("--languages", type=names, default=list(LANGUAGES))
    made.add_argument("--model", default="multilingual", help="multilingual (made on the spot), minilm, a folder or a hub id")
    made.add_argument("--pretraining-steps", type=int, default=3000)
    made.add_argument("--recipes", type=names, default=list(RECIPES))
    made.add_argument("--sizes", type=names, default=["100", "500", "all"])
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--largest", type=names, default=None, help="recipes that are run with the last of --sizes; default: all")
    made.add_argument("--outer-steps", type=int, default=None, help="updates of the body; default: the recipe's")
    made.add_argument("--tasks-per-step", type=int, default=None, help="tasks (batches) of an update of the body; default: 4")
    made.add_argument("--outer-learning-rate", type=float, default=2e-4, help="of the body in every first stage")
    made.add_argument("--min-steps", type=int, default=300, help="steps of the adapters at least")
    made.add_argument("--dev-rows", type=int, default=300, help="development rows that are judged, drawn once; also of a source")
    made.add_argument("--test-rows", type=int, default=None, help="test rows, drawn once; default: all")
    with_store(made, Path(__file__), "results.md")
    with_settings(made, "the adapters of every recipe")
    args = made.parse_args(words)
    args.largest = args.recipes if args.largest is None else args.largest
    check(made, "--recipes", args.recipes, RECIPES)
    check(made, "--largest", args.largest, args.recipes)
    return args


def main() -> None:
    """Run what is missing; write the table."""
    args = parsed()
    shared = ("model", "pretraining_steps", "outer_steps", "tasks_per_step", "outer_learning_rate", "min_steps", "dev_rows", "test_rows")
    carry_out(args, (*shared, "settings", "languages"), lambda cells: run(cells, args), report)


if __name__ == "__main__":
    main()
