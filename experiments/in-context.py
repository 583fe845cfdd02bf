"""In-context learning with a small causal model: shots by calibration by draws of demonstrations, on three tasks.

    python experiments/in-context.py MODEL [--data ../shared/data] [--tasks sst2,trec6,sms_spam] [--shots 0,1,4,8] [--seeds 5]
        [--rows 300] [--orders 8] [--batch-size 16] [--bf16] [--hours H] [--output runs/in-context] [--table experiments/in-context.md]

MODEL is a folder of a causal language model, such as the one that experiments/smollm2.py writes. Protocol after Zhao et al. 2021:
``--rows`` rows of the test split, drawn once for all cells; each seed draws other demonstrations from the training split. A query is asked
once and judged twice, plain and with contextual calibration. Order sensitivity: with the largest number of shots, accuracy under
``--orders`` orders of the first seed's demonstrations. Where the classes are not equally frequent, calibration, which takes answers to be
equally likely without content, has its own table: how often each label is said.

A finished cell is kept in OUTPUT/cells.json and not run again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import Cells, carry_out, gap, load, markdown, paired, spread
from options import basic, names, numbers, with_store

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.fitting import evaluator_of
from tempering.framings.in_context import InContext
from tempering.stages.use import Use
from tempering.tasks.metrics import compute

FORMATS: dict[str, dict[str, Any]] = {
    "sst2": {"template": "sst2"},
    "trec6": {"template": "trec"},
    "sms_spam": {"template": "Message: {text}\nType: {answer}", "words": {"ham": "normal", "spam": "spam"}},
}
FORMS = ("plain", "calibrated")


Cell = tuple[str, int, int, int]


def plan(args: argparse.Namespace) -> Iterator[Cell]:
    """(task, shots, seed, order): without shots there is one draw, and orders are counted from 1. Seed by seed."""
    most = max(args.shots)
    for seed in range(args.seeds):
        yield from ((name, shots, seed, 0) for name in args.tasks for shots in args.shots if shots or not seed)
        if most > 1 and not seed:
            yield from ((name, most, 0, order) for name in args.tasks for order in range(1, args.orders + 1))


def key(cell: Cell) -> str:
    """The cell's name in the file."""
    return "/".join(map(str, cell))


