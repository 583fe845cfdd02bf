"""Folders: what is in them, what is refused, and that a changed base, a merge and a renamed folder keep the scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Example
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.restoring import META
from tempering.saving import form_of, loads_with
from tempering.stages.train import Train
from tempering.tasks.task import Task
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.layer_norm import LayerNormOnly
from tempering.tunings.lora import LoRA
from tests.laws.bench import dev, logits
from tests.tiny import save_tiny, tiny_task

QUICK: dict[str, Any] = {"max_steps": 3, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pretrained models on disk, one folder a family."""
    folder = tmp_path_factory.mktemp("bases")
    for family in ("bert", "t5", "gpt2"):
        save_tiny(family, folder / family)
    return folder


def _fitted(source: Path, *stages: Train, task: Any = None) -> Learner:
    return fit(Recipe("test", stages), task or tiny_task(24), str(source))


def _one(tuning: Any = Full(), framing: Any = Head()) -> Train:  # noqa: B008
    return Train(tuning=tuning, framing=framing, **QUICK)


def _pretext(**given: Any) -> Train:
    return Train(framing=MaskedLM(), text="unlabeled", **(QUICK | given))


@pytest.mark.parametrize(
    ("family", "stage", "form", "libraries", "files"),
    [
        ("bert", _one(), "full", ["transformers", "tempering"], {"model.safetensors", "config.json"}),
        ("gpt2", _one(Frozen()), "full", ["transformers", "tempering"], {"model.safetensors", "config.json"}),
        ("bert", _one(framing=Head(pool="mean")), "full", ["tempering"], {"model.safetensors", "config.json"}),
        ("t5", _one(), "full", ["tempering"], {"model.safetensors", "config.json"}),
        ("bert", _one(LoRA(r=2)), "peft", ["peft", "tempering"], {"adapter_model.safetensors", "adapter_config.json"}),
        ("bert", _one(Houlsby(m=4)), "delta", ["tempering"], {"delta.safetensors"}),
        ("bert", _one(BitFit()), "delta", ["tempering"], {"delta.safetensors"}),
        ("gpt2", _one(LayerNormOnly()), "delta", ["tempering"], {"delta.safetensors"}),
    ],
)
def test_forms_and_their_files(
    family: str, stage: Train, form: str, libraries: list[str], files: set[str], bases: Path, tmp_path: Path
) -> None:
    learner = _fitted(bases / family, stage)
    assert form_of(learner) == form and loads_with(learner) == libraries
    before = logits(learner, dev())
    learner.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= files | {META, "framing.safetensors", "tokenizer.json"}
    assert not {p.suffix for p in tmp_path.rglob("*")} & {".bin", ".pt", ".pth", ".pkl"}
    assert torch.equal(logits(tempering.load(tmp_path), dev()), before)
    assert json.loads((tmp_path / META).read_text())["record"]["metrics"]["dev"] == learner.record["metrics"]["dev"]


def test_a_delta_holds_the_change_and_not_the_base(bases: Path, tmp_path: Path) -> None:
    learner = _fitted(bases / "bert", _one(Houlsby(m=4)))
    learner.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "delta.safetensors")
    assert all("houlsby" in name or "LayerNorm" in name for name in stored)
    assert sum(t.numel() for t in stored.values()) == learner.tuning.count(learner.backbone)


@pytest.mark.parametrize("tuning", [LoRA(r=2), Houlsby(m=4)])
def test_a_base_that_an_earlier_stage_changed_is_saved_along(tuning: Any, bases: Path, tmp_path: Path) -> None:
    learner = _fitted(bases / "bert", _pretext(), _one(tuning))
    assert learner.backbone.changed
    before = logits(learner, dev())
    learner.save_pretrained(tmp_path / "a")
    assert (tmp_path / "a" / "base" / "model.safetensors").exists()
    shutil.move(tmp_path / "a", tmp_path / "b")  # the folder is whole: it may be moved
    assert torch.equal(logits(tempering.load(tmp_path / "b"), dev()), before)


