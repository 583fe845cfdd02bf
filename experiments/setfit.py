"""The recipe ``setfit`` beside the ``setfit`` package: accuracy and seconds, paired over seeds, on sst2 and trec6.

    python experiments/setfit.py --peer .venv-setfit/bin/python [--data ../shared/data] [--k 8 16] [--seeds 5] [--rows 400]

Both sides get the same model, the same training rows of each seed, the mean over tokens as vector and the package's defaults (oversampled
pairs, squared error of the cosine, batches of 16, one epoch, rate 2e-5 with a tenth of warm-up, logistic regression). Seconds are those of
training alone: reading the model, and the rows that are judged, do not count. Nothing is chosen on the development rows that are judged.
Finished runs are kept beside --output (.json) and not made again. The package lives in an environment of its own:

    python -m venv .venv-setfit && .venv-setfit/bin/pip install setfit==1.2.0

Without ``--peer`` only our side is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from options import RUNS, basic
from scipy.stats import ttest_rel

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.fitting import fit
from tempering.pretrained import locate
from tempering.recipe import Recipe
from tempering.tasks import Task
from tempering.tasks.sampling import few_shot

PEER = Path(__file__).with_name("setfit_peer.py")
INSTALL = "python -m venv .venv-setfit && .venv-setfit/bin/pip install setfit==1.2.0"


class Runs:
    """Finished runs by task, size, seed and side, in ``path``; runs made with other ``settings`` are refused."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.done: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["settings"] != settings:
                raise SystemExit(f"{path} holds runs made with {found['settings']}, and now {settings} is asked for; give another --output")
            self.done = found["runs"]

    def get(self, key: str, make: Callable[[], Run]) -> Run:
        """The run ``key``, made and written down where it is not there."""
        if key not in self.done:
            self.done[key] = make()._asdict()
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps({"settings": self.settings, "runs": self.done}, indent=1), encoding="utf-8")
            part.replace(self.path)
        return Run(**self.done[key])


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


def line(name: str, k: int, mine: list[Run], other: list[Run]) -> str:
    """A row of the table."""

    def shown(values: list[float], digits: int) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    cells = [name, str(k), str(len(mine)), shown([r.accuracy for r in mine], 3), shown([r.seconds for r in mine], 1)]
    if other:
        gaps = [a.accuracy - b.accuracy for a, b in zip(mine, other, strict=True)]
        moved = len(gaps) > 1 and len(set(gaps)) > 1
        p = f"{ttest_rel([r.accuracy for r in mine], [r.accuracy for r in other]).pvalue:.2f}" if moved else "-"
        faster = statistics.median(b.seconds / a.seconds for a, b in zip(mine, other, strict=True))
        cells += [shown([r.accuracy for r in other], 3), shown([r.seconds for r in other], 1), f"{statistics.mean(gaps):+.3f}", p]
        cells.append(f"{faster:.1f}x")
    return f"| {' | '.join(cells)} |"


def heading(paired: bool) -> list[str]:
    """The first two lines of the table."""
    names = ["task", "rows a class", "seeds", "accuracy, tempering", "seconds, tempering"]
    names += ["accuracy, setfit", "seconds, setfit", "difference", "p (paired t)", "setfit's time / ours"] if paired else []
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__)
    made.add_argument("--tasks", nargs="+", default=["sst2", "trec6"])
    made.add_argument("--k", nargs="+", type=int, default=[8, 16], help="training rows a class")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--rows", type=int, default=400, help="development rows that are judged")
    made.add_argument("--model", default="minilm")
    made.add_argument("--normalize", action="store_true", help="vectors of length one, on both sides")
    made.add_argument("--peer", help="the python of an environment with setfit")
    made.add_argument("--output", type=Path, default=RUNS / "setfit.md")
    return made.parse_args(words)


def main() -> None:
    """Run both sides on every task, size and seed; the table is written after each of its rows."""
    args = parsed()
    if not args.peer:
        print(f"our side only: give --peer PYTHON of an environment with setfit; make one with\n    {INSTALL}", file=sys.stderr)
    lines = heading(bool(args.peer))
    runs = Runs(args.output.with_suffix(".json"), {"model": args.model, "rows": args.rows, "normalize": args.normalize})
    for name in args.tasks:
        files = {split: args.data / name / f"{split}.jsonl" for split in ("train", "dev")}
        whole = Task.from_file(files["train"], dev=files["dev"])
        assert whole.dev is not None  # it was named
        judged = list(whole.dev.examples[: args.rows])
        for k in args.k:
            mine: list[Run] = []
            other: list[Run] = []
            for seed in range(args.seeds):
                task = few(whole, k, seed)
                same = (task, judged, args.model, seed, args.normalize)
                mine.append(runs.get(f"{name}/{k}/{seed}/tempering", lambda s=same: ours(*s)))
                if args.peer:
                    other.append(runs.get(f"{name}/{k}/{seed}/setfit", lambda s=same: theirs(args.peer, *s)))
                print(f"{name}, {k} rows a class, seed {seed}: {mine[-1]} {other[-1] if other else ''}", file=sys.stderr)
            lines.append(line(name, k, mine, other))
            args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
