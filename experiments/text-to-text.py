"""Data to text with a small T5 that starts from nothing: does it learn to write, and what does decoding change?

    python experiments/text-to-text.py [--data ../shared/data/e2e_nlg_small] [--steps 3000] [--width 192] [--seed 0]

No pretrained text-to-text model is taken: a tokenizer of 2,000 pieces is made of the training rows, and a T5 of two layers a half is
drawn at random. It is trained on the training rows; greedy decoding, four beams, and words that must occur are then compared on the
development rows and on test rows. The floor is the text of the training row that shares most statements of the source and, of those,
speaks of the same. "values said": the share of the values in a source that its text holds, letter by letter. All of it is one seed of
one model: it says that the machinery works, not how good T5 is. Training saves a checkpoint every few hundred steps; the same command
goes on from there, and writes with each finished decoding once. Nothing is chosen on the development rows; where the test rows speak of
what no training row names, as those of E2E do of other restaurants, they tell what a model from nothing cannot know.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import markdown
from options import DATA, RUNS, basic

import tempering as tp
from tempering.contracts import Example
from tempering.fitting import fit
from tempering.framings.text_to_text import TextToText
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.streams import torch_stream
from tempering.tasks import Task
from tempering.tasks.metrics import compute

PIECES = 2_000
SAVE_STEPS = 250
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "parted beams": {"num_beams": 4, "sibling_penalty": 0.5},
    "no repeats": {"no_repeat_ngram_size": 4},
    "must say riverside": {"must_include": ("riverside",)},
}


def from_nothing(texts: list[str], folder: Path, width: int, seed: int) -> Path:
    """A random T5 with a tokenizer of its own, as a folder that loads like any pretrained model; one that is there is taken as it is."""
    if folder.exists():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    draw(texts, part, width, seed)
    return part.rename(folder)


def draw(texts: list[str], folder: Path, width: int, seed: int) -> None:
    """Make the tokenizer of the texts, draw the model, write both."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    core = Tokenizer(models.Unigram())
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    core.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=PIECES, special_tokens=special, unk_token="<unk>"))
    core.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=128
    )
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=32, d_ff=4 * width, num_layers=2, num_heads=width // 32, dropout_rate=0.1
    )
    config.decoder_start_token_id = 0
    with torch_stream(seed, "from nothing"):
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def recipe(steps: int) -> Recipe:
    """The whole model at a rate for a start from nothing, watched by its loss alone."""
    stage = tp.Train(
        framing=TextToText(max_source_length=96, max_target_length=64),
        tuning=tp.Full(),
        learning_rate=1e-3,
        max_steps=steps,
        num_train_epochs=1,
        per_device_train_batch_size=32,
        warmup_steps=0.05,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        load_best_model_at_end=False,
    )
    return Recipe("text-to-text", (stage,), description="a small T5 from nothing")


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = basic(__doc__, DATA / "e2e_nlg_small")
    made.add_argument("--steps", type=int, default=3_000)
    made.add_argument("--width", type=int, default=192)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--rows", type=int, default=400, help="test rows that are written")
    made.add_argument("--output", type=Path, default=RUNS / "text-to-text")
    made.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".md"), help="where the Markdown goes")
    return made.parse_args(words)


def data(args: argparse.Namespace) -> Task:
    """Training, development and test rows."""
    files = {split: args.data / f"{split}.jsonl" for split in ("train", "dev", "test")}
    return Task.from_file(files["train"], text="source", label="target", kind="text", dev=files["dev"], test=files["test"])


def train(task: Task, args: argparse.Namespace) -> Learner:
    """The T5, trained; what was begun with the same size, seed and steps goes on, and what is finished is only read."""
    texts = [text for e in task.train for text in (*e.texts, str(e.label))]
    folder = from_nothing(texts, args.output / f"from-nothing-{args.width}-{args.seed}", args.width, args.seed)
    run = args.output / f"run-{args.steps}-{args.width}-{args.seed}"
    return fit(recipe(args.steps), dataclasses.replace(task, dev=None, test=None), str(folder), seed=args.seed, output_dir=run, resume=True)