def test_merging_on_the_way_out(bases: Path, tmp_path: Path) -> None:
    learner = _fitted(bases / "bert", _one(LoRA(r=2)))
    before = logits(learner, dev())
    learner.save_pretrained(tmp_path, merge=True)
    back = tempering.load(tmp_path)
    assert form_of(back) == "full" and not (tmp_path / "adapter_config.json").exists()
    torch.testing.assert_close(logits(back, dev()), before, rtol=1e-5, atol=1e-5)


def test_what_cannot_merge_says_so(bases: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be merged"):
        _fitted(bases / "bert", _one(Houlsby(m=4))).save_pretrained(tmp_path / "x", merge=True)
    assert not (tmp_path / "x").exists()


def test_a_masked_language_model_keeps_its_head(bases: Path, tmp_path: Path) -> None:
    learner = _fitted(bases / "bert", _pretext())
    texts = [Example(e.texts) for e in dev()]
    before = logits(learner, texts)
    learner.save_pretrained(tmp_path)
    assert torch.equal(logits(tempering.load(tmp_path), texts), before)


def test_two_saves_of_one_learner_are_equal(bases: Path, tmp_path: Path) -> None:
    learner = _fitted(bases / "bert", _one(LoRA(r=2)))
    for name in ("a", "b"):
        learner.save_pretrained(tmp_path / name)
    again = tempering.load(tmp_path / "a")
    again.save_pretrained(tmp_path / "c")
    for file in ("adapter_model.safetensors", "framing.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()


@pytest.mark.parametrize("labels", [("no", "yes"), (1, 0), (True, False), ("été", "冬"), (0.5, 2.5)])
def test_labels_come_back_as_they_were_given(labels: tuple[Any, Any], bases: Path, tmp_path: Path) -> None:
    rows = [Example((e.texts[0],), labels[e.label == "good"], e.row) for e in tiny_task(24).train]
    learner = _fitted(bases / "bert", _one(Frozen()), task=Task.from_examples(rows, kind="classification"))
    learner.save_pretrained(tmp_path)
    found = tempering.load(tmp_path).predictions(rows)
    assert {type(p.label) for p in found} == {type(labels[0])} and {p.label for p in found} <= set(labels)
    assert found == learner.predictions(rows)


def _damaged(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ('{"version": 99}', "format version 99; this release reads 1"),
        ("[]", "expected a JSON object, found list"),
    ],
)
def test_a_damaged_folder_is_named(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        tempering.load(_damaged(tmp_path, META, content))


def test_a_folder_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"no {META} there; expected a folder that temper fit or save_pretrained wrote"):
        tempering.load(tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["framing.safetensors", "delta.safetensors"])
def test_a_missing_or_broken_file_is_named(missing: str, bases: Path, tmp_path: Path) -> None:
    _fitted(bases / "bert", _one(Houlsby(m=4))).save_pretrained(tmp_path)
    (tmp_path / missing).write_bytes(b"junk")
    with pytest.raises(ModelError, match=f"{missing}.*damaged"):
        tempering.load(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        tempering.load(tmp_path)


def test_another_base_under_the_same_name_is_refused(bases: Path, tmp_path: Path) -> None:
    base = shutil.copytree(bases / "bert", tmp_path / "base")
    _fitted(base, _one(LoRA(r=2))).save_pretrained(tmp_path / "model")
    tempering.load(tmp_path / "model")
    shutil.rmtree(base)
    save_tiny("bert", base, seed=1)
    with pytest.raises(ModelError, match="was trained on another .* put the original base model in place, or save with --merge"):
        tempering.load(tmp_path / "model")


def test_a_loaded_learner_can_be_trained_on(bases: Path, tmp_path: Path) -> None:
    learner = _fitted(bases / "bert", _one())
    learner.save_pretrained(tmp_path)
    assert isinstance(tempering.load(tmp_path).backbone, Backbone)
    further = _fitted(tmp_path, _one(LoRA(r=2)))
    further.save_pretrained(tmp_path / "further")
    assert torch.equal(logits(tempering.load(tmp_path / "further"), dev()), logits(further, dev()))


@pytest.mark.parametrize("tuning", [BitFit(), LayerNormOnly()])
def test_biases_and_norms_are_saved_alone_and_merge_into_a_whole_model(tuning: Any, bases: Path, tmp_path: Path) -> None:
    """The file is as large as what was trained (2 % and 8 KiB more at most); merged, the folder is transformers' own and stays so."""
    learner = _fitted(bases / "bert", _one(tuning))
    before = logits(learner, dev())
    learner.save_pretrained(tmp_path / "delta")
    size = (tmp_path / "delta" / "delta.safetensors").stat().st_size
    assert 4 * tuning.count(learner.backbone) <= size <= 1.02 * 4 * tuning.count(learner.backbone) + 8192
    found = tempering.load(tmp_path / "delta")
    torch.testing.assert_close(logits(found, dev()), before, rtol=0, atol=0)
    found.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "delta.safetensors").stat().st_size == size
    learner.save_pretrained(tmp_path / "whole", merge=True)
    whole = tempering.load(tmp_path / "whole")
    torch.testing.assert_close(logits(whole, dev()), before, rtol=0, atol=0)
    assert loads_with(whole) == ["transformers", "tempering"] == loads_with(learner)


def test_biases_trained_on_a_changed_base_are_saved_with_the_whole_of_it(bases: Path, tmp_path: Path) -> None:
    """A base of its own and a file of biases beside it would be larger than one model."""
    learner = _fitted(bases / "bert", _pretext(), _one(BitFit()))
    assert form_of(learner) == "full"
    learner.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(tempering.load(tmp_path), dev()), logits(learner, dev()), rtol=0, atol=0)


