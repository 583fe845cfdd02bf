"""Scoring answers after demonstrations: the kept prefix against lm-evaluation-harness, on the same model, texts and shots.

    python benchmarks/incontext.py MODEL [--data ../shared/data/sst2] [--template sst2] [--shots 8] [--rows 64] [--batch-size 16]
        [--rounds 3] [--threads 1] [--seed 0]

MODEL is a folder of a causal language model. lm-evaluation-harness is no dependency of the project. Beside it, without touching it:

    pip install --target HARNESS lm_eval        (large: it brings its own torch; --no-deps and what it then asks for is smaller)
    PYTHONPATH=HARNESS python benchmarks/incontext.py MODEL

Three ways, in turn in every round, so that their ratios are paired, each from texts to log-likelihoods: the kept prefix, the same
library running every prompt whole, and the harness (its ``loglikelihood``, fp32, with its own sharing of one-token answers). Printed:
the largest difference of a log-likelihood to the harness (or to whole prompts where it is absent), examples a second and their ratios
with the range over rounds. The first way is measured with nothing in its memory, the prefix's own pass counted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

HARNESS = "lm-evaluation-harness"
ASK = "lm_eval is not installed: pip install --target HARNESS lm_eval, and run again with PYTHONPATH=HARNESS (see --help)"


def examples_of(path: Path, count: int, start: int = 1) -> list[Any]:
    """Labelled rows of a JSON Lines file."""
    from tempering.contracts import Example

    lines = path.read_text(encoding="utf-8").split("\n")[:count]
    rows = [json.loads(line) for line in lines if line]
    return [Example((row["text"],), row["label"], start + i) for i, row in enumerate(rows)]


def learner_of(model: str, data: Path, args: argparse.Namespace, cache: bool) -> Any:
    """A learner whose scores are plain sums of log-probabilities. The same seed draws the same demonstrations."""
    from tempering.backbone import Backbone
    from tempering.contracts import Seeds
    from tempering.framings.in_context import InContext
    from tempering.stages.use import Use
    from tempering.tasks import Task

    framing = InContext(template=args.template, shots=args.shots, scoring="sum", cache=cache)
    task = Task.from_examples(train=examples_of(data / "train.jsonl", 200))
    return Use(framing).run(Backbone.load(model), task, Seeds.of(args.seed))


def ours(learner: Any, rows: list[Any], batch_size: int) -> Callable[[], torch.Tensor]:
    """Log-likelihoods [rows, answers] from texts, nothing remembered."""
    from tempering.framings.asked.left_to_right import Prefixes

    def work() -> torch.Tensor:
        learner.framing.reader.prefixes = Prefixes()
        prompts = [found[0] for found in learner.framing.render(rows, (), np.random.default_rng(0))]
        found: torch.Tensor = learner.score(prompts, batch_size).only.features
        return found

    return work


def theirs(model: str, learner: Any, rows: list[Any], batch_size: int) -> Callable[[], torch.Tensor]:
    """The harness on the very same strings."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=batch_size)
    answers = learner.framing.scored
    pairs = [(learner.framing.text_of(row).rstrip(" "), f" {answer}") for row in rows for answer in answers]

    def work() -> torch.Tensor:
        asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        found = [value for value, _ in harness.loglikelihood(asked, disable_tqdm=True)]
        return torch.tensor(found).view(len(rows), len(answers))

    return work


def measured(ways: dict[str, Callable[[], torch.Tensor]], rounds: int, rows: int) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Examples a second of every way in every round, and what each found."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            found[name] = work()
            rates[name].append(rows / (time.perf_counter() - start))
    return rates, found


def told(rates: dict[str, list[float]], found: dict[str, torch.Tensor]) -> None:
    """Print what was measured."""
    first, *others = rates
    for name in others:
        gap = float((found[first] - found[name]).abs().max())
        print(f"largest difference of a log-likelihood, {first} and {name}: {gap:.2e}")
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(rates[first], values, strict=True)]
        words = (
            "" if name == first else f"; {first} is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        )
        print(f"{name}: {statistics.median(values):.2f} examples a second{words}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / ".." / "shared" / "data" / "sst2")
    parser.add_argument("--template", default="sst2")
    for name, default in (("shots", 8), ("rows", 64), ("batch-size", 16), ("rounds", 3), ("threads", 1), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = examples_of(args.data / "dev.jsonl", args.rows)
    kept, whole = (learner_of(args.model, args.data, args, cache) for cache in (True, False))
    ways = {"kept prefix": ours(kept, rows, args.batch_size), "whole prompts": ours(whole, rows, args.batch_size)}
    if importlib.util.find_spec("lm_eval") is None:
        print(ASK)
    else:
        ways[HARNESS] = theirs(args.model, kept, rows, args.batch_size)
    print(f"{args.model}: {len(rows)} texts, {args.shots} shots, batches of {args.batch_size}, {args.threads} threads, fp32")
    told(*measured(ways, args.rounds, len(rows)))


if __name__ == "__main__":
    main()
