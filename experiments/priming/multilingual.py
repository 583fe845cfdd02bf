"""A small multilingual encoder made on the spot: a word-piece vocabulary and masked-language-model training on texts of all languages.

MiniLM read English only, so that its features of German or French say little; this one is weak, but equally weak in each language.
Texts that any language is judged by are left out of all of it. WikiANN repeats itself: of its 1,000 development and 2,500 test sentences
13 and 19 in English, 66 and 143 in German, 92 and 181 in French are training sentences, too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from cells import making

from tempering.corpora.worker import text_hash
from tempering.exporting import save_body
from tempering.fitting import fit
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.tasks.task import Task
from tempering.train.progress import Listener, silent

VOCABULARY, WIDTH, LAYERS, HEADS = 8000, 256, 4, 4


def texts_of(folders: Sequence[Path]) -> list[str]:
    """The training texts of data sets of tokens, words between spaces, but for those that are development or test texts of any of them."""
    judged = frozenset[int]().union(*(judged_by(folder) for folder in folders))
    return [text for folder in folders for text in map(text_of, lines(folder, "train")) if text_hash(text.lower()) not in judged]


def judged_by(folder: Path) -> frozenset[int]:
    """Hashes of the development and test texts of a data set, whatever their case."""
    return frozenset(text_hash(text_of(line).lower()) for split in ("dev", "test") for line in lines(folder, split))


def lines(folder: Path, split: str) -> list[str]:
    """The rows of a split, if it is there, as they stand in the file."""
    path = folder / f"{split}.jsonl"
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()] if path.exists() else []


def text_of(line: str) -> str:
    """The text of a row, words between spaces."""
    return " ".join(json.loads(line)["tokens"])


def untrained(texts: Sequence[str], folder: Path, seed: int = 0) -> Path:
    """A random model with a vocabulary of the ``texts``, written to ``folder``."""
    import transformers
    from tokenizers import BertWordPieceTokenizer

    pieces = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    pieces.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=2, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "pad", "cls", "sep", "mask")}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=128, **names)
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=128,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch_stream(seed, "multilingual"):
        transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def build(
    folders: Sequence[Path], target: Path, steps: int = 3000, seed: int = 0, listener: Listener = silent, bf16: bool | None = None
) -> Path:
    """The model in ``target``, trained for ``steps`` steps of 64 texts; one that is there is taken as it is."""
    with making(target) as wanted:
        if wanted:
            make(folders, target, steps, seed, listener, bf16)
    return target


def make(folders: Sequence[Path], target: Path, steps: int, seed: int, listener: Listener, bf16: bool | None) -> None:
    """Train the model and leave it in ``target``; it goes on where it was killed."""
    texts, part = texts_of(folders), target.with_name(f"{target.name}-part")
    start, corpus = target.with_name(f"{target.name}-untrained"), target.with_name(f"{target.name}.txt")
    if not start.exists():  # what a checkpoint goes on from must be the same model with the same vocabulary
        shutil.rmtree(part, ignore_errors=True)
        untrained(texts, part, seed).rename(start)
    corpus.write_text("\n".join(texts), encoding="utf-8")
    stage = Train(
        framing=MaskedLM(max_length=64),
        text=str(corpus),
        learning_rate=5e-4,
        max_steps=steps,
        per_device_train_batch_size=64,
        weight_decay=0.01,
        warmup_steps=0.06,
        save_strategy="steps",
        bf16=bf16,
    )
    recipe, work = Recipe("multilingual", (stage,)), target.with_name(f"{target.name}-run")
    learner = fit(recipe, Task.from_file(folders[0]), str(start), seed=seed, listener=listener, output_dir=work, resume=True)
    shutil.rmtree(part, ignore_errors=True)
    save_body(learner.backbone, part)
    part.rename(target)
    shutil.rmtree(work)