def write(learner: Learner, name: str, rows: Sequence[Example]) -> dict[str, float]:
    """Scores of one way of decoding, and the seconds it took."""
    learner.framing.framing = dataclasses.replace(learner.record["framing"], **SETTINGS[name])
    started = time.perf_counter()
    said = [str(p.label) for p in learner.predictions(rows)]
    seconds = time.perf_counter() - started
    print(f"{'':20} {rows[0].texts[0]} -> {said[0]}")
    return scored(rows, said) | {"seconds": seconds}


def scored(rows: Sequence[Example], said: Sequence[str]) -> dict[str, float]:
    """The metrics of text, and the share of the sources' values that are said."""
    found = [value.casefold() in text.casefold() for e, text in zip(rows, said, strict=True) for value in values(e)]
    share = {"values said": sum(found) / len(found)} if found else {}
    return compute("text", (), [e.label for e in rows], list(said)) | share


def values(row: Example) -> set[str]:
    """What stands in brackets in the source: ``name[Blue Spice], area[riverside]``."""
    return set(re.findall(r"\[([^]]*)\]", row.texts[0])) or set(row.texts[0].split())


def nearest(task: Task, rows: Sequence[Example]) -> list[str]:
    """The texts of the training rows that share most statements with ``rows``, and of those speak of the same; the first of equals."""
    known = [(statements(e), kinds(statements(e)), str(e.label)) for e in task.train]
    asked = [(mine, kinds(mine)) for mine in map(statements, rows)]
    return [max(known, key=lambda one: (len(one[0] & mine), -len(one[1] ^ about)))[2] for mine, about in asked]


def kinds(said: set[str]) -> set[str]:
    """What statements are about: ``area``."""
    return {one.partition("[")[0] for one in said}


def statements(row: Example) -> set[str]:
    """``area[riverside]`` and the others of the source."""
    return set(re.split(r"(?<=\]), ", row.texts[0]))


def unseen(task: Task, rows: Sequence[Example]) -> int:
    """How many of ``rows`` hold a statement that no training row holds."""
    known = {one for e in task.train for one in statements(e)}
    return sum(not statements(e) <= known for e in rows)


def report(found: dict[str, Any], args: argparse.Namespace) -> str:
    """The tables."""
    parts = [
        "# Text to text from nothing",
        (
            f"Written by `python experiments/text-to-text.py`: a T5 of {found['parameters']:,} parameters that was drawn at random and"
            f" trained for {args.steps:,} steps of 32 rows on {args.data.name}; seed {args.seed}."
        ),
    ]
    for split in ("dev", "test"):
        names = list(next(iter(found[split].values())))
        rows = [[name, *(f"{one.get(metric, 0):.3f}" for metric in names)] for name, one in found[split].items()]
        count, strange = found["counts"][split], found["unseen"][split]
        parts += [f"## {split}, {count} rows", f"{strange} of them hold a statement of no training row.", markdown(["", *names], rows)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Train, write, compare."""
    args = parsed()
    task = data(args)
    assert task.dev is not None and task.test is not None
    judged = {"dev": task.dev.examples, "test": task.test.examples[: args.rows]}
    learner = train(task, args)
    asked = {name: getattr(args, name) for name in ("steps", "width", "seed", "rows")}
    path = args.output / "result.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    fresh = asked | {"parameters": learner.record["total_parameters"], "counts": {split: len(rows) for split, rows in judged.items()}}
    fresh["unseen"] = {split: unseen(task, rows) for split, rows in judged.items()}
    found = before if {name: before.get(name) for name in asked} == asked and "counts" in before else fresh
    for split, rows in judged.items():
        mine = found.setdefault(split, {"nearest training row": scored(rows, nearest(task, rows))})
        for name in SETTINGS:
            if name not in mine:
                mine[name] = write(learner, name, rows)
                path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    args.table.write_text(report(found, args), encoding="utf-8")
    print(report(found, args))
    learner.framing.framing = learner.record["framing"]
    learner.save_pretrained(args.output / "model")


if __name__ == "__main__":
    main()
