"""A checkpoint that lacks weights which the head reads (a pooler, after pretraining on text): what is trained on it can be saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempering.backbone import Backbone
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.learner import Learner
from tempering.pretrained import quiet
from tempering.recipe import Recipe
from tempering.saving import load, loads_with
from tempering.stages.train import Train
from tempering.tunings.adalora import AdaLoRA
from tempering.tunings.dora import DoRA
from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tempering.tunings.peft_method import PEFT
from tempering.tunings.pissa import PiSSA
from tempering.tunings.vera import VeRA
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import save_tiny, tiny_task

QUICK: dict[str, Any] = {"max_steps": 2, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}
TEXTS = ["a good film", "the film was bad, very bad indeed"]
WORDS = {"bad": "bad", "good": "good"}


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT as it is after pretraining on masked text: without a pooler."""
    folder = tmp_path_factory.mktemp("models") / "lacking"
    save_masked_lm("bert", folder)
    return folder


def fitted(model: Path, *stages: Train) -> Learner:
    return fit(Recipe("test", stages), tiny_task(16), str(model), seed=3)


def comes_back(learner: Learner, folder: Path) -> list[str]:
    """Save and load again; the libraries that the folder is for."""
    expected = learner.predict_proba(TEXTS)
    learner.save_pretrained(folder)
    assert load(folder).predict_proba(TEXTS) == expected
    return loads_with(learner)


def of_peft(model: Path, folder: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(99)  # it draws a pooler of its own
        base = AutoModelForSequenceClassification.from_pretrained(str(model), num_labels=2)
        return PeftModel.from_pretrained(base, str(folder)).eval()


@pytest.mark.parametrize(
    "tuning",
    [
        LoRA(r=2),
        LoRA(r=2, modules_to_save=("pooler",)),
        DoRA(r=2),
        IA3(),
        PiSSA(r=2),
        VeRA(r=2),
        AdaLoRA(target_r=1, init_r=2),
        PEFT("loha"),
    ],
    ids=lambda tuning: type(tuning).__name__,
)
@torch.no_grad()
def test_an_adapter_brings_the_pooler_that_its_head_reads(tuning: Any, lacking: Path, tmp_path: Path) -> None:
    with torch.enable_grad():
        learner = fitted(lacking, Train(framing=Head(), tuning=tuning, **QUICK))
    assert comes_back(learner, tmp_path / "out") == ["peft", "tempering"]
    inputs = learner.backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
    theirs = of_peft(lacking, tmp_path / "out")(**inputs).logits.softmax(-1)
    mine = torch.tensor([[row[label] for label in learner.framing.labels] for row in learner.predict_proba(TEXTS)])
    torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=1e-4)


def test_a_pooler_that_the_checkpoint_holds_is_not_copied(tmp_path: Path) -> None:
    learner = fitted(save_tiny("bert", tmp_path / "whole"), Train(framing=Head(), tuning=LoRA(r=2), **QUICK))
    assert comes_back(learner, tmp_path / "out") == ["peft", "tempering"]
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["modules_to_save"] == ["classifier"]
    assert not [name for name in load_file(tmp_path / "out/adapter_model.safetensors") if "pooler" in name]


def test_a_class_without_the_pooler_gets_none(lacking: Path, tmp_path: Path) -> None:
    words = Train(framing=Cloze(template="{text} it was {mask}", words=WORDS), tuning=LoRA(r=2), **QUICK)
    assert comes_back(fitted(lacking, words), tmp_path / "words") == ["peft", "tempering"]
    mean = Train(framing=Head(pool="mean"), tuning=LoRA(r=2), **QUICK)
    assert comes_back(fitted(lacking, mean), tmp_path / "mean") == ["tempering"]
    for name in ("words", "mean"):
        assert not [n for n in load_file(tmp_path / name / "adapter_model.safetensors") if "pooler" in n]


def test_a_base_that_is_saved_along_holds_the_pooler(lacking: Path, tmp_path: Path) -> None:
    before = Train(framing=MaskedLM(), text="unlabeled", **QUICK)
    assert comes_back(fitted(lacking, before, Train(framing=Head(), tuning=LoRA(r=2), **QUICK)), tmp_path / "out") == ["peft", "tempering"]
    assert "pooler.dense.weight" in load_file(tmp_path / "out/base/model.safetensors")
    assert not [name for name in load_file(tmp_path / "out/adapter_model.safetensors") if "pooler" in name]


def test_a_pooler_that_an_earlier_stage_trained_is_not_said_to_be_as_drawn(lacking: Path, tmp_path: Path) -> None:
    last = Train(framing=Head(), tuning=LoRA(r=2), **QUICK)
    firsts = {
        "head": Train(framing=Head(), data=str(tmp_path / "x.jsonl"), **QUICK),
        "words": Train(framing=MaskedLM(), text="unlabeled", **QUICK),
    }
    rows = [{"text": e.texts[0], "label": e.label} for e in tiny_task(16).train]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, first in firsts.items():
        for resume in (False, True):  # resumed, the first stage is read back
            told: list[Any] = []
            fit(Recipe("r", (first, last)), tiny_task(16), str(lacking), output_dir=tmp_path / name, resume=resume, listener=told.append)
            said = [e["text"] for e in told if e["event"] == "note" and "drawn at random" in e["text"]]
            assert bool(said) == (name == "words")  # masked words do not train it


@pytest.mark.parametrize("framing", [Head(), Cloze(template="{text} it was {mask}", words=WORDS)], ids=["head", "words"])
def test_a_change_of_drawn_weights_keeps_to_our_own_form(framing: Any, tmp_path: Path) -> None:
    """Of a map that a LoRA hangs on, and of one in a block, PEFT cannot hold the drawn weight and what is added to it."""
    for i, (gone, targets) in enumerate((("pooler.dense", ("query", "pooler.dense")), ("layer.1.attention.self.key", ("query",)))):
        folder = tmp_path / f"model-{i}"
        save_masked_lm("bert", folder)
        tensors = load_file(folder / "model.safetensors")
        save_file({n: t for n, t in tensors.items() if gone not in n}, folder / "model.safetensors", metadata={"format": "pt"})
        assert any(gone in name for name in Backbone.load(str(folder)).own - Backbone.load(str(folder)).pretrained)
        learner = fitted(folder, Train(framing=framing, tuning=LoRA(r=2, target_modules=targets), **QUICK))
        assert comes_back(learner, tmp_path / f"out-{i}") == ["tempering"]
        assert (tmp_path / f"out-{i}/delta.safetensors").exists()


def test_an_adapter_for_masked_words_brings_drawn_embeddings(tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    kept = {n: t for n, t in tensors.items() if "token_type_embeddings" not in n}
    save_file(kept, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    framing = Cloze(template="{text} it was {mask}", words=WORDS)
    learner = fitted(tmp_path / "model", Train(framing=framing, tuning=LoRA(r=2), **QUICK))
    assert comes_back(learner, tmp_path / "out") == ["peft", "tempering"]
