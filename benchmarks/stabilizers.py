"""Seconds a step of every stabilizer against plain training, and of five of them against the published way, loops around the model.

    python benchmarks/stabilizers.py [--model minilm] [--rounds 3] [--steps 4] [--rows 8] [--tokens 32] [--methods r_drop,r3f,...]

Every stabilizer is at its defaults and alone, in full fine-tuning with this library's own loop over the same rows of random words; so are
several heads and smoothed labels, which are settings. The five of the design's promise (R-Drop, R3F, self-distillation, mixout, MMR) also
run together. Of a run the first step is dropped and the median of the others taken; each round runs every way once, beginning at another
one, and ratios are taken within a round. The published way of each of the five (`stabilizer_references`) is a loop around a transformers
BERT classifier, in which every method makes calls of its own; together they are glued into one loop, as without shared passes.
Printed: passes a step (stated here, counted there), milliseconds a step, times plain, and how much faster ours is than the published
way; medians over rounds with minimum and maximum.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from stabilizer_references import FIVE, Published

PLAIN, TOGETHER, PUBLISHED = "plain", "the five together", ", published way"


def task_of(args: argparse.Namespace) -> Any:
    """One batch of rows of random words and labels; every text has the same number of tokens."""
    import random

    from tempering.contracts import Example
    from tempering.tasks import Task

    draw, words = random.Random(0), "good bad day room story film book light water road house tree hand sound voice".split()
    rows = [Example((" ".join(draw.choices(words, k=args.tokens - 2)),), ("no", "yes")[i % 2], i + 1) for i in range(args.rows)]
    return Task.from_examples(train=rows, kind="classification")


def our_seconds(args: argparse.Namespace, backbone: Any, settings: dict[str, Any]) -> tuple[float, int]:
    """Median seconds of a step of the library's loop with ``settings``, and the passes it states."""
    from tempering.contracts import Seeds
    from tempering.stages.setup import Surroundings
    from tempering.stages.train import Train

    marks: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            marks.append(time.perf_counter())

    fixed = {"eval_strategy": "no", "load_best_model_at_end": False, "warmup_steps": 0}
    stage = Train(max_steps=args.steps + 1, per_device_train_batch_size=args.rows, **fixed, **settings)
    stage.run(copy.deepcopy(backbone), task_of(args), Seeds.of(0), around=Surroundings(listener=listen))
    return statistics.median(b - a for a, b in itertools.pairwise(marks)), stage.passes_per_step


def reference_seconds(args: argparse.Namespace, methods: Sequence[str]) -> tuple[float, int]:
    """Median seconds of a step of a loop around the transformers classifier, and how often it calls the model."""
    import torch
    import transformers

    from tempering.pretrained import locate

    where, task = locate(args.model), task_of(args)
    tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    way = Published(transformers.AutoModelForSequenceClassification.from_pretrained(where, num_labels=2), methods)
    inputs = dict(tokenizer([e.texts[0] for e in task.train], return_tensors="pt", padding=True))
    labels = torch.tensor([task.label_index(e.label) for e in task.train])
    optimizer = torch.optim.AdamW(way.model.parameters(), lr=5e-5, fused=True)
    marks = []
    for _ in range(args.steps + 1):
        way.loss(inputs, labels).backward()
        torch.nn.utils.clip_grad_norm_(way.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        way.after_step()
        marks.append(time.perf_counter())
    return statistics.median(b - a for a, b in itertools.pairwise(marks)), way.calls // (args.steps + 1)


def ways_of(args: argparse.Namespace) -> dict[str, Callable[[], tuple[float, int]]]:
    """Everything that is measured, by name."""
    from tempering.backbone import Backbone
    from tempering.framings.head import Head
    from tempering.registry import find, names

    backbone = Backbone.load(args.model)
    wanted = args.methods.split(",") if args.methods else names("stabilizer")
    whole = not args.methods
    sets = {PLAIN: (), **{name: (name,) for name in wanted}} | ({TOGETHER: FIVE} if whole else {})
    other = {"10 heads": {"framing": Head(heads=10)}, "label smoothing": {"label_smoothing_factor": 0.1}} if whole else {}

    def ours(settings: dict[str, Any]) -> Callable[[], tuple[float, int]]:
        return lambda: our_seconds(args, backbone, settings)

    def reference(methods: Sequence[str]) -> Callable[[], tuple[float, int]]:
        return lambda: reference_seconds(args, methods)

    chosen = {name: {"stabilizers": tuple(find("stabilizer", m)() for m in methods)} for name, methods in sets.items()}
    theirs = {f"{name}{PUBLISHED}": reference((name,)) for name in FIVE if name in wanted}
    theirs |= {f"{TOGETHER}{PUBLISHED}": reference(FIVE)} if whole else {}
    return {name: ours(settings) for name, settings in (chosen | other).items()} | theirs


def main(words: Sequence[str] | None = None) -> None:
    """Parse, run in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default="")
    args = parser.parse_args(words)
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    ways = ways_of(args)
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    for turn in range(args.rounds):
        names = list(ways)
        shift = turn * len(names) // args.rounds
        for name in names[shift:] + names[:shift]:
            found[name].append(ways[name]())
    print(f"{args.model}, {args.rows} rows of {args.tokens} tokens, fp32, {args.threads} thread(s), {args.rounds} rounds")
    for name, runs in found.items():
        times = [mine / plain for (mine, _), (plain, _) in zip(runs, found[PLAIN], strict=True)]
        spread = f"{statistics.median(times):5.2f} ({min(times):.2f} to {max(times):.2f})"
        seconds = statistics.median(s for s, _ in runs)
        print(f"{name:33s} {runs[0][1]} passes  {1000 * seconds:8.1f} ms a step  {spread} times plain{_gain(name, found)}")


def _gain(name: str, found: dict[str, list[tuple[float, int]]]) -> str:
    """Behind a published way, how much faster the same method is here."""
    ours = found.get(name.removesuffix(PUBLISHED), [])
    if not name.endswith(PUBLISHED) or not ours:
        return ""
    times = [theirs / mine for (theirs, _), (mine, _) in zip(found[name], ours, strict=True)]
    return f"; ours is {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) times as fast"


if __name__ == "__main__":
    main()
