"""What the rows of a task settled is part of what is saved: a folder has no rows that would settle it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.framings.cloze import Cloze
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.in_context import InContext
from tempering.framings.text_to_text import TextToText
from tempering.framings.verbalizers.auto_words import AutoWords
from tempering.stages.train import Train
from tempering.tasks import Task
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import save_tiny, tiny_examples

WORDS = {"bad": "bad", "good": "good"}


@pytest.mark.parametrize(
    ("family", "framing"),
    [
        ("bert", Cloze(words=WORDS)),
        ("bert", Cloze(verbalizer=AutoWords(k=4, n=4))),
        ("bert", Demonstrations(Cloze(words=WORDS), contexts=1)),
        ("gpt2", Cloze(words=WORDS)),
        ("gpt2", InContext(shots=1)),
        ("gpt2", TextToText()),
    ],
)
def test_a_pair_is_read_the_same_way_after_a_reload(family: str, framing: Any, tmp_path: Path) -> None:
    if family == "bert":
        save_masked_lm("bert", tmp_path / "base")
    else:
        save_tiny(family, tmp_path / "base")
    rows = [Example((e.texts[0], "it was very good"), e.label, e.row) for e in tiny_examples(12)]
    task = Task.from_examples(rows, rows[:4])
    stage = Train(framing=framing, max_steps=2, eval_strategy="no", learning_rate=1e-3)
    learner = stage.run(Backbone.load(str(tmp_path / "base")), task, Seeds.of(0))
    learner.save_pretrained(tmp_path / "model")
    back = tempering.load(tmp_path / "model")
    dev = task.dev.examples  # type: ignore[union-attr]
    assert [p.probabilities for p in back.predictions(dev)] == [p.probabilities for p in learner.predictions(dev)]
    turned = [Example(e.texts[::-1], e.label, e.row) for e in dev]
    assert [p.probabilities for p in back.predictions(turned)] != [p.probabilities for p in back.predictions(dev)]
