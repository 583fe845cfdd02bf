"""Does priming on two languages help adapters on the third? WikiANN in English, German and French, each the target once.

    python experiments/priming/run.py [--model multilingual] [--sizes 100,500,all] [--seeds 5] [--recipes houlsby,prime,...]
        [--outer-steps 1000] [--hours H] [--output runs/priming] [--table results.md] [key=value for the adapters ...]

Every recipe's first stage runs once for each target and seed; adapters with a fresh head are then tuned on that body with each number of
rows, the same rows and seeds for every recipe. Entity F1 on the test split, read once. Differences to no priming (houlsby) are paired by
seed, with a t test; p values are multiplied by the number of recipes compared. Finished runs are kept in --output and not run again, and
a first stage that is killed goes on from its last checkpoint. bf16=true holds for first stages, too.
``--model multilingual`` trains a small encoder on the training texts of the three languages first; minilm read English only.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import multilingual
from cells import Cells, carry_out, difference, everywhere, markdown, paired, spread
from options import RUNS, basic, names, with_settings

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.fitting import fit
from tempering.recipe import Recipe, parse_settings
from tempering.stages.setup import Surroundings, leave
from tempering.tasks import Task, nested_subsets
from tempering.train.progress import Listener, silent

LANGUAGES = ("wikiann_en", "wikiann_de", "wikiann_fr")
PLAIN = "houlsby"
RECIPES = (PLAIN, "prime", "prime-multitask", "prime-finetune", "prime-maml", "prime-one-step", "prime-zero-steps", "prime-kept-heads",
           "prime-fresh-heads")  # fmt: skip


def with_sources(recipe: Recipe, sources: Sequence[str], steps: int | None, more: Sequence[str] = ()) -> Recipe:
    """The recipe with its first stage on ``sources``, so many updates of the body, and what of the settings ``more`` holds everywhere."""
    prime = hasattr(recipe.stages[0], "sources")
    settings: dict[str, Any] = {"stages.0.sources" if prime else "stages.0.tasks": list(sources)}
    if steps:
        settings |= {"stages.0.outer_steps" if prime else "stages.0.max_steps": steps}
    return recipe.override(settings | everywhere(more, "stages.0."))


def body_of(
    recipe: Recipe, task: Task, model: str, seeds: Seeds, listener: Listener = silent, folder: Path | None = None
) -> tuple[Backbone, float]:
    """The backbone after all stages but the last, and the seconds that took; with a ``folder`` it goes on where it was killed."""
    start, backbone = time.perf_counter(), Backbone.load(model, seeds.init)
    for i, stage in enumerate(recipe.stages[:-1]):
        here = folder / f"stage-{i}" if folder else None
        stage.run(backbone, task, seeds, around=Surroundings(here, resume=here is not None, listener=listener))
        leave(stage, backbone)
    return backbone, time.perf_counter() - start


def run(cells: Cells, args: argparse.Namespace, listener: Listener = silent) -> None:
    """All runs that are not there, by target/recipe/seed/size: seed by seed, so that a part is paired."""
    folders = [args.data / name for name in args.languages]
    model = args.model
    if model == "multilingual":
        model = str(multilingual.build(folders, args.output / "multilingual", args.pretraining_steps))
    for seed in range(args.seeds):
        for target in folders:
            task = Task.from_file(target)
            for name in args.recipes:
                wanted = [size for size in args.sizes if f"{target.name}/{name}/{seed}/{size}" not in cells]
                if wanted:
                    sources = [str(f) for f in folders if f != target]
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
    recipe = Recipe.load(name)
    if len(recipe.stages) > 1:
        recipe = with_sources(recipe, sources, args.outer_steps, args.settings)
    work = args.output / "checkpoints" / f"{target}-{name}-{seed}"
    body, seconds = body_of(recipe, task, model, Seeds.of(seed), listener, work)
    for size in sizes:
        key = f"{target}/{name}/{seed}/{size}"
        cells.get(key, lambda size=size: adapters(task, body, size, seed, args.settings) | {"priming_seconds": seconds})
    shutil.rmtree(work, ignore_errors=True)


def adapters(task: Task, body: Backbone, size: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """The adapters, with the same settings whatever came before, on a copy of ``body``."""
    seeds = Seeds.of(seed)
    rows = None if size == "all" else int(size)
    subset = task.with_train(nested_subsets(task, [rows], seeds.sampling)[rows], seeds.sampling)
    last = Recipe("adapters", Recipe.load("prime").stages[-1:]).override(parse_settings(settings))
    learner = fit(last, subset, copy.deepcopy(body), seeds=seeds)
    record = learner.record
    return {"score": record["metrics"]["test"][record["main_metric"]], "dev": record["metrics"]["dev"][record["main_metric"]],
            "seconds": record["train_seconds"], "trained_parameters": record["trained_parameters"]}  # fmt: skip


def table(cells: Cells, args: argparse.Namespace) -> str:
    """Mean and deviation over seeds of each target and of the mean over targets, and the paired difference to no priming."""
    tests, rows = max(1, len(args.recipes) - 1), []
    for size in args.sizes:
        means = {name: _means(cells, args, name, size) for name in args.recipes}
        for name in args.recipes:
            each = [spread(cells.scores(f"{t}/{name}/{s}/{size}" for s in range(args.seeds))) for t in args.languages]
            against = "" if name == PLAIN or PLAIN not in means else difference(paired(means[name], means[PLAIN]), tests)
            rows.append([size, name, *each, spread(means[name]), against])
    return markdown(["rows", "recipe", *args.languages, "mean over languages", f"difference to {PLAIN}"], rows)


def _means(cells: Cells, args: argparse.Namespace, name: str, size: str) -> list[float]:
    """By seed, over the languages; nan where one of them is not there."""
    found = [cells.scores(f"{t}/{name}/{seed}/{size}" for t in args.languages) for seed in range(args.seeds)]
    return [sum(scores) / len(scores) for scores in found]


def report(cells: Cells, args: argparse.Namespace) -> str:
    """The whole of results.md."""
    model = f"a small encoder, {args.pretraining_steps} steps of masked LM" if args.model == "multilingual" else Path(args.model).name
    parts = [
        f"# Priming, {', '.join(args.languages)}: each the target once",
        (
            f"Written by `python experiments/priming/run.py`; {model}. Entity F1 on test in percent: mean ± standard deviation over seeds"
            " (95 % interval). Differences are paired by seed, and p is multiplied by the number of recipes compared."
        ),
        table(cells, args),
    ]
    return "\n\n".join(parts) + "\n"


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__)
    made.add_argument("--languages", type=names, default=list(LANGUAGES))
    made.add_argument("--model", default="multilingual", help="multilingual (made on the spot), minilm, a folder or a hub id")
    made.add_argument("--pretraining-steps", type=int, default=3000)
    made.add_argument("--recipes", type=names, default=list(RECIPES))
    made.add_argument("--sizes", type=names, default=["100", "500", "all"])
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--outer-steps", type=int, default=None, help="updates of the body; default: the recipe's")
    made.add_argument("--hours", type=float, default=None, help="begin no run after so many hours; the same command goes on later")
    made.add_argument("--output", type=Path, default=RUNS / "priming")
    made.add_argument("--table", type=Path, default=Path(__file__).with_name("results.md"))
    with_settings(made, "the adapters of every recipe")
    return made.parse_args(words)


def main() -> None:
    """Run what is missing; write the table."""
    args = parsed()
    carry_out(args, ("model", "pretraining_steps", "outer_steps", "settings", "languages"), lambda cells: run(cells, args), report)


if __name__ == "__main__":
    main()
