"""A study of head-only recipes: the frozen model's features computed once, against computing them in every run and epoch.

    python benchmarks/study.py [--data ../shared/data] [--rows 512] [--seeds 5] [--epochs 3] [--recipes 2] [--held-out 0]

The same recipes, rows, seeds, epochs and code both ways; a run is scored on dev after every epoch and on test at its end. "once" is
what a study does: one cache on disk for all runs, empty at the start, its building counted in. "anew" computes the features in every step
and every evaluation. Loading is shared: both ways use one loaded model, and both are warmed up before the clock starts. Printed:
seconds and ratio for the first recipe alone and for the study, and the largest difference of any test score.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.contracts import Seeds
from tempering.fitting import evaluator_of
from tempering.framings.head import Head
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.tasks import Task
from tempering.tasks.sampling import nested_subsets
from tempering.tunings.frozen import Frozen


class Anew(Train):
    """The same stage, which may not keep what the frozen model said."""

    @property
    def why_not_cached(self) -> str:
        """The reason."""
        return "this is the other side of the comparison"


def stages_of(kind: type[Train], recipes: int, epochs: int) -> list[Train]:
    """Head-only recipes that differ in their learning rate."""
    return [kind(framing=Head(pool="mean"), tuning=Frozen(), learning_rate=1e-2 / 2**i, num_train_epochs=epochs) for i in range(recipes)]


def runs(backbone: Backbone, task: Task, stage: Train, seeds: Sequence[Seeds], rows: int, cache: TrunkCache | None) -> list[torch.Tensor]:
    """All runs of one recipe; test logits of each."""
    found = []
    for s in seeds:
        subset = task.with_train(nested_subsets(task, [rows], s.sampling)[rows])
        learner = stage.run(backbone, subset, s, around=Surroundings(cache=cache))
        assert task.test is not None
        found.append(evaluator_of(learner, subset, task.test, cache=cache).scores(learner).only.logits)
    return found


def measure(
    backbone: Backbone, task: Task, stages: Sequence[Train], seeds: Sequence[Seeds], rows: int, cache: TrunkCache | None
) -> tuple[list[float], list[torch.Tensor]]:
    """Seconds until the end of each recipe, and the test logits of all runs."""
    start, seconds, logits = time.perf_counter(), [], []
    for stage in stages:
        logits += runs(backbone, task, stage, seeds, rows, cache)
        seconds.append(time.perf_counter() - start)
    return seconds, logits


def cut(task: Task, held_out: int) -> Task:
    """The task with at most so many rows of dev and of test; 0 keeps all."""
    short = [replace(s, examples=s.examples[: held_out or None]) if s is not None else None for s in (task.dev, task.test)]
    return replace(task, dev=short[0], test=short[1])


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / ".." / "shared" / "data")
    for name, default in (("rows", 512), ("seeds", 5), ("epochs", 3), ("recipes", 2), ("held-out", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    data = args.data / "sst2"
    task = cut(Task.from_file(data / "train.jsonl", dev=data / "dev.jsonl", test=data / "test.jsonl"), args.held_out)
    seeds, backbone = [Seeds.of(i) for i in range(args.seeds)], Backbone.load("minilm")
    once, anew = (stages_of(kind, args.recipes, args.epochs) for kind in (Train, Anew))
    for stage, cache in ((once[0], TrunkCache()), (anew[0], None)):
        runs(backbone, cut(task, 64), stage, seeds[:1], 32, cache)
    with tempfile.TemporaryDirectory() as folder:
        mine, kept = measure(backbone, task, once, seeds, args.rows, TrunkCache(Path(folder)))
    theirs, computed = measure(backbone, task, anew, seeds, args.rows, None)
    gap = max(float((a - b).abs().max()) for a, b in zip(kept, computed, strict=True))
    print(f"{args.seeds} seeds of {args.epochs} epochs on {args.rows} rows; dev {len(task.dev or ())} rows, test {len(task.test or ())}")
    for count in sorted({1, args.recipes}):
        once_s, anew_s = mine[count - 1], theirs[count - 1]
        print(f"{count} recipe(s): features once {once_s:.1f} s, anew {anew_s:.1f} s: {anew_s / once_s:.1f} times as fast")
    print(f"scores differ by {gap:.1e}")


if __name__ == "__main__":
    main()
