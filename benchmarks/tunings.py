"""Seconds a step and peak memory of tunings against PEFT's own, and merged against plain latency.

    python benchmarks/tunings.py [--model minilm] [--steps 20] [--rounds 5] [--rows 16] [--tokens 64] [--methods lora,dora,...] [--cpu-time]

Both sides run the same loop over the same random token rows: forward through body, pooler and a linear head, backward, AdamW step.
Every measurement is a process of its own; ours and PEFT's alternate which goes first, and ratios are taken pair by pair. A ratio below
1 means faster or smaller than PEFT. AdaLoRA counts its penalty and its budget on both sides. Both sides' processes are told not to give
freed memory back to the system between steps: whether a step has to ask for it again depends on the order of a few allocations, and once
moved ours by a tenth. ``--cpu-time`` counts seconds of the process on the CPU, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from processes import answer, interval

METHODS = ("lora", "dora", "pissa", "vera", "adalora", "ia3", "layer_norm", "prefix_tuning", "prompt_tuning")
VIRTUAL = 20
LEVEL = 0.95  # of the intervals, over pairs of runs
KEEPING = {"MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}  # of glibc; others do not read them
Step = Callable[[], None]


def ours_of(method: str, steps: int) -> Any:
    """Our tuning."""
    from tempering.registry import find

    fields: dict[str, dict[str, Any]] = {name: {"r": 8} for name in ("lora", "dora", "pissa")}
    fields |= {"vera": {"r": 256}, "adalora": {"lora_alpha": 16.0}}
    virtual = {"p": VIRTUAL} | ({"m": None} if method == "prefix_tuning" else {})  # PEFT has no network over the prefix by default
    return find("tuning", method)(**fields.get(method, virtual if method.endswith("_tuning") else {}))


def peft_of(method: str, steps: int) -> Any:
    """PEFT's configuration of the same size."""
    import peft

    shared: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    feed_forward = r".*encoder\.layer\.\d+\.output\.dense"
    made: dict[str, Callable[[], Any]] = {
        "lora": lambda: peft.LoraConfig(r=8, lora_alpha=16, **shared),
        "dora": lambda: peft.LoraConfig(r=8, lora_alpha=16, use_dora=True, **shared),
        "adalora": lambda: peft.AdaLoraConfig(init_r=12, target_r=8, lora_alpha=16, total_step=steps, **shared),
        "pissa": lambda: peft.LoraConfig(r=8, lora_alpha=16, init_lora_weights="pissa", **shared),
        "vera": lambda: peft.VeraConfig(r=256, **shared),
        "layer_norm": lambda: peft.LNTuningConfig(task_type="SEQ_CLS", target_modules=["LayerNorm"]),
        "ia3": lambda: peft.IA3Config(
            task_type="SEQ_CLS", target_modules=rf"(.*\.(key|value))|({feed_forward})", feedforward_modules=feed_forward
        ),
        "prefix_tuning": lambda: peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=VIRTUAL),
        "prompt_tuning": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=VIRTUAL),
    }
    return made[method]()


def rows_of(args: argparse.Namespace, vocabulary: int) -> tuple[dict[str, Any], Any]:
    """Random token rows and labels, the same in every process."""
    import torch

    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, vocabulary, (args.rows, args.tokens), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.randint(0, 2, (args.rows,), generator=draw)


def our_step(args: argparse.Namespace) -> Step:
    """One step of ours, with what the method does beside the pass."""
    import torch
    from torch import nn

    from tempering.backbone import Backbone
    from tempering.learner import Learner

    backbone, total = Backbone.load(args.model), 2 * args.steps
    tuning = ours_of(args.method, total)
    tuning.attach(backbone)
    head = nn.Linear(backbone.hidden_size, 2)
    learner = Learner(backbone, head, tuning)
    learner.steps = total
    trained = learner.trained()
    hooks = tuning.start(learner, trained, 0) if hasattr(tuning, "start") and not tuning.neutral else None
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4, fused=True)
    inputs, labels = rows_of(args, backbone.config.vocab_size)
    learner.train()

    def step() -> None:
        states = backbone.encode(inputs)
        pooled = states.pooled if states.pooled is not None else states.last[:, 0]
        loss = nn.functional.cross_entropy(head(pooled), labels)
        if hooks is not None and hooks.term is not None:
            loss = loss + hooks.term(None)  # type: ignore[arg-type]
        loss.backward()
        if hooks is not None and hooks.gradient is not None:
            for name, weight in trained.items():
                hooks.gradient(name, weight.grad)  # type: ignore[arg-type]
        optimizer.step()
        if hooks is not None and hooks.after_step is not None:
            hooks.after_step(trained)
        optimizer.zero_grad()

    return step


