"""One row for every registered method: what the laws run it with. A new method is one line here, and every law tests it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.stabilizers.layer_decay import LayerDecay
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.self_distillation import SelfDistillation
from tempering.stages.train import Train
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.together import Together
from tempering.tunings.top_layers import TopLayers


class Row(NamedTuple):
    """``live`` is tiny, differs from the defaults where the method has fields, and acts; ``neutral`` (stabilizers) changes nothing."""

    live: Any
    neutral: Any = None


TABLE: dict[str, dict[str, Row]] = {
    "framing": {
        "head": Row(Head(heads=2, pool="mean", layers=(-1, 0), combine="mean", dropout=0.2, max_length=16, truncation="tail")),
        "masked_lm": Row(MaskedLM(probability=0.3, max_length=16, whole_word=True, mask_share=0.7, random_share=0.2)),
    },
    "tuning": {
        "full": Row(Full(embeddings=False)),
        "frozen": Row(Frozen()),
        "top_layers": Row(TopLayers(k=2)),
        "bitfit": Row(BitFit()),
        "lora": Row(LoRA(r=2, lora_alpha=3.0, lora_dropout=0.1, target_modules=("query", "ffn_in"))),
        "houlsby": Row(Houlsby(m=4, init_std=1e-2, activation="relu", layer_norm=False)),
        "together": Row(Together((LoRA(r=2, lora_alpha=3.0), Houlsby(m=4, init_std=1e-2)))),
    },
    "stabilizer": {
        "layer_decay": Row(LayerDecay(0.5), LayerDecay(1.0)),
        "r_drop": Row(RDrop(0.7), RDrop(0.0)),
        "mixout": Row(Mixout(0.4), Mixout(0.0)),
        "self_distillation": Row(SelfDistillation(2.0, k=3), SelfDistillation(0.0, k=2)),
    },
    "stage": {
        "train": Row(
            Train(
                learning_rate=3e-5,
                head_learning_rate=1e-3,
                max_steps=7,
                warmup_steps=0.25,
                lr_scheduler_type="cosine",
                eval_strategy="steps",
                eval_steps=3,
                early_stopping_patience=2,
                metric_for_best_model="macro_f1",
                class_weights="balanced",
                bf16=False,
                tuning=LoRA(r=2),
                stabilizers=(RDrop(0.5), LayerDecay()),
            )
        ),
    },
}


def rows(kind: str) -> list[Any]:
    """Every row of a kind as a parameter of a test, under its method's name."""
    return [pytest.param(row, id=name) for name, row in TABLE[kind].items()]


def live(kind: str) -> dict[str, Any]:
    """Every method of a kind at its live setting."""
    return {name: row.live for name, row in TABLE[kind].items()}
