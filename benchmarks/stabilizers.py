"""Seconds a step of every stabilizer against plain training, and of R-Drop and R3F against a second loop around the model.

    python benchmarks/stabilizers.py [--model minilm] [--rounds 3] [--steps 4] [--rows 8] [--tokens 32] [--methods r_drop,r3f,...]

Every stabilizer is at its defaults and alone, in full fine-tuning with this library's own loop over the same rows of random words; the
five of the design's promise (R-Drop, R3F, self-distillation, mixout, MMR) also run together. Of a run the first step is dropped and the
median of the others taken; each round runs every way once, beginning at another one, and ratios are taken within a round. The
reference way is the published one, written against a transformers classifier: call the model twice, add the divergence, AdamW step.
Printed: passes a step as stated, milliseconds a step, and times plain, median over rounds with minimum and maximum.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

FIVE = ("r_drop", "r3f", "self_distillation", "mixout", "mmr")
REFERENCES = ("r_drop", "r3f")
PLAIN = "plain"


def task_of(args: argparse.Namespace) -> Any:
    """One batch of rows of random words and labels; every text has the same number of tokens."""
    import random

    from tempering.contracts import Example
    from tempering.tasks import Task

    draw, words = random.Random(0), "good bad day room story film book light water road house tree hand sound voice".split()
    rows = [Example((" ".join(draw.choices(words, k=args.tokens - 2)),), ("no", "yes")[i % 2], i + 1) for i in range(args.rows)]
    return Task.from_examples(train=rows, kind="classification")


def our_seconds(args: argparse.Namespace, backbone: Any, stabilizers: tuple[Any, ...]) -> tuple[float, int]:
    """Median seconds of a step of the library's loop, and the passes it states."""
    from tempering.contracts import Seeds
    from tempering.stages.setup import Surroundings
    from tempering.stages.train import Train

    marks: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            marks.append(time.perf_counter())

    fixed = {"eval_strategy": "no", "load_best_model_at_end": False, "warmup_steps": 0}
    stage = Train(max_steps=args.steps + 1, per_device_train_batch_size=args.rows, stabilizers=stabilizers, **fixed)
    stage.run(copy.deepcopy(backbone), task_of(args), Seeds.of(0), around=Surroundings(listener=listen))
    return statistics.median(b - a for a, b in itertools.pairwise(marks)), stage.passes_per_step


def _divergence(a: Any, b: Any) -> Any:
    from torch.nn import functional as F

    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return F.kl_div(p, q, reduction="batchmean", log_target=True) + F.kl_div(q, p, reduction="batchmean", log_target=True)


def reference_loss(method: str, model: Any, inputs: dict[str, Any], labels: Any) -> Any:
    """The published loss of one step, from two calls of the model."""
    import torch
    from torch.nn import functional as F

    if method == "r_drop":
        first, second = model(**inputs).logits, model(**inputs).logits
        return (F.cross_entropy(first, labels) + F.cross_entropy(second, labels)) / 2 + _divergence(first, second) / 2
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    clean = model(inputs_embeds=embeddings, **rest).logits
    noisy = model(inputs_embeds=embeddings.detach() + torch.empty_like(embeddings).uniform_(-1e-5, 1e-5), **rest).logits
    return F.cross_entropy(clean, labels) + _divergence(noisy, clean)


def reference_seconds(args: argparse.Namespace, method: str) -> float:
    """Median seconds of a step of a loop around the transformers classifier."""
    import torch
    import transformers

    from tempering.pretrained import locate

    where, task = locate(args.model), task_of(args)
    tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(where, num_labels=2).train()
    inputs = dict(tokenizer([e.texts[0] for e in task.train], return_tensors="pt", padding=True))
    labels = torch.tensor([task.label_index(e.label) for e in task.train])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    marks = []
    for _ in range(args.steps + 1):
        reference_loss(method, model, inputs, labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
    return statistics.median(b - a for a, b in itertools.pairwise(marks))


def ways_of(args: argparse.Namespace) -> dict[str, Callable[[], tuple[float, int]]]:
    """Everything that is measured, by name."""
    from tempering.backbone import Backbone
    from tempering.registry import find, names

    backbone = Backbone.load(args.model)
    wanted = args.methods.split(",") if args.methods else names("stabilizer")
    sets = {PLAIN: (), **{name: (name,) for name in wanted}} | ({} if args.methods else {"the five together": FIVE})

    def ours(chosen: tuple[str, ...]) -> Callable[[], tuple[float, int]]:
        return lambda: our_seconds(args, backbone, tuple(find("stabilizer", name)() for name in chosen))

    def reference(method: str) -> Callable[[], tuple[float, int]]:
        return lambda: (reference_seconds(args, method), 2)

    theirs = {f"{name}, second loop": reference(name) for name in REFERENCES if name in wanted}
    return {name: ours(chosen) for name, chosen in sets.items()} | theirs


def main() -> None:
    """Parse, run in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default="")
    args = parser.parse_args()
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
        print(f"{name:26s} {runs[0][1]} passes  {1000 * statistics.median(s for s, _ in runs):8.1f} ms a step  {spread} times plain")


if __name__ == "__main__":
    main()
