"""How well do rankings by frozen features predict tuned scores? Four tasks, three models, several recipes.

    python experiments/ranking.py [--models A,B,C] [--tasks sst2,trec6,cola,rte] [--recipes head,lora,full] [--seeds 3] [--output FILE]
        [key=value for every recipe ...]

Every model is tuned on every task by each recipe (development score, mean over seeds). For each task and measure: Kendall's tau and
Pearson's r between the measure and the tuned score over the models, and whether the model ranked first was the best. With three models a
single tau says little: the mean over tasks, and the share of right first places, are the figures to read. Measures read training rows
alone, and the test split is never opened. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from options import MODEL, RUNS, basic, names, with_settings
from scipy.stats import kendalltau, pearsonr

from tempering.cache import TrunkCache
from tempering.contracts import Seeds
from tempering.fitting import fit
from tempering.ranking.rank import MEASURES, rank_models
from tempering.recipe import Recipe, parse_settings
from tempering.tasks import Task, nested_subsets


def measured(task: Task, models: Sequence[str], rows: int) -> dict[str, Any]:
    """Every measure of every model, and the seconds it took."""
    start = time.perf_counter()
    found = rank_models(list(models), task, rows=rows)
    scores = {c.name: c.scores for c in found.candidates}
    return {"scores": scores, "seconds": time.perf_counter() - start, "by_model": {c.name: c.seconds for c in found.candidates}}


def rows_of(task: Task, rows: int | None) -> Task:
    """The task without its test split, and with at most ``rows`` training rows in the proportions of their classes."""
    task, sampling = replace(task, test=None), Seeds.of(0).sampling
    return task if not rows or rows >= len(task.train) else task.with_train(nested_subsets(task, [rows], sampling)[rows], sampling)


def tuned(task: Task, model: str, recipe: str, seed: int, settings: Sequence[str], cache: TrunkCache) -> dict[str, Any]:
    """The development score after fine-tuning; what a frozen model makes of the texts serves all seeds."""
    learner = fit(Recipe.load(recipe).override(parse_settings(settings)), task, model, seed=seed, cache=cache)
    record = learner.record
    return {"score": record["metrics"]["dev"][record["main_metric"]], "seconds": record["train_seconds"]}


def runs(args: argparse.Namespace) -> dict[str, Any]:
    """All measures and runs, by their names; what is in the file already is not made again."""
    settings = {"rows": args.rows, "train_rows": args.train_rows, "settings": list(args.settings)}
    done: dict[str, Any] = json.loads(args.output.read_text()) if args.output.exists() else {"made with": settings}
    if (found := done.get("made with")) != settings:
        raise SystemExit(f"{args.output} holds runs made with {found}, and now {settings} is asked for; give another --output")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name in args.tasks:
        small, cache = rows_of(Task.from_file(args.data / name), args.train_rows), TrunkCache()
        key = f"{name}/measures/{','.join(args.models)}"
        if key not in done:
            done[key] = measured(small, args.models, args.rows)
            args.output.write_text(json.dumps(done, indent=1))
        for recipe in args.recipes:
            for model in args.models:
                for seed in range(args.seeds):
                    key = f"{name}/{recipe}/{model}/{seed}"
                    if key not in done:
                        done[key] = tuned(small, model, recipe, seed, args.settings, cache)
                        args.output.write_text(json.dumps(done, indent=1))
                        print(f"{key:50s} {100 * done[key]['score']:5.1f}", file=sys.stderr, flush=True)
    return done


def agreement(measure: Sequence[float], scores: Sequence[float]) -> dict[str, float]:
    """Kendall's tau, Pearson's r, and whether the first places agree."""
    if len(set(measure)) == 1 or len(set(scores)) == 1:  # nothing to agree about
        return {"tau": math.nan, "r": math.nan, "first": math.nan, "lost": 0.0}
    first = max(range(len(measure)), key=lambda i: measure[i])
    tau, r = float(kendalltau(measure, scores).statistic), float(pearsonr(measure, scores).statistic)
    return {"tau": tau, "r": r, "first": float(scores[first] == max(scores)), "lost": max(scores) - scores[first]}


def tables(done: Mapping[str, Any], args: argparse.Namespace) -> str:
    """Markdown: tuned scores, measures, and their agreement by recipe and measure, means over tasks."""
    models, tasks = args.models, args.tasks
    measures = {t: done[f"{t}/measures/{','.join(models)}"]["scores"] for t in tasks}
    lines = ["| task | model | " + " | ".join([*MEASURES, *args.recipes]) + " |"]
    lines.append("|---" * (2 + len(MEASURES) + len(args.recipes)) + "|")
    tuned_scores: dict[tuple[str, str], list[float]] = {}
    for task in tasks:
        for recipe in args.recipes:
            tuned_scores[task, recipe] = [
                sum(done[f"{task}/{recipe}/{m}/{s}"]["score"] for s in range(args.seeds)) / args.seeds for m in models
            ]
        for i, model in enumerate(models):
            shown = [_number(measures[task][model][name]) for name in MEASURES]
            scores = [f"{100 * tuned_scores[task, recipe][i]:.1f}" for recipe in args.recipes]
            lines.append(f"| {task} | {model} | " + " | ".join([*shown, *scores]) + " |")
    lines += ["", "| recipe | measure | Kendall's tau | Pearson's r | right first place | points lost by it |", "|---|---|---|---|---|---|"]
    for recipe in args.recipes:
        for name in MEASURES:
            usable = [t for t in tasks if all(measures[t][m][name] is not None for m in models)]
            found = [agreement([measures[t][m][name] for m in models], tuned_scores[t, recipe]) for t in usable]
            if found:
                mean = {key: _nanmean([f[key] for f in found]) for key in found[0]}
                right = f"{mean['first']:.2f} of {len(found)}"
                lines.append(f"| {recipe} | {name} | {mean['tau']:.2f} | {mean['r']:.2f} | {right} | {100 * mean['lost']:.1f} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _nanmean(values: Sequence[float]) -> float:
    finished = [v for v in values if math.isfinite(v)]
    return sum(finished) / len(finished) if finished else math.nan


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__)
    made.add_argument("--models", type=names, default=["minilm", str(MODEL), str(MODEL.with_name("stories260k"))])
    made.add_argument("--tasks", type=names, default=["sst2", "trec6", "cola", "rte"])
    made.add_argument("--recipes", type=names, default=["head", "lora", "full"])
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--rows", type=int, default=2000, help="rows that the measures read")
    made.add_argument("--train-rows", type=int, default=None, help="rows that are tuned on; default: all")
    made.add_argument("--output", type=Path, default=RUNS / "ranking.json")
    with_settings(made, "every recipe")
    return made.parse_args(words)


def main() -> None:
    """Run what is missing; print the tables."""
    args = parsed()
    print(tables(runs(args), args))


if __name__ == "__main__":
    main()
