"""How well do rankings by frozen features predict tuned scores? Four tasks, three models, several recipes.

    python experiments/ranking.py [--models A,B,C] [--tasks sst2,trec6,cola,rte] [--recipes head,lora,full] [--seeds 3] [--hours H]
        [--output runs/ranking] [--table experiments/ranking.md] [key=value for every recipe ...]

Every model is tuned on every task by each recipe, in --min-steps steps at least (score on at most --dev-rows development rows, drawn once;
mean over seeds). For each task and measure: Kendall's tau and
Pearson's r between the measure and the tuned score over the models, and whether the model ranked first was the best. With three models a
single tau says little: the mean over tasks, and the share of right first places, are the figures to read. Measures read training rows
alone, and the test split is never opened. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cells import Cells, carry_out, few, last_stage, markdown
from options import LAST, MODEL, basic, names, with_last_stage, with_settings, with_store
from published import beside_project
from scipy.stats import kendalltau, pearsonr

from tempering.cache import TrunkCache
from tempering.contracts import Seeds
from tempering.fitting import fit
from tempering.ranking.rank import MEASURES, rank_models
from tempering.recipe import Recipe
from tempering.tasks import Task, nested_subsets


def called(model: str) -> str:
    """The model in the names of cells: a path as seen from the project's folder, there or not."""
    return os.path.relpath(model, Path(__file__).parents[1]) if Path(model).is_absolute() else beside_project(model)


def measured(task: Task, models: Sequence[str], rows: int) -> dict[str, Any]:
    """Every measure of every model, of how many rows, and the seconds it took."""
    start = time.perf_counter()
    found = rank_models(list(models), task, rows=rows)
    scores = {called(c.name): c.scores for c in found.candidates}
    return {
        "scores": scores,
        "rows": found.candidates[0].rows,
        "seconds": time.perf_counter() - start,
        "by_model": {called(c.name): c.seconds for c in found.candidates},
    }


def rows_of(task: Task, rows: int | None, dev_rows: int | None = None) -> Task:
    """The task without its test split, and with at most ``rows`` training rows in the proportions of their classes."""
    task, sampling = replace(task, dev=few(task.dev, dev_rows), test=None), Seeds.of(0).sampling
    return task if not rows or rows >= len(task.train) else task.with_train(nested_subsets(task, [rows], sampling)[rows], sampling)


def tuned(task: Task, model: str, recipe: Recipe, seed: int, cache: TrunkCache) -> dict[str, Any]:
    """The development score after fine-tuning; what a frozen model makes of the texts serves all seeds."""
    record = fit(recipe, task, model, seed=seed, cache=cache).record
    return {"score": record["metrics"]["dev"][record["main_metric"]], "seconds": record["train_seconds"]}


def run(cells: Cells, args: argparse.Namespace) -> None:
    """All measures and runs that are not there, task by task."""
    recipes = {name: last_stage(name, args) for name in args.recipes}
    for name in args.tasks:
        small, cache = rows_of(Task.from_file(args.data / name), args.train_rows, args.dev_rows), TrunkCache()
        cells.get(_measures(name, args), lambda task=small: measured(task, args.models, args.rows))
        for recipe in args.recipes:
            for model in args.models:
                for seed in range(args.seeds):
                    given = (small, model, recipes[recipe], seed, cache)
                    cells.get(_run(name, recipe, model, seed), lambda given=given: tuned(*given))


def _measures(name: str, args: argparse.Namespace) -> str:
    return f"{name}/measures/{','.join(map(called, args.models))}"


def _run(task: str, recipe: str, model: str, seed: int) -> str:
    return f"{task}/{recipe}/{called(model)}/{seed}"


def agreement(measure: Sequence[float], scores: Sequence[float]) -> dict[str, float]:
    """Kendall's tau, Pearson's r, and whether the first places agree."""
    if len(set(measure)) == 1 or len(set(scores)) == 1:  # nothing to agree about
        return {"tau": math.nan, "r": math.nan, "first": math.nan, "lost": 0.0}
    first = max(range(len(measure)), key=lambda i: measure[i])
    tau, r = float(kendalltau(measure, scores).statistic), float(pearsonr(measure, scores).statistic)
    return {"tau": tau, "r": r, "first": float(scores[first] == max(scores)), "lost": max(scores) - scores[first]}


