"""Masked language modeling against transformers' Trainer with its MLM collator: same model, text, rows, tokens, precision, threads.

    python benchmarks/pretraining.py [--model ../shared/models/minilm-mlm] [--text ../shared/data/unlabelled/imdb_reviews.txt]
        [--seeds 5] [--rows 256] [--steps 48] [--length 128] [--batch-size 16]

Both are given the same rows of at most --length tokens, cut from the same documents, and train for the same number of steps of the same
batch size. Three ways in turn for every seed, each in a process of its own: Trainer at its defaults, Trainer with length grouping,
Tempering. Seconds hold training and tokenizing, not imports, loading or evaluation. Printed: real tokens a second, the ratio pair by pair
with its 90 % interval, and the loss curves with the interval of their paired difference: masks and orders are drawn apart, so that the
curves can be equal within noise only. Dropout is on as the model's configuration has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from processes import answer, in_turn, interval, trainer_settings

SHARED = Path(__file__).parents[1] / ".." / "shared"
WAYS = ("trainer", "trainer-grouped", "tempering")
PARTS = 4  # of the loss curve
LEVEL = 0.9  # of the intervals


def texts_of(args: argparse.Namespace) -> list[str]:
    """The first documents of the text."""
    lines = [line.strip() for line in args.text.read_text(encoding="utf-8").split("\n") if line.strip()]
    return lines[: args.rows]


def told(losses: list[float], tokens: int, seconds: float) -> dict[str, Any]:
    """What a run reports; the curve is the mean loss of each part of it."""
    size = len(losses) // PARTS
    return {"seconds": seconds, "tokens": tokens, "curve": [statistics.mean(losses[i * size : (i + 1) * size]) for i in range(PARTS)]}


def run_tempering(args: argparse.Namespace) -> dict[str, Any]:
    """One run by this library."""
    import tempfile

    from tempering.backbone import Backbone
    from tempering.contracts import Seeds
    from tempering.framings.masked_lm import MaskedLM
    from tempering.stages.setup import Surroundings
    from tempering.stages.train import Train
    from tempering.tasks.task import Split, Task
    from tempering.train import fit as loop

    losses: list[float] = []
    tokens = [0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text("\n".join(texts_of(args)), encoding="utf-8")
        stage = Train(
            framing=MaskedLM(max_length=args.length, packed=args.packed),
            text=str(path),
            learning_rate=5e-5,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            warmup_steps=0,
            eval_strategy="no",
        )
        backbone = Backbone.load(args.model, args.seed)
        whole = loop.Feed.micro

        def counted(feed: Any, step: int, split: int = 1) -> Any:
            batches = whole(feed, step, split)
            tokens[0] += sum(
                int(b.inputs["attention_mask"].sum() if "attention_mask" in b.inputs else b.inputs["input_ids"].numel()) for b in batches
            )
            return batches

        loop.Feed.micro = counted  # type: ignore[method-assign]  # this process ends with the run
        around = Surroundings(listener=lambda e: losses.append(e["loss"]) if e["event"] == "step" else None)
        start = time.perf_counter()
        stage.run(backbone, Task("text", "text", (), Split("train", ())), Seeds.of(args.seed), around=around)
        return told(losses, tokens[0], time.perf_counter() - start)


def pieces(args: argparse.Namespace, tokenizer: Any) -> list[list[int]]:
    """The texts in pieces of the wanted length, special tokens counted."""
    room = args.length - tokenizer.num_special_tokens_to_add()
    ids = tokenizer(texts_of(args), add_special_tokens=False, verbose=False)["input_ids"]
    first, last = tokenizer("")["input_ids"]
    return [[first, *row[i : i + room], last] for row in ids for i in range(0, len(row), room)]


def run_trainer(args: argparse.Namespace, grouped: bool) -> dict[str, Any]:
    """One run by transformers' Trainer."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForMaskedLM.from_pretrained(args.model)
    losses: list[float] = []
    tokens = [0]
    plain = transformers.DataCollatorForLanguageModeling(tokenizer)

    def collate(rows: list[Any]) -> Any:
        batch = plain(rows)
        tokens[0] += int(batch["attention_mask"].sum())
        return batch

    class Told(transformers.TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    start = time.perf_counter()
    rows = pieces(args, tokenizer)
    data = datasets.Dataset.from_dict({"input_ids": rows, "length": [len(row) for row in rows]})
    trainer = transformers.Trainer(
        model,
        trainer_settings(args, grouped, steps=args.steps, logging_steps=1),
        collate,
        data,
        processing_class=tokenizer,
        callbacks=[Told()],
    )
    trainer.train()
    return told(losses, tokens[0], time.perf_counter() - start)


def child(args: argparse.Namespace, way: str, seed: int) -> dict[str, Any]:
    """Run one way with one seed in a process of its own."""
    command = ["--child", way, "--seed", str(seed), *(["--packed"] if args.packed else [])]
    for name in ("model", "text", "rows", "steps", "length", "batch_size", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    found: dict[str, Any] = answer(__file__, command)
    return found


def show(args: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> None:
    """The table."""
    print(
        f"\n{Path(args.model).name}, {args.text.name}, rows of at most {args.length} tokens, {args.steps} steps of {args.batch_size} rows,"
        f" fp32, {args.threads} threads, {args.seeds} seeds"
    )
    for way in WAYS:
        rates = [r["tokens"] / r["seconds"] for r in runs[way]]
        curve = " ".join(f"{statistics.mean(r['curve'][i] for r in runs[way]):.3f}" for i in range(PARTS))
        print(f"{way:16s} real tokens a second {interval(rates, LEVEL)}, loss by quarter {curve}")
    for other in WAYS[:2]:
        pairs = list(zip(runs[other], runs["tempering"], strict=True))
        ratio = [(b["tokens"] / b["seconds"]) / (a["tokens"] / a["seconds"]) for a, b in pairs]
        print(f"tempering against {other}: {interval(ratio, LEVEL)} times the tokens a second")
        for i in range(PARTS):
            print(f"  loss in quarter {i + 1}: difference {interval([b['curve'][i] - a['curve'][i] for a, b in pairs], LEVEL)}")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--model", default=str(SHARED / "models" / "minilm-mlm"))
    parser.add_argument("--text", type=Path, default=SHARED / "data" / "unlabelled" / "imdb_reviews.txt")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--packed", action="store_true", help="Tempering fills its rows with several texts")
    parser.add_argument("--child", choices=WAYS)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(run_tempering(args) if args.child == "tempering" else run_trainer(args, args.child == "trainer-grouped")))
        return
    show(args, in_turn(args, WAYS, child, lambda found: f"{found['tokens'] / found['seconds']:,.0f} tokens/s"))


if __name__ == "__main__":
    main()
