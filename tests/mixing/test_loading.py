"""Many saved tasks as one predictor: PEFT's format, deltas and whole bodies; composite heads; labels of every type; refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import tempering
from tempering.contracts import Example
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.mixing.learner import MixedLearner
from tempering.mixing.loading import load_many
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.tasks.task import Task
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.magnitude import MagnitudeMask
from tempering.tunings.prefix_tuning import PrefixTuning
from tests.tiny import save_tiny, tiny_examples, tiny_task

TUNINGS: dict[str, Any] = {
    "peft": LoRA(r=2),
    "peft-4": LoRA(r=4, target_modules="all-linear"),
    "delta": Houlsby(m=4),
    "prefix": PrefixTuning(p=2, m=None),
    "biases": BitFit(),
    "whole": Full(),
}
TEXTS = [e.texts[0] for e in tiny_examples(24, seed=9)]
LABELS: dict[str, tuple[Any, Any]] = {"peft": ("no", "yes"), "peft-4": (1, 0), "delta": (True, False), "prefix": (0.5, 2.5)}


def save(base: Path, folder: Path, tuning: Any, labels: tuple[Any, Any] = ("bad", "good"), steps: int = 3) -> Path:
    rows = [Example(e.texts, labels[e.label == "good"], e.row) for e in tiny_task(16).train]
    stage = Train(tuning=tuning, framing=Head(), max_steps=steps, learning_rate=1e-2, per_device_train_batch_size=8)
    path: Path = fit(Recipe("test", (stage,)), Task.from_examples(rows, kind="classification"), str(base)).save_pretrained(folder)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tasks over one tiny RoBERTa, whose own head has a dense layer."""
    folder = tmp_path_factory.mktemp("tasks")
    base = save_tiny("roberta", folder / "base")
    return {name: save(base, folder / name, tuning, LABELS.get(name, ("bad", "good"))) for name, tuning in TUNINGS.items()}


@pytest.fixture(scope="module")
def many(saved: dict[str, Path]) -> MixedLearner:
    return load_many(list(saved.values()))


def test_one_predictor_answers_as_every_task_alone(many: MixedLearner, saved: dict[str, Path]) -> None:
    names = [list(saved)[i % len(saved)] for i in range(len(TEXTS))]
    found, chances = many.predict(TEXTS, names, batch_size=7), many.predict_proba(TEXTS, names)
    for name, path in saved.items():
        rows = [i for i, other in enumerate(names) if other == name]
        alone = tempering.load(path)
        texts = [TEXTS[i] for i in rows]
        for i, label, expected in zip(rows, alone.predict(texts), alone.predict_proba(texts), strict=True):
            assert found[i] == label and type(found[i]) is type(LABELS.get(name, ("bad",))[0])
            assert chances[i] == pytest.approx(expected, abs=1e-5)


def test_all_but_the_whole_body_share_the_pass(many: MixedLearner) -> None:
    assert many.names == list(TUNINGS) and list(many.apart) == ["whole"]
    assert many["peft"].framing.dense is not None  # the family's own head: dense layer, activation, final map


def test_why_a_task_runs_apart_is_said(many: MixedLearner, saved: dict[str, Path], tmp_path: Path) -> None:
    sparse = save(saved["peft"].parent / "base", tmp_path / "sparse", MagnitudeMask(density=0.01), steps=1)
    why = load_many([saved["peft"], sparse]).apart
    assert why == {"sparse": "it changes embeddings.word_embeddings.weight itself, which the rows of all tasks share"}
    assert many.apart["whole"].endswith("is a matrix of its own")


def test_one_name_serves_all_texts(many: MixedLearner, saved: dict[str, Path]) -> None:
    assert many.predict(TEXTS, "peft") == tempering.load(saved["peft"]).predict(TEXTS)


def test_loaded_tasks_are_saved_again_as_they_were(many: MixedLearner, saved: dict[str, Path], tmp_path: Path) -> None:
    for name, path in many.save_pretrained(tmp_path).items():
        assert tempering.load(path).predict_proba(TEXTS) == tempering.load(saved[name]).predict_proba(TEXTS)


def test_names_may_be_given(saved: dict[str, Path]) -> None:
    mixed = load_many({"a": saved["biases"], "b": saved["peft"]})  # the first holds a whole body: its base is found by name
    assert mixed.names == ["a", "b"] and mixed.apart == {}


def test_another_base_is_refused_by_name(saved: dict[str, Path], tmp_path: Path) -> None:
    base = save_tiny("roberta", tmp_path / "other-base", seed=1)
    other = save(base, tmp_path / "other", LoRA(r=2))
    with pytest.raises(ModelError, match=r"other was trained on .*other-base.* and .*peft on .* share one base model"):
        load_many([saved["peft"], other])


@pytest.mark.parametrize(
    ("tuning", "message"),
    [(Frozen(), "holds a whole body, and .* put the original base"), (BitFit(), "was trained on another .* original base")],
)
def test_a_base_that_is_gone_is_named(tuning: Any, message: str, tmp_path: Path) -> None:
    base = save_tiny("roberta", tmp_path / "base")
    folder = save(base, tmp_path / "task", tuning)
    shutil.rmtree(base)
    save_tiny("roberta", base, seed=1)
    with pytest.raises(ModelError, match=message):
        load_many([folder])


@pytest.mark.parametrize(
    ("folders", "message"),
    [([], "there is no folder"), ("one", r'load_many\(\["one"\]\)'), (["a/x", "b/x"], "two folders are called x; give names of your own")],
)
def test_wrong_requests_are_named(folders: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_many(folders)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_peft_itself_cannot_mix_composite_heads(saved: dict[str, Path], many: MixedLearner) -> None:
    """What this room is for: the same two folders in PEFT's own mixed batch. Skipped should PEFT learn it."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(saved["peft"].parent / "base", num_labels=2)
    model = peft.PeftModel.from_pretrained(base, str(saved["peft"]), adapter_name="a")
    model.load_adapter(str(saved["peft-4"]), adapter_name="b")
    inputs = many["peft"].backbone.tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    refused = ""
    with torch.no_grad():
        try:
            model.eval()(**inputs, adapter_names=["a", "b"])
        except TypeError as error:
            refused = str(error)
    if not refused:
        pytest.skip("this PEFT mixes composite heads")
    assert refused.startswith("Mixed batching is only supported for")
    with pytest.raises(ValueError, match="training"):
        model.train()(**inputs, adapter_names=["a", "b"])
    assert len(many.predict(TEXTS[:2], ["peft", "peft-4"])) == 2