def report(cells: Cells, args: argparse.Namespace) -> str:
    """Tuned scores and measures, and how well they agree, of the tasks that are finished."""
    keys = {t: [_run(t, r, m, s) for r in args.recipes for m in args.models for s in range(args.seeds)] for t in args.tasks}
    tasks = [t for t in args.tasks if all(key in cells for key in [_measures(t, args), *keys[t]])]
    if not tasks:
        return "No task is finished.\n"
    measures = {t: cells[_measures(t, args)]["scores"] for t in tasks}
    mean = {
        (t, r): [sum(cells[_run(t, r, m, s)]["score"] for s in range(args.seeds)) / args.seeds for m in args.models]
        for t in tasks
        for r in args.recipes
    }
    parts = [
        "# Rankings by frozen features, and tuned scores",
        about(cells, tasks, args),
        scores_table(tasks, measures, mean, args),
        agreement_table(tasks, measures, mean, args),
    ]
    return "\n\n".join(parts) + "\n"


def about(cells: Cells, tasks: Sequence[str], args: argparse.Namespace) -> str:
    """How the figures came about. Measures read training rows, and no more of them than there are."""
    measured = {t: cells[_measures(t, args)]["rows"] for t in tasks}
    counts = ", ".join(f"{rows} of {t}" for t, rows in measured.items()) if len(set(measured.values())) > 1 else str(measured[tasks[0]])
    return (
        f"Written by `python experiments/ranking.py`: measures read training rows ({counts}); tuned on {args.train_rows or 'all'} training"
        f" rows in {args.min_steps} steps at least, full fine-tuning at a rate of {args.learning_rate:g}; scores on at most {args.dev_rows}"
        f" development rows are means over {args.seeds} seeds, in percent."
    )


Measures = Mapping[str, Mapping[str, Mapping[str, float | None]]]  # task -> model -> measure -> value
Scores = Mapping[tuple[str, str], Sequence[float]]  # (task, recipe) -> one for each model


def scores_table(tasks: Sequence[str], measures: Measures, mean: Scores, args: argparse.Namespace) -> str:
    """A row for each task and model."""
    rows = []
    for task in tasks:
        for i, model in enumerate(args.models):
            shown = [_number(measures[task][called(model)][name]) for name in MEASURES]
            rows.append([task, Path(model).name, *shown, *(f"{100 * mean[task, recipe][i]:.1f}" for recipe in args.recipes)])
    return markdown(["task", "model", *MEASURES, *args.recipes], rows)


def agreement_table(tasks: Sequence[str], measures: Measures, mean: Scores, args: argparse.Namespace) -> str:
    """A row for each recipe and measure, means over tasks."""
    rows = []
    for recipe in args.recipes:
        for name in MEASURES:
            values = {t: [v for m in args.models if (v := measures[t][called(m)][name]) is not None] for t in tasks}
            found = [agreement(values[t], mean[t, recipe]) for t in tasks if len(values[t]) == len(args.models)]
            if found:
                of = {key: _nanmean([f[key] for f in found]) for key in found[0]}
                right = f"{of['first']:.2f} of {len(found)}"
                rows.append([recipe, name, f"{of['tau']:.2f}", f"{of['r']:.2f}", right, f"{100 * of['lost']:.1f}"])
    return markdown(["recipe", "measure", "Kendall's tau", "Pearson's r", "right first place", "points lost by it"], rows)


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
    made.add_argument("--rows", type=int, default=2000, help="training rows that the measures read, at most")
    made.add_argument("--train-rows", type=int, default=None, help="rows that are tuned on; default: all")
    with_store(made, Path(__file__), "ranking.md")
    with_last_stage(made)
    with_settings(made, "every recipe")
    return made.parse_args(words)


def main() -> None:
    """Run what is missing; write the tables."""
    args = parsed()
    carry_out(args, ("rows", "train_rows", *LAST, "settings"), lambda cells: run(cells, args), report)


if __name__ == "__main__":
    main()
