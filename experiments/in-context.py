"""In-context learning with a small causal model: shots by calibration by draws of demonstrations, on three tasks.

    python experiments/in-context.py MODEL [--data ../shared/data] [--tasks sst2,trec6,sms_spam] [--shots 0,1,4,8] [--seeds 5]
        [--rows 300] [--orders 8] [--batch-size 16] [--output runs/in-context]

MODEL is a folder of a causal language model, such as the one that experiments/smollm2.py writes. Protocol after Zhao et al. 2021: the
first ``--rows`` rows of the test split in an order drawn once, for every cell the same; each seed draws other demonstrations from the
training split; calibrated and not share them. Order sensitivity: with the largest number of shots, accuracy under ``--orders`` orders
of the first seed's demonstrations. A finished cell is kept in OUTPUT/cells.json and not run again; OUTPUT/in-context.md holds the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from options import RUNS, basic, names, numbers

FORMATS: dict[str, dict[str, Any]] = {
    "sst2": {"template": "sst2"},
    "trec6": {"template": "trec"},
    "sms_spam": {"template": "Message: {text}\nType: {answer}", "words": {"ham": "normal", "spam": "spam"}},
}
FORMS = ("none", "contextual")


def task_of(data: Path, name: str, rows: int) -> Any:
    """The task with ``rows`` of its test rows, drawn once."""
    from dataclasses import replace

    from tempering.tasks import Task

    folder = data / name
    task = Task.from_file(folder / "train.jsonl", dev=folder / "dev.jsonl", test=folder / "test.jsonl", text="text", label="label")
    assert task.test is not None
    chosen = np.random.default_rng(0).permutation(len(task.test))[:rows]
    return replace(task, test=replace(task.test, examples=tuple(task.test.examples[i] for i in sorted(chosen))))


def cells(args: argparse.Namespace) -> Iterator[tuple[str, int, str, int, int]]:
    """(task, shots, calibration, seed, order): without shots there is one draw, and orders are counted from 1."""
    most = max(args.shots)
    for name in args.tasks:
        for shots in args.shots:
            for form in FORMS:
                yield from ((name, shots, form, seed, 0) for seed in range(args.seeds if shots else 1))
        if most > 1:
            yield from ((name, most, form, 0, order) for form in FORMS for order in range(1, args.orders + 1))


def run(cell: tuple[str, int, str, int, int], backbone: Any, args: argparse.Namespace, tasks: dict[str, Any]) -> dict[str, Any]:
    """Accuracy and macro-F1 of one cell on the test rows, and the seconds a query."""
    from tempering.contracts import Seeds
    from tempering.fitting import evaluator_of
    from tempering.framings.in_context import InContext
    from tempering.stages.use import Use

    name, shots, form, seed, order = cell
    task = tasks.setdefault(name, task_of(args.data, name, args.rows))
    value = InContext(shots=shots, calibration=form, **FORMATS[name])
    learner = Use(value, per_device_eval_batch_size=args.batch_size).run(backbone, task, Seeds.of(seed))
    if order:  # the same demonstrations, otherwise arranged
        turned = np.random.default_rng(order).permutation(shots)
        learner.framing.contexts = [tuple(learner.framing.contexts[0][i] for i in turned)]
        learner.framing.finish(learner, task.train.examples, np.random.default_rng(0))
    start = time.perf_counter()
    found, predictions = evaluator_of(learner, task, task.test)(learner)
    seconds = (time.perf_counter() - start) / len(task.test)
    said = [sum(p.label == label for p in predictions) / len(predictions) for label in task.labels]
    shown = [e.label for e in learner.framing.shown_rows()]
    return {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"], "seconds": seconds, "said": said, "shown": shown}


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation, in percent."""
    if not values:
        return ""
    middle = f"{100 * statistics.mean(values):.1f}"
    return middle + (f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "")


def table(done: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """Both tables as Markdown."""
    lines = [
        f"# In-context learning, {Path(args.model).name}, {args.rows} test rows",
        "",
        f"Mean and standard deviation over up to {args.seeds} draws of demonstrations, in percent.",
        "",
        "| task | shots | plain accuracy | calibrated accuracy | plain macro-F1 | calibrated macro-F1 | draws |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in args.tasks:
        for shots in args.shots:
            found = {form: [c for k, c in done.items() if k.startswith(f"{name}/{shots}/{form}/") and k.endswith("/0")] for form in FORMS}
            marks = [spread([c[metric] for c in found[form]]) for metric in ("accuracy", "macro_f1") for form in FORMS]
            lines.append(f"| {name} | {shots} | {' | '.join(marks)} | {len(found['none'])} |")
    most = max(args.shots)
    lines += ["", f"The same {most} demonstrations in other orders: accuracy over orders, and the range.", ""]
    lines += ["| task | plain | range | calibrated | range | orders |", "|---|---|---|---|---|---|"]
    for name in args.tasks:
        parts = []
        for form in FORMS:
            marks = [c["accuracy"] for k, c in done.items() if k.startswith(f"{name}/{most}/{form}/0/")]
            parts += [spread(marks), f"{100 * min(marks):.1f} to {100 * max(marks):.1f}" if marks else ""]
        lines.append(f"| {name} | {' | '.join(parts)} | {len(marks)} |")
    seconds = [c["seconds"] for c in done.values()]
    if seconds:
        lines += ["", f"Seconds a query: median {statistics.median(seconds):.3f} on this machine."]
    return "\n".join(lines) + "\n"


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__)
    made.add_argument("model")
    made.add_argument("--tasks", type=names, default=list(FORMATS))
    made.add_argument("--shots", type=numbers, default=[0, 1, 4, 8])
    for name, default in (("seeds", 5), ("rows", 300), ("orders", 8), ("batch-size", 16)):
        made.add_argument(f"--{name}", type=int, default=default)
    made.add_argument("--output", type=Path, default=RUNS / "in-context")
    return made.parse_args(words)


def main() -> None:
    """Run what is not there yet; write the table after every cell."""
    args = parsed()
    from tempering.backbone import Backbone

    args.output.mkdir(parents=True, exist_ok=True)
    kept = args.output / "cells.json"
    done: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    backbone, tasks = None, {}  # type: ignore[var-annotated]
    for cell in cells(args):
        key = "/".join(map(str, cell))
        if key in done:
            continue
        backbone = backbone or Backbone.load(args.model)
        done[key] = run(cell, backbone, args, tasks)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(done, indent=1), encoding="utf-8")
        part.replace(kept)
        (args.output / "in-context.md").write_text(table(done, args), encoding="utf-8")
        print(f"{key:36s} accuracy {done[key]['accuracy']:.3f}  {done[key]['seconds']:.3f} s a query", flush=True)
    (args.output / "in-context.md").write_text(table(done, args), encoding="utf-8")
    print(table(done, args))


if __name__ == "__main__":
    main()
