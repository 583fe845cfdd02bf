"""LM-BFF's protocol on small models: do prompts and demonstrations beat plain fine-tuning on 16 rows a class?

    python experiments/lm-bff/run.py [--grid small|paper] [--steps 1000] [--seeds 5] [--test-rows 1000] [--hours H]
        [--tasks sst2,trec6,snli_10k,mr,cr,stsb] [--arms ...] [--model ../shared/models/minilm-mlm] [--output runs/lm-bff] [bf16=true]
    python experiments/lm-bff/run.py --sensitivity ...         # also the table of label words (sst2) and templates (snli_10k)

After Gao, Fisch, Chen 2021 (spec of the runs: princeton-nlp/LM-BFF). Each seed draws 16 training rows a class and 16 others as its
development rows; of values 16 below and 16 above the median. Every trained arm has the same grid of rates and batch sizes; the best grid
point of each seed is chosen on these development rows, and only that one reads the test split. No weight decay, no warm-up, linear decay, a
look at the development rows every tenth of the steps, the first best kept. Words and templates are searched with one setting (the paper:
rate 1e-5, batch 8), then get the grid like the others. What differs from the paper: the model; the test rows are those of the test split
(at most --test-rows, drawn once); demonstrations are filtered by the model's own sentence vectors; there is no T5, so templates are written
by the masked model itself; --candidates words and templates are fine-tuned, not 100; --contexts sets of demonstrations are averaged, not 16
or 4. Metrics are the paper's. The other tasks of its 15 are known by --tasks, where there is data. The paper's own: --grid paper
--candidates 100 --beam 100 --contexts 16 --context-rows 32.

Every grid point is kept in OUTPUT/cells.json as soon as it is done. A run stopped between the grid and the test fits the best one again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from arms import ARMS, EXCEPT, GRIDS, ORDER, OTHERS, SHOTS, TASKS, TEMPLATES, WORDS, Arm, variants
from cells import Cells, carry_out, difference, markdown, paired, spread, verdict
from options import MODEL, check, of_cells, with_settings
from runner import Runner


def plan(args: argparse.Namespace) -> list[tuple[str, Arm, int]]:
    """(task, arm, seed): seed by seed, so that what is done of an unfinished run is paired; arms that no seed changes run once."""
    found = []
    for seed in range(args.seeds):
        for name in args.tasks:
            for arm in (ARMS[a] for a in args.arms):
                once = not arm.seeded or (arm.whole and seed >= args.whole_seeds)
                if not (once and seed):
                    found.append((name, arm, seed))
        if args.sensitivity:
            found += [(name, arm, seed) for name, arm in variants().values()]
    return found


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Every cell that is not there."""
    runner = Runner(cells, args)
    for name, arm, seed in plan(args):
        runner.run(name, arm, seed)


def scores(cells: Cells, name: str, arm: Arm, args: argparse.Namespace) -> list[float]:
    """By seed; an arm that no seed changes has the same everywhere."""
    if not arm.seeded:
        return cells.scores([f"{name}/{arm.name}/0"]) * args.seeds
    return cells.scores(f"{name}/{arm.name}/{seed}" for seed in range(args.seeds))


def main_table(cells: Cells, args: argparse.Namespace) -> str:
    """Arms by tasks."""
    rows = []
    for name in args.arms:
        found = [scores(cells, task, ARMS[name], args) for task in args.tasks]
        rows.append([name, *(spread(s) if ARMS[name].seeded else spread(s[:1]) for s in found)])
    metrics = [next((c["metric"] for k, c in cells.done.items() if k.startswith(f"{t}/") and "metric" in c), "") for t in args.tasks]
    return markdown(["", *(f"{t} ({m})" if m else t for t, m in zip(args.tasks, metrics, strict=True))], rows)


def order_table(cells: Cells, args: argparse.Namespace) -> str:
    """What of the published order holds: each claim judged once, over the tasks for which the paper makes it."""
    pairs = [pair for pair in ORDER if set(pair) <= set(args.arms)]
    judged = {pair: paired(*over_tasks(cells, pair, args)) for pair in pairs}
    tests = max(1, sum(math.isfinite(found.low) for found in judged.values()))
    rows, counts = [], {}
    for pair, found in judged.items():
        once = math.isfinite(found.difference) and not math.isfinite(found.low)
        said = "one measurement" if once else verdict(found, tests)
        counts[said] = counts.get(said, 0) + 1
        rows.append([*pair, difference(found, tests), said, *(single(cells, task, pair, args) for task in args.tasks)])
    summary = ", ".join(f"{count} of {len(pairs)}: {said}" for said, count in sorted(counts.items()))
    return f"{summary or 'none of the claims was run'}.\n\n" + markdown(
        ["said to be better", "than", "mean difference", "", *args.tasks], rows
    )