def peft_step(args: argparse.Namespace) -> Step:
    """One step of PEFT's method on transformers' own classifier."""
    import peft
    import torch
    import transformers

    from tempering.pretrained import locate

    total = 2 * args.steps
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(locate(args.model), num_labels=2)
    model = peft.get_peft_model(classifier, peft_of(args.method, total))
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-4, fused=True)
    inputs, labels = rows_of(args, classifier.config.vocab_size)
    model.train()
    made = [0]

    def step() -> None:
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        made[0] += 1
        if args.method == "adalora":
            model.base_model.update_and_allocate(made[0])
        optimizer.zero_grad()

    return step


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Median seconds a step and the peak of one side, after as many steps again to warm up as a tenth."""
    from tempering.peak import peak_bytes, reset_peak

    step = our_step(args) if args.child == "ours" else peft_step(args)
    for _ in range(max(2, args.steps // 10)):
        step()
    reset_peak()
    seconds, clock = [], time.process_time if args.cpu_time else time.perf_counter
    for _ in range(args.steps):
        start = clock()
        step()
        seconds.append(clock() - start)
    return {"seconds": statistics.median(seconds), "peak": float(peak_bytes())}


def child(args: argparse.Namespace, side: str, method: str) -> dict[str, float]:
    """One side of one method in a process of its own."""
    options = {name: getattr(args, name) for name in ("model", "steps", "rows", "tokens", "threads")}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--cpu-time"] if args.cpu_time else []
    found: dict[str, float] = answer(__file__, ["--child", side, "--method", method, *words], KEEPING)
    return found


def against_peft(args: argparse.Namespace) -> None:
    """The table of ratios."""
    print(
        f"{args.model}, {args.rows} rows of {args.tokens} tokens, fp32, {args.threads} threads, {args.rounds} rounds of {args.steps} steps"
    )
    for method in args.methods.split(","):
        found: dict[str, list[dict[str, float]]] = {"ours": [], "peft": []}
        for i in range(args.rounds):
            for side in ("ours", "peft") if i % 2 == 0 else ("peft", "ours"):
                found[side].append(child(args, side, method))
        pairs = list(zip(found["ours"], found["peft"], strict=True))
        ms = {side: 1e3 * statistics.median(r["seconds"] for r in runs) for side, runs in found.items()}
        mb = {side: statistics.median(r["peak"] for r in runs) / 1e6 for side, runs in found.items()}
        time_ratio, peak_ratio = (interval([a[key] / b[key] for a, b in pairs], LEVEL) for key in ("seconds", "peak"))
        print(
            f"{method:14s} ms a step: ours {ms['ours']:.1f}, peft {ms['peft']:.1f}, ratio {time_ratio};"
            f"  peak MB: ours {mb['ours']:.0f}, peft {mb['peft']:.0f}, ratio {peak_ratio}",
            flush=True,
        )


def latency(args: argparse.Namespace) -> None:
    """Forward seconds of a body with a merged change against the plain body, alternating within one process."""
    import torch

    from tempering.backbone import Backbone

    for method in ("lora", "ia3", "dora", "pissa", "vera", "adalora"):
        plain, merged, tuning = Backbone.load(args.model), Backbone.load(args.model), ours_of(method, 1)
        tuning.attach(merged)
        tuning.merge(merged)
        inputs, _ = rows_of(args, plain.config.vocab_size)
        ratios = []
        with torch.inference_mode():
            for i in range(args.steps + 3):
                taken = {}
                for name, body in (("plain", plain), ("merged", merged)) if i % 2 else (("merged", merged), ("plain", plain)):
                    start = time.perf_counter()
                    body.eval().encode(inputs)
                    taken[name] = time.perf_counter() - start
                ratios += [taken["merged"] / taken["plain"]] if i > 2 else []
        print(f"{method:14s} merged against plain, forward: {interval(ratios, LEVEL)}", flush=True)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--method", choices=METHODS)
    for name, number in (("steps", 20), ("rounds", 5), ("rows", 16), ("tokens", 64), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--child", choices=("ours", "peft"))
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.child:
        print(json.dumps(measure(args)))
        return
    against_peft(args)
    latency(args)


if __name__ == "__main__":
    main()
