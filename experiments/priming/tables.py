"""What priming/results.md says of finished runs: scores by size and recipe, and differences to no priming."""

from __future__ import annotations

import argparse
from pathlib import Path

from cells import Cells, difference, markdown, paired, spread

LANGUAGES = ("wikiann_en", "wikiann_de", "wikiann_fr")
PLAIN = "prime-none"
MODELS = {
    "multilingual": "a small encoder, {steps} steps of masked LM on the training texts of these languages, without those that any of them"
    " is judged by. It was made here because MiniLM read English only: what that makes of another language says little, and what this one"
    " makes is weak, but equally so in each",
    "minilm": "MiniLM, which read English only, so that other languages are nearly unknown to it",
}
LEAKS = (
    "WikiANN repeats itself: of 1,000 development and 2,500 test sentences 13 and 19 in English, 66 and 143 in German, 92 and 181 in French"
    " are training sentences, too. Adapters of all recipes are trained on these alike, and scores are a little too high. Rows of a source"
    " that are a development or test sentence of the target are left out of priming and of every baseline."
)


def recipes_of(size: str, args: argparse.Namespace) -> list[str]:
    """The recipes that are run with ``size`` rows: with the most of them only --largest."""
    return [name for name in args.recipes if size != args.sizes[-1] or name in args.largest]


def compared(size: str, args: argparse.Namespace) -> list[str]:
    """Those of them that are set against no priming."""
    return [name for name in recipes_of(size, args) if name != PLAIN and PLAIN in recipes_of(size, args)]


def tests(args: argparse.Namespace) -> int:
    """How many differences of a recipe to no priming there are over all sizes."""
    return max(1, sum(len(compared(size, args)) for size in args.sizes))


def table(cells: Cells, args: argparse.Namespace) -> str:
    """Mean and deviation over seeds of each target and of the mean over targets, and the paired difference of that to no priming."""
    rows = []
    for size in args.sizes:
        means = {name: _means(cells, args, name, size) for name in recipes_of(size, args)}
        for name in means:
            each = [spread(_scores(cells, args, t, name, size)) for t in args.languages]
            against = difference(paired(means[name], means[PLAIN]), tests(args)) if name in compared(size, args) else ""
            rows.append([size, name, *each, spread(means[name]), against])
    return markdown(["rows", "recipe", *args.languages, "mean over languages", f"difference to {PLAIN}"], rows)


def unfinished(cells: Cells, args: argparse.Namespace) -> list[str]:
    """A line where runs are missing: means are then of the seeds that are there, and differ in them from recipe to recipe."""
    wanted = [f"{t}/{name}/{seed}/{size}" for size in args.sizes for name in recipes_of(size, args)
              for t in args.languages for seed in range(args.seeds)]  # fmt: skip
    there = sum(key in cells for key in wanted)
    return [] if there == len(wanted) else [f"**Not finished**: {there} of {len(wanted)} runs are there; the others are left out."]


def by_target(cells: Cells, args: argparse.Namespace) -> str:
    """The paired difference to no priming on each language as the target."""
    rows, count = [], tests(args) * len(args.languages)
    for size in args.sizes:
        for name in compared(size, args):
            pairs = [paired(*(_scores(cells, args, t, one, size) for one in (name, PLAIN))) for t in args.languages]
            rows.append([size, name, *(difference(pair, count) for pair in pairs)])
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
            f" {args.outer_steps or 'As many'} updates of the body{'' if args.outer_steps else ' as the recipe says'} at a rate of"
            f" {args.outer_learning_rate:g}; adapters take {args.min_steps} steps at least."
            + ("" if len(args.largest) == len(args.recipes) else f" {args.sizes[-1]} rows: only {', '.join(args.largest) or 'no recipe'}.")
        ),
        f"The model: {model}." + (f" {LEAKS}" if set(args.languages) <= set(LANGUAGES) else ""),
        *unfinished(cells, args),
        table(cells, args),
        f"## Difference to {PLAIN} on each language as the target",
        by_target(cells, args),
    ]
    return "\n\n".join(parts) + "\n"