def over_tasks(cells: Cells, pair: tuple[str, str], args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Both sides of a claim by seed: means over the tasks for which it is made, nan for a seed that has not all of them."""
    tasks = [task for task in args.tasks if task not in EXCEPT.get(pair, ())]
    sides = [[scores(cells, task, ARMS[name], args) for task in tasks] for name in pair]
    better, worse = ([statistics.fmean(column) for column in zip(*side, strict=True)] for side in sides)
    if not any(ARMS[name].seeded for name in pair):
        return better[:1], worse[:1]
    return better, worse


def single(cells: Cells, task: str, pair: tuple[str, str], args: argparse.Namespace) -> str:
    """The difference on one task."""
    if task in EXCEPT.get(pair, ()):
        return "(not said)"
    better, worse = (scores(cells, task, ARMS[name], args) for name in pair)
    gaps = [100 * (a - b) for a, b in zip(better, worse, strict=True) if math.isfinite(a - b)]
    return f"{statistics.fmean(gaps):+.1f}" if gaps else ""


def sensitivity_table(cells: Cells, args: argparse.Namespace) -> str:
    """Each variant against the first of its task."""
    rows, first = [], {}
    for name, (task, arm) in variants().items():
        found = scores(cells, task, arm, args)
        first.setdefault(task, found)
        against = "" if first[task] is found else difference(paired(found, first[task]), len(WORDS) + len(TEMPLATES) - 2)
        rows.append([task, name, spread(found), against])
    return markdown(["task", "words (positive/negative) or template", "score", "difference to the first"], rows)


def population(seeds: int) -> float:
    """What a sample standard deviation over ``seeds`` is multiplied by to be that of the population."""
    return math.sqrt((seeds - 1) / seeds)


def report(cells: Cells, args: argparse.Namespace) -> str:
    """The whole of results.md."""
    rates, batches = GRIDS[args.grid]
    grid = f"rates {', '.join(f'{r:g}' for r in rates)} x batch sizes {', '.join(map(str, batches))}"
    rows = f"{args.test_rows} test rows" if args.test_rows else "all test rows"
    settled = "".join(f", {setting}" for setting in args.settings)
    parts = [
        f"# LM-BFF's protocol, {Path(args.model).name}",
        (
            f"Written by `python experiments/lm-bff/run.py`. {SHOTS} training rows a class and as many to choose on, {args.seeds} splits,"
            f" {args.steps} steps, {grid}, {rows}{settled}. Mean ± sample standard deviation (95 % interval of the mean); the paper gives"
            f" population standard deviations, which are {population(args.seeds):.3f} of these. Automatic templates are written by the"
            " masked model itself, not by a T5."
        ),
        main_table(cells, args),
        "## What of the published order holds",
        (
            "Differences are means over the tasks, paired by split, for those tasks on which the paper's own figures have this order; p"
            " values are multiplied by the number of claims that have several splits. All rows are trained on once,"
            " which no test can judge."
        ),
        order_table(cells, args),
    ]
    if args.sensitivity:
        parts += ["## Label words and templates (prompt)", sensitivity_table(cells, args)]
    return "\n\n".join(parts) + "\n"


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = of_cells(__doc__, Path(__file__), model=MODEL, seeds=5, tasks=tuple(TASKS), table="results.md")
    made.set_defaults(test_rows=1000)
    made.add_argument("--arms", type=_arms, default=list(ARMS), help="parted by semicolons, since one name holds a comma")
    made.add_argument("--grid", choices=tuple(GRIDS), default="small")
    made.add_argument("--steps", type=int, default=1000)
    made.add_argument("--candidates", type=int, default=5, help="label words and templates that are fine-tuned (the paper: 100)")
    made.add_argument("--beam", type=int, default=10, help="of the search for templates (the paper: 100)")
    made.add_argument("--context-rows", type=int, default=16, help="demonstrations of the in-context arm (the paper: 32)")
    made.add_argument("--contexts", type=int, default=4, help="sets of demonstrations that are averaged, at most (the paper: 16)")
    made.add_argument("--whole-seeds", type=int, default=1, help="seeds of fine-tuning on all rows")
    made.add_argument("--sensitivity", action="store_true")
    with_settings(made, "all training, such as bf16=true")
    args = made.parse_args(words)
    check(made, "--arms", args.arms, ARMS, between="; ")
    check(made, "--tasks", args.tasks, (*TASKS, *OTHERS))
    return args


def _arms(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def main() -> None:
    """Run what is missing; write the tables."""
    args = parsed()
    if absent := [name for name in args.tasks if not (args.data / name).exists()]:
        raise SystemExit(f"--tasks: there is no data for {', '.join(absent)} in {args.data}; put it there under that name, or leave it out")
    shared = ("model", "grid", "steps", "candidates", "beam", "context_rows", "contexts", "test_rows", "settings")
    carry_out(args, shared, lambda cells: run(cells, args), report)


if __name__ == "__main__":
    main()
