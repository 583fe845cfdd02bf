"""A run that `tests.train.test_processes` starts once alone and once in two processes: what every step and evaluation said, as JSON.

python -m tests.train.together CASE FOLDER
"""

from __future__ import annotations

import json
import os
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from tempering.errors import CollapseError
from tempering.fitting import fit
from tempering.framings.causal_lm import CausalLM
from tempering.framings.cloze import Cloze
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.masked_lm import MaskedLM
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.train import Train
from tempering.train.progress import Event, first_process
from tempering.tunings.lora import LoRA
from tests.tiny import POSITIVE, WORDS, tiny_backbone, tiny_task

LOOP: dict[str, Any] = {
    "max_steps": 6,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 7,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "weight_decay": 0.1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
}


def corpus(folder: Path) -> str:
    """A file of texts."""
    rng, path = random.Random(0), folder / "corpus.txt"
    return put(path, [" ".join(rng.choices(WORDS + POSITIVE, k=rng.randint(3, 120))) for _ in range(80)])


def put(path: Path, lines: list[str]) -> str:
    """A file of ``lines``, written whole and once: the other process wants the same one at the same moment."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text("\n".join(lines))
    with suppress(FileExistsError):
        os.link(part, path)
    part.unlink()
    return str(path)


def tags(folder: Path) -> str:
    """A data set of tagged words, rows of unlike lengths."""
    rng, path = random.Random(1), folder / "tags"
    path.mkdir(exist_ok=True)
    for split, count in (("train", 30), ("dev", 8)):
        found = [rng.choices(WORDS + POSITIVE, k=rng.randint(1, 12)) for _ in range(count)]
        told = ({"tokens": words, "tags": ["B-GOOD" if word in POSITIVE else "O" for word in words]} for words in found)
        put(path / f"{split}.jsonl", [json.dumps(row) for row in told])
    return str(path)


def multi(folder: Path) -> MultiTask:
    """Rows, words and masks in one step: the user's own task, tags, and texts."""
    found = Path(corpus(folder)).read_text().split("\n")
    rows = [json.dumps({"text": text, "label": "ab"[i % 2]}) for i, text in enumerate(found)]
    texts = TaskSource(framing=MaskedLM(0.2), data=put(folder / "texts.jsonl", rows))
    return MultiTask(tasks=(TaskSource(name="own"), tags(folder), texts), sampling="uniform", **LOOP | {"gradient_accumulation_steps": 4})


def stages(case: str, folder: Path) -> tuple[Any, ...]:
    """The stages of a case."""
    text = {"text": corpus(folder), "framing": MaskedLM(0.2)}
    packed = text | {"framing": MaskedLM(0.2, packed=True, masking="span")}
    return {
        "full": (Train(**LOOP),),
        "masked": (Train(**text, **LOOP),),
        "packed": (Train(**packed, **LOOP),),
        "causal": (Train(**text | {"framing": CausalLM()}, **LOOP),),
        "multi": (multi(folder),),
        "demonstrations": (Train(framing=Demonstrations(Cloze("{text} it was {mask}", words=("bad", "good"))), **LOOP),),
        "chain": (Train(**text, **LOOP), Train(tuning=LoRA(r=2), **LOOP)),
        "collapse": (Train(**LOOP | {"learning_rate": 1e30, "max_grad_norm": 0, "max_steps": 20}),),
    }[case]


def still(learner: Learner) -> None:
    """Take dropout out: processes draw it on their own."""
    for module in learner.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def main(case: str, folder: Path) -> None:
    """Run the case and leave what happened in ``folder``."""
    told: list[Event] = []
    backbone = tiny_backbone("gpt2" if case == "causal" else "bert")
    still(backbone)  # type: ignore[arg-type]
    backbone.config.hidden_dropout_prob = backbone.config.attention_probs_dropout_prob = 0.0
    found: dict[str, Any] = {"error": ""}
    try:
        learner = fit(
            Recipe(case, stages(case, folder)), tiny_task(40), backbone, output_dir=folder / "out", listener=told.append, resume=True
        )
        found |= {"metrics": learner.record["metrics"], "stage": learner.record["stage"]["history"]}
    except CollapseError as error:
        found["error"] = str(error)
    found["steps"] = [[e["step"], e["loss"]] for e in told if e["event"] == "step"]
    found["seen"] = [[e["step"], e["metrics"]["loss"]] for e in told if e["event"] == "evaluate"]
    name = "first.json" if first_process() else "second.json"
    (folder / name).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
