"""A run that `tests.train.test_processes` starts once alone and once in two processes: what every step and evaluation said, as JSON.

python -m tests.train.together CASE FOLDER
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from torch import nn

from tempering.errors import CollapseError
from tempering.fitting import fit
from tempering.framings.masked_lm import MaskedLM
from tempering.learner import Learner
from tempering.recipe import Recipe
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
    if not path.exists():
        path.write_text("\n".join(" ".join(rng.choices(WORDS + POSITIVE, k=rng.randint(3, 120))) for _ in range(80)))
    return str(path)


def stages(case: str, folder: Path) -> tuple[Train, ...]:
    """The stages of a case."""
    text = {"text": corpus(folder), "framing": MaskedLM(0.2)}
    packed = text | {"framing": MaskedLM(0.2, packed=True, masking="span")}
    return {
        "full": (Train(**LOOP),),
        "masked": (Train(**text, **LOOP),),
        "packed": (Train(**packed, **LOOP),),
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
    backbone = tiny_backbone()
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
