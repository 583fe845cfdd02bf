"""Does a recipe beat the linear floor on real tasks? One fit a task and recipe, test scores beside the measured floors.

    python experiments/floors.py [--data ../shared/data] [--recipes full,lora] [--tasks sst2,trec6,rte,stsb,sms_spam] [--seeds 1]

The development split chooses the best of the evaluations inside a run; the test split is read once, at the end. Finished runs are kept
in --output and not run again. Floors: accuracy of TF-IDF with logistic regression (stsb: Spearman of the word overlap).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from options import RUNS, basic, check, names, with_settings

from tempering.fitting import fit
from tempering.recipe import Recipe, parse_settings
from tempering.tasks import Task

FLOORS = {  # task -> (metric, floor in percent, majority)
    "sst2": ("accuracy", 81.2),
    "trec6": ("accuracy", 88.2),
    "rte": ("accuracy", 52.7),
    "stsb": ("spearman", 50.4),
    "sms_spam": ("macro_f1", 94.4),
}


def run(data: Path, task_name: str, recipe: str, seed: int, settings: list[str]) -> dict[str, Any]:
    """One fit; its metrics and seconds."""
    folder = data / task_name
    task = Task.from_file(folder / "train.jsonl", dev=folder / "dev.jsonl", test=folder / "test.jsonl", seed=seed)
    learner = fit(Recipe.load(recipe).override(parse_settings(settings)), task, "minilm", seed=seed)
    return {k: learner.record[k] for k in ("metrics", "train_seconds", "trained_parameters", "peak_memory")}


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__)
    made.add_argument("--recipes", type=names, default=["full", "lora"])
    made.add_argument("--tasks", type=names, default=list(FLOORS))
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--output", type=Path, default=RUNS / "floors.json")
    with_settings(made, "every recipe")
    args = made.parse_args(words)
    check(made, "--tasks", args.tasks, FLOORS)
    return args


def main() -> None:
    """Run what is missing; print the scores."""
    args = parsed()
    done: dict[str, Any] = json.loads(args.output.read_text()) if args.output.exists() else {}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for task in args.tasks:
        metric, floor = FLOORS[task]
        for recipe in args.recipes:
            for seed in range(args.seeds):
                key = f"{task}/{recipe}/{seed}" + "".join(f"/{s}" for s in args.settings)
                if key not in done:
                    done[key] = run(args.data, task, recipe, seed, args.settings)
                    args.output.write_text(json.dumps(done, indent=1))
                found = done[key]["metrics"]
                test, dev = 100 * found["test"][metric], 100 * found["dev"][metric]
                verdict = "above" if test > floor else "NOT ABOVE"
                seconds = done[key]["train_seconds"]
                print(f"{key:28s} {metric:9s} test {test:5.1f}  dev {dev:5.1f}  floor {floor:5.1f}  {verdict}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
