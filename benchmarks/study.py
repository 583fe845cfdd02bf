"""A study of head-only recipes: the frozen backbone runs once, against computing it in every run and epoch.

    python benchmarks/study.py [--data ../shared/data] [--rows 512] [--seeds 5] [--epochs 3]

The same head, frozen trunk, rows, seeds and epochs both ways. "shared" is what a study does: one cache for all runs, its building
and the evaluation counted in. "plain" computes the trunk in every step of every run and at every evaluation. Printed: seconds,
their ratio, and the largest difference of any dev score.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.contracts import Example, Seeds
from tempering.framings.head import Head
from tempering.stages.train import Surroundings, Train, assemble
from tempering.tasks import Task
from tempering.tasks.sampling import nested_subsets
from tempering.train.evaluate import Evaluator
from tempering.train.feed import Feed
from tempering.train.fit import Plan, fit
from tempering.tunings.frozen import Frozen


def stage_of(epochs: int) -> Train:
    """The head-only stage."""
    return Train(framing=Head(pool="mean"), tuning=Frozen(), learning_rate=1e-2, num_train_epochs=epochs)


def shared(task: Task, stage: Train, seeds: list[Seeds], rows: int) -> list[torch.Tensor]:
    """All runs over one cache; dev logits of each."""
    cache, found = TrunkCache(), []
    backbone = Backbone.load("minilm")
    for s in seeds:
        subset = task.with_train(nested_subsets(task, [rows], s.sampling)[rows])
        learner = stage.run(backbone, subset, s, around=Surroundings(cache=cache))
        evaluator = Evaluator(list(task.dev or ()), task.kind, task.labels, features=lambda p, m=learner: cache.features(m, p))  # type: ignore[misc]
        found.append(evaluator.scores(learner).only.logits)
    return found


def plain(task: Task, stage: Train, seeds: list[Seeds], rows: int) -> list[torch.Tensor]:
    """All runs, the trunk computed anew each time; dev logits of each."""
    found = []
    for s in seeds:
        backbone = Backbone.load("minilm")
        subset = task.with_train(nested_subsets(task, [rows], s.sampling)[rows])
        learner = assemble(stage, backbone, subset, s)
        dev: list[Example] = list(task.dev or ())
        evaluator = Evaluator(dev, task.kind, task.labels)
        fit(
            learner,
            Feed(learner.framing, list(subset.train), stage, s),
            Plan(stage, seed=s.dropout, evaluator=evaluator, metric="accuracy"),
        )
        found.append(evaluator.scores(learner).only.logits)
    return found


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / ".." / "shared" / "data")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    task = Task.from_file(args.data / "sst2" / "train.jsonl", dev=args.data / "sst2" / "dev.jsonl")
    stage, seeds = stage_of(args.epochs), [Seeds.of(i) for i in range(args.seeds)]
    start = time.perf_counter()
    mine = shared(task, stage, seeds, args.rows)
    middle = time.perf_counter()
    theirs = plain(task, stage, seeds, args.rows)
    end = time.perf_counter()
    gap = max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True))
    print(f"{args.seeds} runs of {args.epochs} epochs on {args.rows} rows, dev {len(task.dev or ())} rows after every epoch")
    print(
        f"shared trunk {middle - start:.1f} s, plain {end - middle:.1f} s: {(end - middle) / (middle - start):.1f} times as fast;"
        f" scores differ by {gap:.1e}"
    )


if __name__ == "__main__":
    main()
