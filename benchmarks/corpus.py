"""A corpus larger than memory: tokenizing speed and resident memory of every process that takes part.

    python benchmarks/corpus.py [--text ../shared/data/unlabelled/books.txt] [--megabytes 200] [--processes N] [--steps 20]

The text is repeated until it has the size asked for and tokenized in a process of its own into a memory-mapped file; then a few steps of
masked language modeling read rows from all over it. Printed: MB/s and tokens/s, the peak resident memory of the process that writes,
of its workers together, the sum of these two peaks (more than there ever was at one moment, and pages that processes share count in each),
that of the one that trains, and how long a later run takes to find the file.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[1] / ".." / "shared"


def repeated(source: Path, target: Path, megabytes: int) -> None:
    """Write ``target``: the text of ``source`` over and over, each copy's lines marked so that no two are alike."""
    lines = [line for line in source.read_text(encoding="utf-8").split("\n") if line.strip()]
    size, copy = 0, 0
    with target.open("w", encoding="utf-8") as file:
        while size < megabytes * 1_000_000:
            for line in lines:
                size += file.write(f"{line} ({copy})\n")
                if size >= megabytes * 1_000_000:
                    break
            copy += 1


def resident(pids: list[int]) -> int:
    """Bytes that the processes have in memory now."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except OSError:
            continue
    return total


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started."""
    try:
        return [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except OSError:
        return []


def watched(command: list[str]) -> tuple[dict[str, Any], int, int]:
    """(what the command printed last, as JSON; its peak resident bytes; those of its children together)."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks, running = [0, 0], True

    def watch() -> None:
        while running:
            peaks[0] = max(peaks[0], resident([process.pid]))
            peaks[1] = max(peaks[1], resident(children(process.pid)))
            time.sleep(0.1)

    thread = threading.Thread(target=watch)
    thread.start()
    out, _ = process.communicate()
    running = False
    thread.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return json.loads(out.splitlines()[-1]), peaks[0], peaks[1]


def tokenize(args: argparse.Namespace) -> dict[str, Any]:
    """Tokenize, then find the file again."""
    from tempering.corpora.sources import Source
    from tempering.corpora.tokenizing import open_tokens
    from tempering.pretrained import tokenizer_of

    tokenizer, source = tokenizer_of(args.model), Source(str(args.text))
    start = time.perf_counter()
    tokens = open_tokens(source, tokenizer, folder=args.folder, processes=args.processes)
    first = time.perf_counter() - start
    start = time.perf_counter()
    open_tokens(source, tokenizer, folder=args.folder)
    again = time.perf_counter() - start
    return {"seconds": first, "again": again, "tokens": len(tokens.ids), "documents": len(tokens), "bytes": source.size}


def train(args: argparse.Namespace) -> dict[str, Any]:
    """A few steps on rows from all over the corpus."""
    import os

    os.environ["TEMPERING_CACHE"] = str(args.folder.parent)
    from tempering.backbone import Backbone
    from tempering.contracts import Seeds
    from tempering.framings.masked_lm import MaskedLM
    from tempering.stages.train import Train
    from tempering.tasks.task import Split, Task

    framing = MaskedLM(max_length=128, packed=True)
    stage = Train(framing=framing, text=str(args.text), max_steps=args.steps, eval_strategy="no", per_device_train_batch_size=8)
    start = time.perf_counter()
    learner = stage.run(Backbone.load(args.model), Task("text", "text", (), Split("train", ())), Seeds.of(0))
    return {"seconds": time.perf_counter() - start, "rows": learner.record["stage"]["rows"]}


def tokenized(found: dict[str, Any], parent: int, workers: int) -> str:
    """What `tokenize` found, and the peak resident bytes of the process and of its workers, in lines."""
    size, seconds = found["bytes"] / 1e6, found["seconds"]
    peaks = f"{parent / 1e6:.0f} MB, workers together {workers / 1e6:.0f} MB, sum {(parent + workers) / 1e6:.0f} MB"
    return "\n".join(
        [
            f"{size:.0f} MB, {found['documents']:,} documents, {found['tokens']:,} tokens",
            f"tokenized in {seconds:.1f} s: {size / seconds:.2f} MB/s, {found['tokens'] / seconds:,.0f} tokens/s",
            f"peak resident memory: {peaks}; found again in {found['again']:.1f} s",
        ]
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--text", type=Path, default=SHARED / "data" / "unlabelled" / "books.txt")
    parser.add_argument("--model", default=str(SHARED / "models" / "minilm-mlm"))
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--child", choices=("tokenize", "train"))
    args = parser.parse_args()
    if args.child:
        print(json.dumps(tokenize(args) if args.child == "tokenize" else train(args)))
        return
    work = Path(tempfile.mkdtemp())
    try:
        text = work / "corpus.txt"
        repeated(args.text, text, args.megabytes)
        common = [sys.executable, __file__, "--text", str(text), "--model", args.model, "--folder", str(work / "corpora")]
        common += ["--steps", str(args.steps), *(["--processes", str(args.processes)] if args.processes else [])]
        print(tokenized(*watched([*common, "--child", "tokenize"])))
        run, peak, _ = watched([*common, "--child", "train"])
        print(f"{args.steps} steps on {run['rows']:,} packed rows in {run['seconds']:.1f} s; peak resident memory {peak / 1e6:.0f} MB")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
