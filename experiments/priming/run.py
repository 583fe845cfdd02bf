"""Does priming on two languages help adapters on the third? WikiANN in English, German and French, each the target once.

    python experiments/priming/run.py [--model multilingual] [--sizes 100,500,all] [--seeds 5] [--recipes prime-none,prime,...]
        [--outer-steps 1000] [--hours H] [--output runs/priming] [--table results.md] [key=value for the adapters ...]

Every recipe's first stage runs once for each target and seed; its last stage, the same adapters in all of them, is then run on that body
with each number of rows, the same rows and seeds for every recipe. Only prime-kept-start hands it more than the body: the start of adapters
and head. Entity F1 on the test split, read once. Differences to no priming (prime-none) are paired by seed, with a t test, over the mean of
the languages and for each as the target; p values are multiplied by the number of tests in their table. Finished runs are kept in --output
and not run again, and a first stage that is killed goes on from its last checkpoint. bf16=true holds for first stages, too.
``--model multilingual`` trains a small encoder on the training texts of the three languages first; minilm read English only.
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
from cells import Cells, carry_out, difference, everywhere, markdown, paired, spread
from options import RUNS, basic, names, with_settings

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.fitting import evaluate
from tempering.recipe import Recipe, parse_settings
from tempering.stages.kept import Kept
from tempering.stages.setup import Surroundings, leave
from tempering.stages.train import Train
from tempering.tasks import Task, nested_subsets
from tempering.tasks.metrics import default_metric
from tempering.train.progress import Listener, silent

LANGUAGES = ("wikiann_en", "wikiann_de", "wikiann_fr")
PLAIN = "prime-none"
RECIPES = (PLAIN, "prime", "prime-multitask", "prime-finetune", "prime-maml", "prime-one-step", "prime-zero-steps", "prime-kept-heads",
           "prime-fresh-heads", "prime-kept-start")  # fmt: skip
MODELS = {
    "multilingual": "a small encoder, {steps} steps of masked LM on the training texts of these languages, without those that any of them"
    " is judged by. It was made here because MiniLM read English only: what that makes of another language says little, and what this one"
    " makes is weak, but equally so in each",
    "minilm": "MiniLM, which read English only, so that other languages are nearly unknown to it",
}
LEAKS = (
    "WikiANN repeats itself: of 1,000 development and 2,500 test sentences 13 and 19 in English, 66 and 143 in German, 92 and 181 in French"
    " are training sentences, too. Adapters of all recipes are trained on these alike, and scores are a little too high."
)


def with_sources(recipe: Recipe, sources: Sequence[str], steps: int | None, more: Sequence[str] = ()) -> Recipe:
    """The recipe with its first stage on ``sources``, so many updates of the body, and what of the settings ``more`` holds everywhere."""
    prime = hasattr(recipe.stages[0], "sources")
    settings: dict[str, Any] = {"stages.0.sources" if prime else "stages.0.tasks": list(sources)}
    if steps:
        settings |= {"stages.0.outer_steps" if prime else "stages.0.max_steps": steps}
    return recipe.override(settings | everywhere(more, "stages.0."))


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
        stage.run(backbone, task, seeds, around=Surroundings(here, resume=here is not None, listener=listener, kept=kept))
        leave(stage, backbone)
    return Primed(backbone, kept, recipe.stages[-1], time.perf_counter() - start)


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
    recipe = Recipe.load(name).override(parse_settings(args.settings))
    if len(recipe.stages) > 1:
        recipe = with_sources(recipe, sources, args.outer_steps, args.settings)
    work = args.output / "checkpoints" / f"{target}-{name}-{seed}"
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


def compared(args: argparse.Namespace) -> list[str]:
    """The recipes that are set against no priming."""
    return [name for name in args.recipes if name != PLAIN] if PLAIN in args.recipes else []


def table(cells: Cells, args: argparse.Namespace) -> str:
    """Mean and deviation over seeds of each target and of the mean over targets, and the paired difference of that to no priming."""
    tests, rows = max(1, len(compared(args)) * len(args.sizes)), []
    for size in args.sizes:
        means = {name: _means(cells, args, name, size) for name in args.recipes}
        for name in args.recipes:
            each = [spread(_scores(cells, args, t, name, size)) for t in args.languages]
            against = difference(paired(means[name], means[PLAIN]), tests) if name in compared(args) else ""
            rows.append([size, name, *each, spread(means[name]), against])
    return markdown(["rows", "recipe", *args.languages, "mean over languages", f"difference to {PLAIN}"], rows)


def by_target(cells: Cells, args: argparse.Namespace) -> str:
    """The paired difference to no priming on each language as the target."""
    tests, rows = max(1, len(compared(args)) * len(args.sizes) * len(args.languages)), []
    for size in args.sizes:
        for name in compared(args):
            pairs = [paired(*(_scores(cells, args, t, one, size) for one in (name, PLAIN))) for t in args.languages]
            rows.append([size, name, *(difference(pair, tests) for pair in pairs)])
    return markdown(["rows", "recipe", *args.languages], rows)


def _scores(cells: Cells, args: argparse.Namespace, target: str, name: str, size: str) -> list[float]:
    """By seed."""
    return cells.scores(f"{target}/{name}/{seed}/{size}" for seed in range(args.seeds))


def _means(cells: Cells, args: argparse.Namespace, name: str, size: str) -> list[float]:
    """By seed, over the languages; nan where one of them is not there."""
    found = [_scores(cells, args, t, name, size) for t in args.languages]
    return [sum(scores) / len(scores) for scores in zip(*found, strict=True)]


def report(cells: Cells, args: argparse.Namespace) -> str:
    """The whole of results.md."""
    model = MODELS.get(args.model, Path(args.model).name).format(steps=args.pretraining_steps)
    parts = [
        f"# Priming, {', '.join(args.languages)}: each the target once",
        (
            "Written by `python experiments/priming/run.py`. Entity F1 on test in percent: mean ± standard deviation over seeds (95 %"
            " interval). Differences are paired by seed, and p is multiplied by the number of differences in the table."
        ),
        f"The model: {model}." + (f" {LEAKS}" if set(args.languages) <= set(LANGUAGES) else ""),
        table(cells, args),
        f"## Difference to {PLAIN} on each language as the target",
        by_target(cells, args),
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
