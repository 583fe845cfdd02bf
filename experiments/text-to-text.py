"""Data to text with a small T5 that starts from nothing: does it learn to write, and what does decoding change?

    python experiments/text-to-text.py [--data ../shared/data/e2e_nlg_small] [--steps 3000] [--width 192] [--seed 0]

No pretrained text-to-text model is taken: a tokenizer of 2,000 pieces is made of the training rows, and a T5 of two layers a half is
drawn at random. It is trained on the training rows; greedy decoding, four beams, and words that must occur are then compared on the
test rows. All of it is one seed of one model: it says that the machinery works, not how good T5 is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from options import DATA, RUNS, basic

import tempering as tp
from tempering.fitting import fit
from tempering.framings.text_to_text import TextToText
from tempering.recipe import Recipe
from tempering.streams import torch_stream
from tempering.tasks import Task
from tempering.tasks.metrics import compute

PIECES = 2_000
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "parted beams": {"num_beams": 4, "sibling_penalty": 0.5},
    "no repeats": {"no_repeat_ngram_size": 4},
    "must say riverside": {"must_include": ("riverside",)},
}


def from_nothing(texts: list[str], folder: Path, width: int, seed: int) -> Path:
    """A random T5 with a tokenizer of its own, as a folder that loads like any pretrained model."""
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
    return folder


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
    return made.parse_args(words)


def main() -> None:
    """Train, write, compare."""
    args = parsed()
    files = {split: args.data / f"{split}.jsonl" for split in ("train", "dev", "test")}
    task = Task.from_file(files["train"], text="source", label="target", kind="text", dev=files["dev"], test=files["test"])
    rows = task.test.examples[: args.rows] if task.test else ()
    task = dataclasses.replace(task, dev=None, test=None)
    texts = [text for e in task.train for text in (*e.texts, str(e.label))]
    folder = from_nothing(texts, args.output / "from-nothing", args.width, args.seed)
    started = time.perf_counter()
    learner = fit(recipe(args.steps), task, str(folder), seed=args.seed, output_dir=args.output / "run")
    trained = time.perf_counter() - started
    found: dict[str, Any] = {"train_seconds": trained, "parameters": learner.record["total_parameters"], "steps": args.steps}
    for name, given in SETTINGS.items():
        learner.framing.framing = dataclasses.replace(learner.record["framing"], **given)
        started = time.perf_counter()
        said = [p.label for p in learner.predictions(rows)]
        seconds = time.perf_counter() - started
        found[name] = compute("text", (), [e.label for e in rows], said) | {"seconds": seconds}
        print(f"{name:20} " + "  ".join(f"{k} {v:.4f}" for k, v in found[name].items()), flush=True)
        print(f"{'':20} {rows[0].texts[0]} -> {said[0]}")
    (args.output / "result.json").write_text(json.dumps(found, indent=1))
    learner.save_pretrained(args.output / "model")


if __name__ == "__main__":
    main()
