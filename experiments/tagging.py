"""Entities and parts of speech: full fine-tuning, LoRA and adapters with a head over words, against the most frequent tag of each word.

    python experiments/tagging.py [--tasks wnut17,ncbi_disease,wikiann_de,ud_en_ewt_pos,ud_fr_sequoia_pos] [--seeds 3] [--rows N]
        [--recipes tagging,tagging-lora,tagging-adapters] [--hours H] [--output runs/tagging] [key=value for every recipe ...]

Entity F1 (whole entities, seqeval's rule) or accuracy of words, on the test split, read once a fit; at most --dev-rows development rows
choose the best of the evaluations inside a run, of --min-steps steps at least. With --rows so many training rows, drawn anew for each
seed. The floors were measured on these files with all training and all test rows, so that with --test-rows they are no more than a guide.
The model read English only: German and French are hard for it. Finished cells are kept in OUTPUT/cells.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cells import Cells, carry_out, cut, difference, last_stage, load, markdown, outcome, paired, spread
from options import LAST, names, of_cells, with_last_stage, with_settings

from tempering.fitting import fit

FLOORS = {  # in percent: each word's most frequent tag in the training rows (majority tag where a word is new)
    "wnut17": ("entity F1", 6.0),
    "ncbi_disease": ("entity F1", 48.2),
    "wikiann_en": ("entity F1", 11.0),
    "wikiann_de": ("entity F1", 19.8),
    "wikiann_fr": ("entity F1", 14.0),
    "ud_en_ewt_pos": ("accuracy", 86.2),
    "ud_fr_sequoia_pos": ("accuracy", 91.4),
}
TASKS = ("wnut17", "ncbi_disease", "wikiann_de", "ud_en_ewt_pos", "ud_fr_sequoia_pos")
RECIPES = ("tagging", "tagging-lora", "tagging-adapters")


def plan(args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """(task, recipe, seed), seed by seed, so that what is done of an unfinished run is paired."""
    return [(task, recipe, seed) for seed in range(args.seeds) for task in args.tasks for recipe in args.recipes]


def key(task: str, recipe: str, seed: int) -> str:
    """The name of a cell."""
    return f"{task}/{recipe}/{seed}"


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Every cell that is not there."""
    recipes = {name: last_stage(name, args) for name in args.recipes}
    for task, recipe, seed in plan(args):
        cells.get(
            key(task, recipe, seed),
            lambda t=task, r=recipe, s=seed: outcome(
                fit(recipes[r], cut(load(args.data, t, args.test_rows, args.dev_rows), args.rows, s), args.model, seed=s)
            ),
        )


def table(cells: Cells, args: argparse.Namespace) -> str:
    """Markdown: scores by recipe, the floor, and each recipe against the first."""
    first, tests = args.recipes[0], max(1, (len(args.recipes) - 1) * len(args.tasks))
    rows, against, said = [], [], []
    for task in args.tasks:
        metric, floor = FLOORS.get(task, ("score", float("nan")))
        scores = {r: cells.scores(key(task, r, s) for s in range(args.seeds)) for r in args.recipes}
        rows.append([task, metric, f"{floor:.1f}", *(spread(scores[r]) for r in args.recipes)])
        against += [[task, r, difference(paired(scores[r], scores[first]), tests)] for r in args.recipes[1:]]
        for r in args.recipes:
            under = sum(100 * v <= floor for v in scores[r])
            said += [f"- {task}, {r}: {under} of {len(scores[r])} runs are not above the floor."] if under else []
    amount = f"{args.rows} training rows" if args.rows else "all training rows"
    return "\n".join(
        [
            f"# Tagging, {Path(args.model).name}, {amount}, {args.seeds} seeds",
            "",
            (
                f"Written by `python experiments/tagging.py`. {args.min_steps} steps at least; rate of full fine-tuning"
                f" {args.learning_rate:g}. Test split: mean ± standard deviation over seeds (95 % interval of the mean)."
            ),
            "",
            markdown(["task", "metric", "floor", *args.recipes], rows),
            "",
            f"Difference to {first}, paired by seed; p values times {tests} tests.",
            "",
            markdown(["task", "recipe", "difference"], against),
            "",
            *(said or ["Every finished run is above its floor."]),
            "",
        ]
    )


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = of_cells(__doc__, Path(__file__), model="minilm", seeds=3, tasks=TASKS, table="tagging.md")
    made.add_argument("--recipes", type=names, default=list(RECIPES))
    made.add_argument("--rows", type=int, default=None, help="training rows; default: all")
    with_last_stage(made)
    with_settings(made, "every recipe")
    return made.parse_args(words)


def main() -> None:
    """Run what is missing; write the table."""
    args = parsed()
    carry_out(args, ("model", "rows", "test_rows", *LAST, "settings"), lambda cells: run(cells, args), table)


if __name__ == "__main__":
    main()
