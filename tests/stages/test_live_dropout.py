"""A method that compares what dropout tells apart says so where there is none: before a run, while it runs, and in its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.learner import Learner
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.neftune import NEFTune
from tempering.stabilizers.r_drop import RDrop
from tempering.stages.live_dropout import dropout_notes, drops
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.study.records import Record
from tempering.study.worker import _filled
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tests.laws.bench import SEEDS, losses, run, stage_of, untrained
from tests.tiny import save_tiny, tiny_backbone, tiny_task

DRY = Head(dropout=0.0)


def notes_of(stage: Train, family: str) -> list[str]:
    return dropout_notes(stage, untrained(stage, family))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_r_drop_on_a_model_without_dropout_is_told_to_change_nothing(family: str) -> None:
    (note,) = notes_of(stage_of(stabilizers=[RDrop()]), family)
    assert note.startswith("r_drop compares passes that dropout tells apart, and with tuning full") and f"({family})" in note
    assert notes_of(stage_of(), family) == notes_of(stage_of(stabilizers=[RDrop(0.0)]), family) == []


def test_it_is_so() -> None:
    """The second pass on a tiny Llama leaves every weight where one pass leaves it; with dropout in LoRA it does not."""
    plain, doubled = (run(stage_of(stabilizers=s), "llama") for s in ((), (RDrop(5.0),)))
    assert doubled.record["stage"]["passes"] == 2 * plain.record["stage"]["passes"]
    weights = plain.trained()
    assert all(torch.allclose(w, weights[name], atol=1e-6) for name, w in doubled.trained().items())
    assert losses(stage_of(stabilizers=[RDrop(5.0)])) != pytest.approx(losses(stage_of()), rel=1e-3)  # BERT has dropout


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2", "gpt2", "t5", "bart"])
def test_families_with_dropout_are_told_nothing(family: str) -> None:
    assert notes_of(stage_of(stabilizers=[RDrop()]), family) == []


@pytest.mark.parametrize(
    ("tuning", "others", "framing", "family"),
    [
        (LoRA(r=2, lora_dropout=0.1), (), None, "llama"),
        (Full(), (), Head(dropout=0.2), "llama"),
        (Full(), (NEFTune(),), None, "llama"),
        (Full(), (Mixout(),), None, "llama"),
        (Frozen(), (), None, "bert"),
    ],
)
def test_whatever_else_tells_passes_apart_is_seen(tuning: Any, others: tuple[Any, ...], framing: Any, family: str) -> None:
    assert notes_of(stage_of(tuning, [RDrop(), *others], framing), family) == []


def test_a_trunk_in_evaluation_mode_drops_nothing() -> None:
    (note,) = notes_of(stage_of(Frozen(), [RDrop()], DRY), "bert")
    assert "with tuning frozen" in note


def test_a_rate_that_is_only_a_number_counts_and_modes_stay_as_they_were() -> None:
    learner: Learner = untrained(stage_of(framing=DRY), "llama").eval()
    assert not drops(learner)
    learner.backbone.blocks[0].self_attn.attention_dropout = 0.1
    assert drops(learner) and not any(part.training for part in learner.modules())


def test_explain_the_listener_and_the_records_say_it(tmp_path: Path) -> None:
    model = str(save_tiny("llama", tmp_path / "llama"))
    recipe = Recipe.load("r-drop").override({"max_steps": 2, "min_steps": 0})
    (line,) = (line for line in explain(recipe, model, tiny_task(24)).lines() if line.startswith("note: r-drop"))
    assert line.startswith("note: r-drop: stages.0: r_drop compares passes")
    told: list[dict[str, Any]] = []
    learner = fit(recipe, tiny_task(24), model, listener=told.append)
    (note,) = (event["text"] for event in told if event["event"] == "note" and "dropout" in event["text"])
    assert line.endswith(note) and note in learner.record["notes"] and learner.record["stage"]["notes"] == [note]
    assert _filled(Record("r-drop", "k", "all", 24, 0), learner).notes == [note]
    assert "compares passes" not in "\n".join(explain("full", model).lines())


def test_a_stage_of_several_tasks_says_it_once(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps({"text": e.texts[0], "label": e.label}) + "\n" for e in tiny_task(24).train), encoding="utf-8")
    stage = MultiTask(tasks=(TaskSource(), TaskSource(str(path))), stabilizers=(RDrop(),), max_steps=1, eval_strategy="no")
    told: list[dict[str, Any]] = []
    learner = stage.run(tiny_backbone("llama"), tiny_task(24), SEEDS, around=Surroundings(listener=told.append))
    (note,) = (event["text"] for event in told if event["event"] == "note" and "dropout" in event["text"])
    assert learner.record["stage"]["notes"] == [note]
