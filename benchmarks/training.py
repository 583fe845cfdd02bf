"""Full fine-tuning speed against transformers' Trainer: same model, rows, batch size, epochs, precision, threads.

    python benchmarks/training.py [--data ../shared/data] [--seeds 5] [--rows N] [--epochs 1] [--batch-size 16]

Three ways in turn for every seed, each in a process of its own: Trainer at its defaults, Trainer with length grouping, Tempering.
Seconds hold tokenizing and training, not imports, loading or evaluation. Printed: examples a second, the ratios pair by pair, peak
memory, dev accuracy with the 90 % interval of the paired difference, and useful GFLOP/s (6 x non-embedding weights x real tokens)
beside what a large matrix product reaches on this machine in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from processes import answer, in_turn, trainer_settings

WAYS = ("trainer", "trainer-grouped", "tempering")


def rows_of(path: Path, limit: int | None) -> list[dict[str, Any]]:
    """Rows of one JSONL split."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return rows[:limit] if limit else rows


def run_tempering(args: argparse.Namespace) -> dict[str, float]:
    """One run by this library."""
    from tempering.backbone import Backbone
    from tempering.contracts import Seeds
    from tempering.fitting import evaluate
    from tempering.peak import peak_bytes, reset_peak
    from tempering.stages.train import Train
    from tempering.tasks import Task

    task = Task.from_file(args.data / "sst2" / "train.jsonl", dev=args.data / "sst2" / "dev.jsonl")
    task = task.with_train(range(args.rows)) if args.rows else task
    seeds = Seeds.of(args.seed)
    backbone = Backbone.load("minilm", seeds.init)
    stage = Train(
        learning_rate=5e-5, num_train_epochs=args.epochs, per_device_train_batch_size=args.batch_size, warmup_steps=0, eval_strategy="no"
    )
    reset_peak()
    start = time.perf_counter()
    learner = stage.run(backbone, task, seeds)
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    return {"seconds": seconds, "accuracy": evaluate(learner, task)["dev"]["accuracy"], "peak": peak, "rows": len(task.train) * args.epochs}


def run_trainer(args: argparse.Namespace, grouped: bool) -> dict[str, float]:
    """One run by transformers' Trainer."""
    import datasets
    import transformers

    from tempering.peak import peak_bytes, reset_peak
    from tempering.pretrained import locate

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    transformers.set_seed(args.seed)
    where = locate("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(where, num_labels=2)
    splits = {s: rows_of(args.data / "sst2" / f"{s}.jsonl", args.rows if s == "train" else None) for s in ("train", "dev")}

    def encode(rows: list[dict[str, Any]]) -> Any:
        found = dict(tokenizer([r["text"] for r in rows], truncation=True, max_length=512))
        found["labels"] = [int(r["label"] == "positive") for r in rows]
        found["length"] = [len(ids) for ids in found["input_ids"]]
        return datasets.Dataset.from_dict(found)

    reset_peak()
    start = time.perf_counter()
    train = encode(splits["train"])
    trainer = transformers.Trainer(
        model, trainer_settings(args, grouped, epochs=args.epochs), train_dataset=train, processing_class=tokenizer
    )
    trainer.train()
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    found = trainer.predict(encode(splits["dev"]))  # with length grouping in an order of its own: its labels go with it
    right = found.predictions.argmax(-1) == found.label_ids
    return {"seconds": seconds, "accuracy": float(right.mean()), "peak": peak, "rows": len(train) * args.epochs}


def matmul_rate() -> float:
    """GFLOP/s of a 2048 x 2048 product in fp32."""
    import torch

    a = torch.randn(2048, 2048)
    best = 1e9
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


def useful_flops(args: argparse.Namespace) -> float:
    """6 x weights that multiply x real tokens of one run."""
    from tempering.backbone import Backbone

    backbone = Backbone.load("minilm")
    weights = sum(p.numel() for n, p in backbone.model.named_parameters() if p.ndim == 2 and "embeddings" not in n)
    rows = rows_of(args.data / "sst2" / "train.jsonl", args.rows)
    tokens = sum(len(ids) for ids in backbone.tokenizer([r["text"] for r in rows])["input_ids"])
    return 6.0 * weights * tokens * args.epochs


def child(args: argparse.Namespace, way: str, seed: int) -> dict[str, float]:
    """Run one way with one seed in a process of its own."""
    command = ["--child", way, "--seed", str(seed), "--data", str(args.data), "--epochs", str(args.epochs)]
    command += ["--batch-size", str(args.batch_size), "--threads", str(args.threads), *(["--rows", str(args.rows)] if args.rows else [])]
    found: dict[str, float] = answer(__file__, command)
    return found


def spread(values: list[float]) -> str:
    """Median with minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def show(args: argparse.Namespace, runs: dict[str, list[dict[str, float]]]) -> None:
    """The table."""
    from scipy import stats

    flops = useful_flops(args)
    peak_rate = matmul_rate()
    print(
        f"\nMiniLM, sst2, {int(runs['tempering'][0]['rows'])} examples,"
        f" batch {args.batch_size}, fp32, {args.threads} threads, {args.seeds} seeds"
    )
    for way in WAYS:
        rate = [r["rows"] / r["seconds"] for r in runs[way]]
        useful = [flops / r["seconds"] / 1e9 for r in runs[way]]
        peak, score = statistics.median(r["peak"] for r in runs[way]) / 1e6, [r["accuracy"] for r in runs[way]]
        print(
            f"{way:16s} examples/s {spread(rate)}  useful GFLOP/s {spread(useful)}"
            f"  peak {peak:.0f} MB  dev accuracy {statistics.mean(score):.4f}"
        )
    print(f"a 2048 x 2048 matrix product reaches {peak_rate:.0f} GFLOP/s")
    for other in WAYS[:2]:
        ratio = [a["seconds"] / b["seconds"] for a, b in zip(runs[other], runs["tempering"], strict=True)]
        gap = [100 * (b["accuracy"] - a["accuracy"]) for a, b in zip(runs[other], runs["tempering"], strict=True)]
        half = stats.t.ppf(0.95, len(gap) - 1) * statistics.stdev(gap) / len(gap) ** 0.5 if len(gap) > 1 else float("nan")
        mean = statistics.mean(gap)
        print(
            f"tempering against {other}: {spread(ratio)} times as fast;"
            f" dev accuracy {mean:+.2f} points, 90 % interval {mean - half:+.2f} to {mean + half:+.2f}"
        )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / ".." / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=WAYS)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(run_tempering(args) if args.child == "tempering" else run_trainer(args, args.child == "trainer-grouped")))
        return
    show(args, in_turn(args, WAYS, child, lambda found: f"dev accuracy {found['accuracy']:.4f}"))


if __name__ == "__main__":
    main()
