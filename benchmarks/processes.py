"""What the benchmarks share: runs in processes of their own, in turn, the other side's settings, and the interval of a mean."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def answer(script: str, words: Sequence[str], settings: Mapping[str, str] | None = None) -> Any:
    """The last line that ``script`` prints, as JSON; what goes wrong there ends this process too. ``settings`` of the environment."""
    command, environment = [sys.executable, script, *words], os.environ | dict(settings or {})
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if found.returncode:
        sys.exit(found.stderr)
    return json.loads(found.stdout.splitlines()[-1])


def in_turn(
    args: argparse.Namespace, ways: Sequence[str], child: Callable[[argparse.Namespace, str, int], Any], said: Callable[[Any], str]
) -> dict[str, list[Any]]:
    """Every way once for every seed, the ways in turn, so that pairs of runs lie close together; each tells how it went."""
    runs: dict[str, list[Any]] = {way: [] for way in ways}
    for seed in range(args.seeds):
        for way in ways:
            runs[way].append(child(args, way, seed))
            print(f"seed {seed} {way}: {runs[way][-1]['seconds']:.1f} s, {said(runs[way][-1])}", flush=True)
    return runs


def interval(values: Sequence[float], confidence: float) -> str:
    """Mean with Student's t interval."""
    from scipy import stats

    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"


def trainer_settings(args: argparse.Namespace, grouped: bool, *, epochs: float = 1.0, steps: int = -1, logging_steps: int = 500) -> Any:
    """Settings of transformers' Trainer: its defaults but for what both sides share. ``steps`` above 0 take the place of ``epochs``."""
    import transformers

    return transformers.TrainingArguments(
        output_dir="/tmp/tempering-benchmark",
        learning_rate=5e-5,
        num_train_epochs=epochs,
        max_steps=steps,
        per_device_train_batch_size=args.batch_size,
        save_strategy="no",
        logging_steps=logging_steps,
        report_to="none",
        disable_tqdm=True,
        seed=args.seed,
        train_sampling_strategy="group_by_length" if grouped else "random",
        use_cpu=True,
    )