def ask(cell: Cell, backbone: Any, task: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Scores of one cell in both forms, the labels shown and said, and the seconds a query."""
    name, shots, seed, order = cell
    value = InContext(shots=shots, calibration="contextual", **FORMATS[name])
    with torch.autocast("cpu", torch.bfloat16) if args.bf16 else nullcontext():
        learner = Use(value, per_device_eval_batch_size=args.batch_size).run(backbone, task, Seeds.of(seed))
        if order:  # the same demonstrations, otherwise arranged
            turned = np.random.default_rng(order).permutation(shots)
            learner.framing.contexts = [tuple(learner.framing.contexts[0][i] for i in turned)]
            learner.framing.finish(learner, task.train.examples, np.random.default_rng(0))
        start, asked = time.perf_counter(), evaluator_of(learner, task, task.test)
        _, predictions = asked(learner)
        seconds = (time.perf_counter() - start) / len(task.test)
    calibrated = np.array([[p.probabilities[label] for label in task.labels] for p in predictions])
    shown = [e.label for e in learner.framing.shown_rows()]
    return {"seconds": seconds, "shown": shown} | judged(task, calibrated, learner.framing.get_buffer("prior")[0].exp().numpy())


def judged(task: Any, calibrated: np.ndarray, prior: np.ndarray) -> dict[str, Any]:
    """Both forms from ``calibrated`` [rows, classes] = p / p_cf and ``prior`` [classes] = p_cf: plain is their product, normalized."""
    plain = calibrated * prior
    gold = [e.label for e in task.test.examples]
    frequency = {str(label): gold.count(label) / len(gold) for label in task.labels}
    found: dict[str, Any] = {"prior": prior.tolist(), "frequency": frequency}
    for form, table in (("plain", plain / plain.sum(1, keepdims=True)), ("calibrated", calibrated)):
        said = [task.labels[i] for i in table.argmax(1)]
        scores = compute(task.kind, task.labels, gold, said)
        shares = [said.count(label) / len(said) for label in task.labels]
        found[form] = {"accuracy": scores["accuracy"], "macro_f1": scores["macro_f1"], "said": shares}
    return found


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Every cell that is not there."""
    tasks: dict[str, Any] = {}
    backbone = Backbone.load(args.model)
    for cell in plan(args):
        task = tasks.setdefault(cell[0], load(args.data, cell[0], args.rows))
        cells.get(key(cell), lambda cell=cell, task=task: ask(cell, backbone, task, args))


def found_of(cells: Cells, args: argparse.Namespace, name: str, shots: int, ordered: bool = False) -> list[dict[str, Any]]:
    """The finished cells of a task and a number of shots: those of several draws, or those of several orders."""
    wanted = [c for c in plan(args) if c[:2] == (name, shots) and bool(c[3]) == ordered]
    return [cells[key(c)] for c in wanted if key(c) in cells]


def main_table(cells: Cells, args: argparse.Namespace) -> str:
    """Tasks and shots by form."""
    rows = []
    for name in args.tasks:
        for shots in args.shots:
            found = found_of(cells, args, name, shots)
            marks = [spread([c[form][metric] for c in found]) for metric in ("accuracy", "macro_f1") for form in FORMS]
            plain, calibrated = ([c[form]["accuracy"] for c in found] for form in FORMS)
            rows.append([name, str(shots), *marks, gap(paired(calibrated, plain)) if found else "", str(len(found))])
    forms = [f"{form} {metric}" for metric in ("accuracy", "macro-F1") for form in FORMS]
    header = ["task", "shots", *forms, "gain in accuracy", "draws"]
    return markdown(header, rows)


def order_table(cells: Cells, args: argparse.Namespace) -> str:
    """The same demonstrations, arranged in other orders."""
    rows = []
    for name in args.tasks:
        found = found_of(cells, args, name, max(args.shots), ordered=True)
        parts = []
        for form in FORMS:
            marks = [c[form]["accuracy"] for c in found]
            parts += [spread(marks), f"{100 * min(marks):.1f} to {100 * max(marks):.1f}" if marks else ""]
        rows.append([name, *parts, str(len(found))])
    return markdown(["task", "plain", "range", "calibrated", "range", "orders"], rows)


def said_table(cells: Cells, args: argparse.Namespace) -> str:
    """How often each label is said, and how often it is right."""
    rows = []
    for name in args.tasks:
        for shots in args.shots:
            found = found_of(cells, args, name, shots)
            for at, (label, share) in enumerate(found[0]["frequency"].items() if found else ()):
                marks = [spread([c[form]["said"][at] for c in found]) for form in FORMS]
                prior = spread([c["prior"][at] for c in found])
                rows.append([name, str(shots), label, f"{100 * share:.1f}", prior, *marks])
    return markdown(["task", "shots", "label", "is right", "said without content", "said, plain", "said, calibrated"], rows)


def report(cells: Cells, args: argparse.Namespace) -> str:
    """All tables."""
    seconds = [c["seconds"] for c in cells.done.values()]
    lines = [
        f"# In-context learning, {Path(args.model).name}, {args.rows} test rows",
        (
            f"Mean ± sd (95 % interval) over {args.seeds} draws of demonstrations, in percent{', in bf16' if args.bf16 else ''}; the gain"
            " is that of calibration, paired by draw. Written by `python experiments/in-context.py`."
        ),
        main_table(cells, args),
        f"## The same {max(args.shots)} demonstrations in other orders\n\nAccuracy over orders, and the range.",
        order_table(cells, args),
        "## What is said\n\nShares of the labels in percent: of the judged rows, of the answer to a query without content, of the answers.",
        said_table(cells, args),
    ]
    lines += [f"Seconds a query: median {statistics.median(seconds):.3f} on this machine."] if seconds else []
    return "\n\n".join(lines) + "\n"


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__)
    made.add_argument("model")
    made.add_argument("--tasks", type=names, default=list(FORMATS))
    made.add_argument("--shots", type=numbers, default=[0, 1, 4, 8])
    for name, default in (("seeds", 5), ("rows", 300), ("orders", 8), ("batch-size", 16)):
        made.add_argument(f"--{name}", type=int, default=default)
    made.add_argument("--bf16", action="store_true", help="count in 16 bits, where the processor is faster so")
    with_store(made, Path(__file__), "in-context.md")
    return made.parse_args(words)


def main() -> None:
    """Run what is missing; write the tables."""
    args = parsed()
    carry_out(args, ("model", "rows", "bf16"), lambda cells: run(cells, args), report)


if __name__ == "__main__":
    main()
