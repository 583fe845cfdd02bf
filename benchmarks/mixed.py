"""Mixed-task batches of LoRA against PEFT: the same adapters, texts and rows, forward passes and their heads alone, no tokenizing.

    python benchmarks/mixed.py [--data ../shared/data] [--model minilm] [--tasks 1 4 16 64] [--rounds 9] [--batch-size 64] [--r 8]
        [--cpu-time]

Five ways, in turn in every round, so that their ratios are paired: PEFT with one adapter for the whole batch (what a mixed batch is
measured by), PEFT's ``adapter_names`` (a different adapter a row, inference only), one mixed pass of this library, the same rows in a
batch of each task's own, one after the other, and this library's own batch of one task. The heads are linear maps, since PEFT mixes no
others. Printed: median rows a second of each way, the ratio to PEFT's single-adapter batch with its quartiles over rounds, and the
largest difference between the scores of the two libraries.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WAYS = ("peft, one adapter", "peft, adapter_names", "tempering, mixed", "tempering, task by task", "tempering, one task")


def texts_of(data: Path, count: int) -> list[str]:
    """Sentences of the sst2 development split, or made-up ones of its typical lengths where it is not there."""
    path = data / "sst2" / "dev.jsonl"
    if not path.exists():
        return [" ".join(["word"] * (8 + 7 * i % 30)) for i in range(count)]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [next(value for value in row.values() if isinstance(value, str) and " " in value) for row in rows[:count]]


def adapters(model: str, count: int, r: int, folder: Path) -> list[Path]:
    """``count`` LoRA tasks on one base in folders as any run saves them: one saved, the others copies with a B of their own."""
    from tempering.backbone import Backbone
    from tempering.contracts import Example, Seeds
    from tempering.framings.head import Head
    from tempering.stages.setup import assemble
    from tempering.stages.train import Train
    from tempering.tasks import Task
    from tempering.tunings.lora import LoRA

    rows = [Example((f"text {i}",), ("a", "b")[i % 2], i) for i in range(8)]
    backbone = Backbone.load(model)
    backbone.base_fingerprint = backbone.fingerprint()
    learner = assemble(Train(framing=Head(), tuning=LoRA(r=r)), backbone, Task.from_examples(rows, kind="classification"), Seeds.of(0))
    learner.framing.final.weight.data *= 50.0  # scores of an untrained head are too small to tell rounding from nothing
    first: Path = learner.save_pretrained(folder / "t0")
    found = [first, *(Path(shutil.copytree(first, folder / f"t{i}")) for i in range(1, count))]
    for i, path in enumerate(found):
        draw, file = torch.Generator().manual_seed(i), path / "adapter_model.safetensors"
        state = {n: 0.02 * torch.randn(t.shape, generator=draw) if ".lora_B." in n else t for n, t in load_file(file).items()}
        save_file(state, file, {"format": "pt"})
    return found


def of_peft(model: str, folders: list[Path]) -> Any:
    """The same adapters under PEFT, under one classifier of the family."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from tempering.backbone import locate, quiet

    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(locate(model), num_labels=2, dtype=torch.float32)
        found = PeftModel.from_pretrained(base, str(folders[0]), adapter_name=folders[0].name)
        for folder in folders[1:]:
            found.load_adapter(str(folder), adapter_name=folder.name)
        found.set_adapter(folders[0].name)
    return found.eval()


def ways(args: argparse.Namespace, count: int, texts: list[str], folder: Path) -> tuple[list[Callable[[], Any]], float]:
    """The five calls, in the order of `WAYS`, and how far the two libraries' mixed scores are apart."""
    from tempering.contracts import Example
    from tempering.mixing.loading import load_many

    folders = adapters(args.model, count, args.r, folder)
    theirs, mixed = of_peft(args.model, folders), load_many(folders)
    names = [folders[i % count].name for i in range(len(texts))]
    inputs = dict(mixed.backbone.tokenizer(texts, padding=True, return_tensors="pt"))
    batches = {}
    for name in dict.fromkeys(names):
        mine = [Example((t,)) for t, n in zip(texts, names, strict=True) if n == name]
        framing = mixed[name].framing
        batches[name] = framing.collate([p[0] for p in framing.render(mine, (), None)], None)
    framing = mixed["t0"].framing
    whole = {"t0": framing.collate([p[0] for p in framing.render([Example((t,)) for t in texts], (), None)], None)}
    calls: list[Callable[[], Any]] = [
        lambda: theirs(**inputs).logits,
        lambda: theirs(**inputs, adapter_names=names).logits,
        lambda: mixed(batches),
        lambda: [mixed({name: batch}) for name, batch in batches.items()],
        lambda: mixed(whole),
    ]
    expected, found, seen = calls[1](), {s.task: s.logits[0] for s in calls[2]().slabs}, dict.fromkeys(names, 0)
    gap = 0.0
    for row, name in zip(expected, names, strict=True):
        gap = max(gap, float((row - found[name][seen[name]]).abs().max()))
        seen[name] += 1
    return calls, gap


def seconds(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Of one call."""
    start = clock()
    call()
    return clock() - start


@torch.no_grad()
def measure(args: argparse.Namespace, count: int, texts: list[str]) -> None:
    """One line a way."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        calls, gap = ways(args, count, texts, Path(folder))
        for call in calls:
            call()
        rounds = []
        for turn in range(args.rounds):
            order = [(i + turn) % len(calls) for i in range(len(calls))]
            took = {i: seconds(calls[i], clock) for i in order}
            rounds.append([took[i] for i in range(len(calls))])
    print(f"{count} tasks, batch of {len(texts)}, r = {args.r}: largest difference of mixed scores {gap:.1e}")
    for i, way in enumerate(WAYS):
        ratios = sorted(took[0] / took[i] for took in rounds)
        low, middle, high = statistics.quantiles(ratios, n=4)
        rate = len(texts) / statistics.median(took[i] for took in rounds)
        print(f"  {way:23} {rate:8.1f} rows/s   {middle:5.2f}x of peft's single adapter [{low:.2f}, {high:.2f}]", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count seconds of this process on the CPU: for a machine that others use too"
    )
    args = parser.parse_args()
    texts = texts_of(args.data, args.batch_size)
    for count in args.tasks:
        measure(args, count, texts)


if __name__ == "__main__":
    main()
