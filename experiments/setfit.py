"""The recipe ``setfit`` beside the ``setfit`` package: accuracy and seconds, paired over seeds, on sst2 and trec6.

    python experiments/setfit.py --peer .venv-setfit/bin/python [--data ../shared/data] [--k 8 16] [--seeds 5] [--rows 400] [--margin 3]

Both sides get the same model, the same training rows of each seed, the mean over tokens as vector and the package's defaults (oversampled
pairs, squared error of the cosine, batches of 16, one epoch, rate 2e-5 with a tenth of warm-up, logistic regression). Seconds are those of
training alone: reading the model, and the rows that are judged, do not count. Nothing is chosen on the development rows that are judged.
"Level" is said only where the whole 95 % interval of the difference, paired by seed, lies within --margin points on either side of 0: that
no difference is shown is not enough. The last row is the mean over all tasks and sizes, by seed.
Finished runs are kept in --output and not made again. The package lives in an environment of its own:

    python -m venv .venv-setfit && .venv-setfit/bin/pip install setfit==1.2.0

Without ``--peer`` only our side is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cells import Cells, carry_out, gap, markdown, paired
from options import basic, with_store

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.fitting import fit
from tempering.pretrained import locate
from tempering.recipe import Recipe
from tempering.study.pairs import Pair
from tempering.tasks import Task
from tempering.tasks.sampling import few_shot

PEER = Path(__file__).with_name("setfit_peer.py")
INSTALL = "python -m venv .venv-setfit && .venv-setfit/bin/pip install setfit==1.2.0"
SIDES = ("tempering", "setfit")


class Run(NamedTuple):
    """One side's outcome on one seed."""

    accuracy: float
    seconds: float


def few(task: Task, k: int, seed: int) -> Task:
    """``task`` with ``k`` training rows a class, drawn by ``seed``, and nothing to look at while training."""
    rows = tuple(task.train.examples[i] for i in few_shot(task, k, seed))
    return dataclasses.replace(task, train=dataclasses.replace(task.train, examples=rows), dev=None, test=None)


def ours(task: Task, judged: list[Any], model: str, seed: int, normalize: bool) -> Run:
    """The recipe as it is shipped."""
    backbone = Backbone.load(model)
    recipe = Recipe.load("setfit").override({"framing.normalize": normalize})
    started = time.perf_counter()
    learner = fit(recipe, task, backbone, seeds=Seeds.of(seed))
    seconds = time.perf_counter() - started
    said = learner.predict([e.texts[0] for e in judged])
    return Run(sum(a == e.label for a, e in zip(said, judged, strict=True)) / len(judged), seconds)


def theirs(python: str, task: Task, judged: list[Any], model: str, seed: int, normalize: bool) -> Run:
    """The package, in its own environment."""
    pairs = [[[e.texts[0], str(e.label)] for e in rows] for rows in (task.train.examples, judged)]
    with tempfile.TemporaryDirectory() as folder:
        job = {"model": str(locate(model)), "train": pairs[0], "test": pairs[1], "seed": seed, "normalize": normalize, "output": folder}
        job["threads"] = torch.get_num_threads()
        done = subprocess.run([python, str(PEER)], input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"{python} could not run setfit: {last}\ninstall it beside:  {INSTALL}")
    return Run(**json.loads(done.stdout.strip().splitlines()[-1]))


def line(name: str, k: str, mine: list[Run], other: list[Run], margin: float) -> list[str]:
    """A row of the table."""

    def shown(values: list[float], digits: int) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    cells = [name, k, str(len(mine)), shown([r.accuracy for r in mine], 3), shown([r.seconds for r in mine], 1)]
    if other:
        pair = paired([r.accuracy for r in mine], [r.accuracy for r in other])
        faster = statistics.median(b.seconds / a.seconds for a, b in zip(mine, other, strict=True))
        cells += [
            shown([r.accuracy for r in other], 3),
            shown([r.seconds for r in other], 1),
            gap(pair),
            said(pair, margin),
            f"{faster:.1f}x",
        ]
    return cells