def test_a_folder_holds_the_last_model_that_was_saved_there(bases: Path, tmp_path: Path) -> None:
    whole, low = _fitted(bases / "bert", _one()), _fitted(bases / "bert", _one(LoRA(r=2)))
    small, two = _fitted(bases / "bert", _one(Houlsby(m=4))), _fitted(bases / "bert", _pretext(), _one(LoRA(r=2)))
    (tmp_path / "mine.txt").write_text("mine")
    for learner in (low, whole, small, two, whole, whole):
        before = logits(learner, dev())
        learner.save_pretrained(tmp_path)
        assert torch.equal(logits(tempering.load(tmp_path), dev()), before) and torch.equal(logits(learner, dev()), before)
        assert (tmp_path / "model.safetensors").exists() == (tmp_path / "config.json").exists() == (learner is whole)
        assert (tmp_path / "adapter_config.json").exists() == (learner in (low, two)) and (tmp_path / "base").exists() == (learner is two)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("stages", [(_one(Frozen()),), (_one(LoRA(r=2)),), (_pretext(), _one(LoRA(r=2)))], ids=["full", "peft", "base"])
def test_a_learner_may_be_saved_where_it_was_read(stages: tuple[Train, ...], bases: Path, tmp_path: Path) -> None:
    learner = _fitted(bases / "bert", *stages)
    before = logits(learner, dev())
    learner.save_pretrained(tmp_path)
    again = tempering.load(tmp_path)
    again.save_pretrained(tmp_path)
    assert torch.equal(logits(again, dev()), before) and torch.equal(logits(tempering.load(tmp_path), dev()), before)


def test_what_needs_its_base_is_not_saved_over_it(bases: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(bases / "bert", tmp_path / "base"))
    learner, frozen = _fitted(base, _one(LoRA(r=2))), _fitted(base, _one(Frozen()))
    for folder in (base, tmp_path):
        with pytest.raises(ModelError, match="holds the base model, which what is saved here needs"):
            learner.save_pretrained(folder)
    before = logits(frozen, dev())
    frozen.save_pretrained(base)  # a whole model may take its place, and what it was read from goes on serving it
    assert torch.equal(logits(frozen, dev()), before) and torch.equal(logits(tempering.load(base), dev()), before)
