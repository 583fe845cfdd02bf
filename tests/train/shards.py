"""Runs of `tests.train.test_sharded_processes`: alone, or started by ``accelerate launch --use_fsdp`` with weights in shards.

python -m tests.train.shards FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from tempering.backbone import Backbone
from tempering.fitting import fit
from tempering.framings import causal_lm
from tempering.framings.causal_lm import CausalLM
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stages import train as stage_module
from tempering.stages.train import Train
from tempering.train import fit as loop
from tempering.train.progress import Event, first_process
from tests.tiny import tiny_backbone, tiny_task
from tests.train.together import LOOP, corpus, still

SMALL = LOOP | {"max_steps": 3, "save_strategy": "no"}
SAVED = LOOP | {"learning_rate": 3e-3}
HELD = 2_000  # logits at once: ten rows of the tiny vocabulary
DROPOUT = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "classifier_dropout_prob", "summary_first_dropout"),
    *("dropout", "dropout_rate"),
)
STOPPED = 4  # the step after whose checkpoint an interrupted run ends

HEADS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"tuning": {"lora": {"r": 2, "loraplus_lr_ratio": 4.0}}},
    "houlsby": {"tuning": {"houlsby": {"m": 4}}},
    "pfeiffer": {"tuning": "pfeiffer"},
    "parallel": {"tuning": {"parallel": {"s": "learned"}}},
    "bitfit": {"tuning": "bitfit"},
    "ia3": {"tuning": "ia3"},
    "one-row": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3},
    "recompute": {"gradient_checkpointing": True},
    "uncorrected": {"adam_bias_correction": False, "class_weights": "balanced", "learning_rate": 1e-3},
    "r-drop": {"stabilizers": ["r_drop"]},
    "rates": {"stabilizers": ["layer_decay", "gradual_unfreezing", {"re_init": {"k": 1}}]},
    "patience": {"eval_steps": 1, "early_stopping_patience": 1, "learning_rate": 0.03},
}
KINDS = {"value": "regression", "labels": "multilabel", "tags": "tagging", "answers": "question_answering"}
FAMILIES = {"albert": "albert", "gpt2": "gpt2", "t5": "t5", "deberta": "deberta-v2", "modernbert": "modernbert"}
CORPUS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "masked": ("bert", MaskedLM(0.2), {}),
    "masked-lora": ("roberta", MaskedLM(0.2), {"tuning": "lora"}),
    "packed": ("bert", MaskedLM(0.2, packed=True, masking="span"), {}),
    "causal": ("gpt2", CausalLM(), {}),
    "causal-chunks": ("llama", CausalLM(), {}),
    "causal-recompute": ("gpt2", CausalLM(packed=True), {"gradient_checkpointing": True}),
}
CASES = (*HEADS, *KINDS, *FAMILIES, *CORPUS, "chain", "by-name")


def stages(case: str, folder: Path) -> tuple[tuple[Train, ...], str, str]:
    """The stages of a case, the kind of its task, and the family of its model."""
    if case in CORPUS:
        family, framing, more = CORPUS[case]
        return (Train(text=corpus(folder.parents[1]), framing=framing, **SMALL | more),), "classification", family
    if case == "chain":
        first = Train(text=corpus(folder.parents[1]), framing=MaskedLM(0.2), **SMALL)
        return (first, Train(framing=Head(layers=(-2, -1)), tuning="lora", **SMALL)), "classification", "bert"
    if case.startswith("from-"):
        return (Train(text=corpus(folder.parents[1]), framing=MaskedLM(0.2), **SAVED),), "classification", "bert"
    calm = {"learning_rate": 1e-3} if case in KINDS else {}
    return (Train(**SMALL | calm | HEADS.get(case, {})),), KINDS.get(case, "classification"), FAMILIES.get(case, "bert")


@contextmanager
def spied(found: dict[str, Any]) -> Iterator[None]:
    """While open, which share of all numbers this process holds, of weights and of what the optimizer keeps, goes to ``found``."""

    def fitted(learner: Learner, *given: Any) -> Any:
        weights = list(learner.parameters())
        held = sum(w.to_local().numel() if learner.sharded else w.numel() for w in weights)  # type: ignore[attr-defined]
        found["held"] = [*found.get("held", []), held / sum(w.numel() for w in weights)]
        return loop.fit(learner, *given)

    with mock.patch.object(stage_module, "fit", fitted):
        yield


def saved(backbone: Backbone, folder: Path) -> Backbone:
    """The same model, read from a folder that the first process writes: transformers writes nothing in the others."""
    ready = folder / "ready"
    if first_process():
        backbone.model.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)
        ready.touch()
    while not ready.exists():
        time.sleep(0.05)
    return Backbone.load(str(folder))


class Interrupted(Exception):
    """The run was to end here."""


@contextmanager
def interrupted(step: int = STOPPED) -> Iterator[None]:
    """While open, a run ends after the checkpoint of ``step``, in every process."""
    save = loop._save

    def stop(plan: Any, where: Any, kept: Any, optim: Any, folded: Any, run: Any, *given: Any) -> None:
        save(plan, where, kept, optim, folded, run, *given)
        if run.step == step:
            raise Interrupted

    with mock.patch.object(loop, "_save", stop):
        yield


def run(case: str, folder: Path, stop: bool = False) -> dict[str, Any]:
    """What a case tells: every loss, every evaluation, and what the learner predicts and weighs in the end."""
    told: list[Event] = []
    found: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    given, kind, family = stages(case, folder)
    backbone = tiny_backbone(family)
    still(backbone)  # type: ignore[arg-type]
    for owner in (backbone.config, *backbone.modules()):
        for name in DROPOUT:
            if isinstance(getattr(owner, name, None), float):
                setattr(owner, name, 0.0)
    if case == "by-name":  # transformers would leave the weights out of the second process
        backbone = saved(backbone, folder / "model")
    chunks = mock.patch.object(causal_lm.log_likelihoods, "__defaults__", (HELD,)) if case == "causal-chunks" else nullcontext()
    task = tiny_task(40, kind)
    try:
        with chunks, spied(found), interrupted() if stop else nullcontext():
            learner = fit(Recipe(case, given), task, backbone, output_dir=folder / "out", listener=told.append, resume=True)
            found["sharded"] = learner.sharded
            found["metrics"], found["stage"] = learner.record["metrics"], learner.record["stage"]
            found["weights"] = {n: float(w.detach().double().norm()) for n, w in learner.kept().items()}
            if given[-1].framing.supervised:
                found["chances"] = [list(map(float, dict(p.probabilities).values())) for p in learner.predictions(task.dev.examples)]
    except Interrupted:
        found["stopped"] = True
    found["steps"] = [[e["step"], e["loss"]] for e in told if e["event"] == "step"]
    found["seen"] = [[e["step"], e["metrics"]] for e in told if e["event"] == "evaluate"]
    found["resumed"] = [e["text"] for e in told if e["event"] == "note" and "resumed" in e["text"]]
    return found


def main(folder: Path, cases: list[str]) -> None:
    """Run the cases and leave what happened in ``folder``."""
    found = {}
    for case in cases or [*CASES, "from-one", "from-shards"]:
        begun = time.perf_counter()
        found[case] = run(case, folder / case, stop=case == "from-shards")
        found[case]["seconds"] = time.perf_counter() - begun
    (folder / ("first.json" if first_process() else "second.json")).write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