def said(pair: Pair, margin: float) -> str:
    """What the interval of a difference shows: it holds together with nothing else, so that each row is to be read alone."""
    if not math.isfinite(pair.low):
        return "no interval"
    level = "level" if -margin <= 100 * pair.low and 100 * pair.high <= margin else ""
    side = "better" if pair.low > 0 else "worse" if pair.high < 0 else ""
    return ", ".join(word for word in (level, side) if word) or "not shown to be level"


def heading(paired: bool, margin: float) -> list[str]:
    """The names of the columns."""
    names = ["task", "rows a class", "seeds", "accuracy, tempering", "seconds, tempering"]
    more = [
        "accuracy, setfit",
        "seconds, setfit",
        "difference in points (95 %)",
        f"level within {margin:g} points?",
        "setfit's time / ours",
    ]
    return names + (more if paired else [])


def mean(runs: Sequence[Run]) -> Run:
    """The mean of a seed's runs."""
    return Run(statistics.mean(r.accuracy for r in runs), statistics.mean(r.seconds for r in runs))


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__)
    made.add_argument("--tasks", nargs="+", default=["sst2", "trec6"])
    made.add_argument("--k", nargs="+", type=int, default=[8, 16], help="training rows a class")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--rows", type=int, default=400, help="development rows that are judged")
    made.add_argument("--margin", type=float, default=3.0, help="points within which two sides are level")
    made.add_argument("--model", default="minilm")
    made.add_argument("--normalize", action="store_true", help="vectors of length one, on both sides")
    made.add_argument("--peer", help="the python of an environment with setfit")
    with_store(made, Path(__file__), "setfit.md")
    return made.parse_args(words)


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Both sides on every task, size and seed."""
    for name in args.tasks:
        files = {split: args.data / name / f"{split}.jsonl" for split in ("train", "dev")}
        whole = Task.from_file(files["train"], dev=files["dev"])
        assert whole.dev is not None  # it was named
        judged = list(whole.dev.examples[: args.rows])
        for k in args.k:
            for seed in range(args.seeds):
                same = (few(whole, k, seed), judged, args.model, seed, args.normalize)
                cells.get(f"{name}/{k}/{seed}/tempering", lambda s=same: ours(*s)._asdict())
                if args.peer:
                    cells.get(f"{name}/{k}/{seed}/setfit", lambda s=same: theirs(args.peer, *s)._asdict())


def report(cells: Cells, args: argparse.Namespace) -> str:
    """The table of what is there: seeds that both sides have, or ours alone where the package was never run."""
    paired = any(key.endswith("/setfit") for key in cells.done)
    rows, found = [], {}
    for name in args.tasks:
        for k in args.k:
            wanted = {seed: [f"{name}/{k}/{seed}/{side}" for side in SIDES[: 1 + paired]] for seed in range(args.seeds)}
            runs = {seed: [Run(**cells[key]) for key in keys] for seed, keys in wanted.items() if all(key in cells for key in keys)}
            if runs:
                found[name, k] = runs
                rows.append(line(name, str(k), *sides(runs, paired), args.margin))
    seeds = [seed for seed in range(args.seeds) if all(seed in runs for runs in found.values())]
    if len(found) > 1 and seeds:
        means = {seed: [mean(side) for side in zip(*(runs[seed] for runs in found.values()), strict=True)] for seed in seeds}
        rows.append(line("mean", "", *sides(means, paired), args.margin))
    return markdown(heading(paired, args.margin), rows) + "\n"


def sides(runs: dict[int, list[Run]], paired: bool) -> tuple[list[Run], list[Run]]:
    """Ours and theirs by seed; theirs are none where the package was never run."""
    return [both[0] for both in runs.values()], [both[1] for both in runs.values()] if paired else []


def main() -> None:
    """Run what is missing; write the table."""
    args = parsed()
    if not args.peer:
        print(f"our side only: give --peer PYTHON of an environment with setfit; make one with\n    {INSTALL}", file=sys.stderr)
    carry_out(args, ("model", "rows", "normalize"), lambda cells: run(cells, args), report)


if __name__ == "__main__":
    main()
