"""Does priming on two languages help adapters on the third? WikiANN in English, German and French, each the target once.

    python experiments/priming/run.py [--model multilingual] [--sizes 100,500,all] [--seeds 5] [--recipes houlsby,prime,...]
        [--outer-steps 1000] [--output runs/priming] [key=value for the adapters ...]

Every recipe's first stage runs once for each target and seed; adapters with a fresh head are then tuned on that body with each number of
rows, the same rows and seeds for every recipe. Entity F1 on the test split, read once. Differences to no priming (houlsby) are paired by
seed, with a t test; p values are multiplied by the number of recipes compared. Finished runs are kept in --output and not run again, and
a first stage that is killed goes on from its last checkpoint. bf16=true holds for first stages, too.
``--model multilingual`` trains a small encoder on the training texts of the three languages first; minilm read English only.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import multilingual
from cells import everywhere
from options import RUNS, basic, names, with_settings

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.fitting import fit
from tempering.recipe import Recipe, parse_settings
from tempering.stages.setup import Surroundings, leave
from tempering.study.pairs import compare_all
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


def runs(args: argparse.Namespace, listener: Listener = silent) -> dict[str, Any]:
    """All runs, by target/recipe/seed/size; what is in the file already is not run again."""
    path = args.output / "results.json"
    settings = {n: getattr(args, n) for n in ("model", "pretraining_steps", "outer_steps", "settings")}
    settings["languages"] = ",".join(args.languages)
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"made with": settings}
    if done.get("made with") != settings:
        raise SystemExit(f"{path} holds runs made with {done.get('made with')}, and now {settings} is asked for; give another --output")
    args.output.mkdir(parents=True, exist_ok=True)
    folders = [args.data / name for name in args.languages]
    model = (
        str(multilingual.build(folders, args.output / "multilingual", args.pretraining_steps))
        if args.model == "multilingual"
        else args.model
    )
    for target in folders:
        task = Task.from_file(target)
        for name in args.recipes:
            recipe = Recipe.load(name)
            if len(recipe.stages) > 1:
                recipe = with_sources(recipe, [str(f) for f in folders if f != target], args.outer_steps, args.settings)
            for seed in range(args.seeds):
                keys = {size: f"{target.name}/{name}/{seed}/{size}" for size in args.sizes}
                if all(key in done for key in keys.values()):
                    continue
                work = args.output / "checkpoints" / f"{target.name}-{name}-{seed}"
                body, seconds = body_of(recipe, task, model, Seeds.of(seed), listener, work)
                for size, key in keys.items():
                    if key not in done:
                        done[key] = adapters(task, body, size, seed, args.settings) | {"priming_seconds": seconds}
                        path.write_text(json.dumps(done, indent=1))
                        print(f"{key:50s} f1 {100 * done[key]['score']:5.1f}  {done[key]['seconds']:.0f} s", file=sys.stderr, flush=True)
                shutil.rmtree(work, ignore_errors=True)
    return done


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


def table(done: Mapping[str, Any], languages: Sequence[str], recipes: Sequence[str], sizes: Sequence[str], seeds: int) -> str:
    """Markdown: mean and deviation over seeds of the mean over targets, and the paired difference to no priming."""
    lines = ["| rows | recipe | " + " | ".join(languages) + " | mean | difference to no priming | p |", "|---" * (len(languages) + 5) + "|"]
    others = max(1, len(recipes) - 1)
    for size in sizes:
        means = {name: [_mean([_score(done, t, name, s, size) for t in languages]) for s in range(seeds)] for name in recipes}
        for name in recipes:
            cells = [_spread([_score(done, t, name, s, size) for s in range(seeds)]) for t in languages]
            against, p = "", ""
            if name != PLAIN and PLAIN in recipes:
                (pair,) = compare_all({name: means[name], PLAIN: means[PLAIN]})
                against = f"{100 * pair.difference:+.1f} ({100 * pair.low:+.1f} to {100 * pair.high:+.1f})"
                p = f"{min(1.0, pair.p * others):.3f}"
            lines.append(f"| {size} | {name} | " + " | ".join(cells) + f" | {_spread(means[name])} | {against} | {p} |")
    return "\n".join(lines)


def _score(done: Mapping[str, Any], target: str, recipe: str, seed: int, size: str) -> float:
    found = done.get(f"{target}/{recipe}/{seed}/{size}")
    return float(found["score"]) if found else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> str:
    finished = [v for v in values if math.isfinite(v)]
    if not finished:
        return "-"
    mean = _mean(finished)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in finished) / (len(finished) - 1)) if len(finished) > 1 else 0.0
    return f"{100 * mean:.1f} ± {100 * deviation:.1f}"


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
    made.add_argument("--output", type=Path, default=RUNS / "priming")
    with_settings(made, "the adapters of every recipe")
    return made.parse_args(words)


def main() -> None:
    """Run what is missing; print and write the table."""
    args = parsed()
    found = table(runs(args), args.languages, args.recipes, args.sizes, args.seeds)
    (args.output / "table.md").write_text(found + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
