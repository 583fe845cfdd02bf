"""The base of a saved change: given anew, wherever it is and whatever it is called; another is refused; a missing one is explained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tempering
from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.framings.text_to_text import TextToText
from tempering.learner import Learner
from tempering.mixing.loading import load_many
from tempering.recipe import Recipe
from tempering.saving import belongs
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tests.laws.bench import dev, logits, stage_of
from tests.tiny import save_tiny, tiny_task


def made(base: Path, folder: Path, tuning: Any, **more: Any) -> Learner:
    framing = more.pop("framing", None)
    learner = fit(Recipe("test", (stage_of(tuning, framing=framing),)), tiny_task(16), str(base), **more)
    learner.save_pretrained(folder)
    return learner


@pytest.fixture
def moved(tmp_path: Path) -> Callable[..., tuple[Learner, Path]]:
    """(learner, where its base is now) of a folder ``model`` whose base is no longer where it was."""

    def make(tuning: Any = LoRA(r=2), family: str = "bert", **more: Any) -> tuple[Learner, Path]:  # noqa: B008
        learner = made(save_tiny(family, tmp_path / "old"), tmp_path / "model", tuning, **more)
        return learner, Path(shutil.move(tmp_path / "old", tmp_path / "new"))

    return make


def same(learner: Learner, other: Learner) -> bool:
    return torch.equal(logits(learner, dev()), logits(other, dev()))


@pytest.mark.parametrize(
    ("tuning", "family", "framing"), [(LoRA(r=2), "bert", None), (Houlsby(m=2), "bert", None), (LoRA(r=2), "t5", TextToText())]
)
def test_a_base_is_known_by_its_weights(tuning: Any, family: str, framing: Any, moved: Any, tmp_path: Path) -> None:
    learner, now = moved(tuning, family, framing=framing)
    for given in (now, str(now), Backbone.load(str(now))):
        found = tempering.load(tmp_path / "model", base_model=given)
        assert same(found, learner) and found.backbone.source == str(now)
    found.save_pretrained(tmp_path / "again")  # and this folder names the new place
    assert same(tempering.load(tmp_path / "again"), learner)


def test_a_base_in_memory_without_a_place_leaves_the_name_that_was_noted(moved: Any, tmp_path: Path) -> None:
    learner, now = moved()
    given = Backbone.load(str(now))
    given.source, given.where = "made up", ""
    found = tempering.load(tmp_path / "model", base_model=given)
    assert same(found, learner) and found.backbone.source == learner.backbone.source
    assert set(given.model.state_dict()) == given.own  # it was copied: nothing hangs on it


@pytest.mark.parametrize(("family", "seed"), [("bert", 1), ("roberta", 0)])
@pytest.mark.parametrize("as_path", [True, False])
def test_another_base_is_refused(family: str, seed: int, as_path: bool, tmp_path: Path) -> None:
    made(save_tiny("bert", tmp_path / "base"), tmp_path / "model", LoRA(r=2))
    other = save_tiny(family, tmp_path / "other", seed=seed)
    with pytest.raises(ModelError, match=r"other' is not the base model it was trained on, which was .*base' \(fingerprint .*; give that"):
        tempering.load(tmp_path / "model", base_model=other if as_path else Backbone.load(str(other)))


def test_a_whole_model_is_read_from_its_folder_and_its_base_compared_only(moved: Any, tmp_path: Path) -> None:
    learner, now = moved(Full())
    assert same(tempering.load(tmp_path / "model"), learner) and same(tempering.load(tmp_path / "model", base_model=now), learner)
    with pytest.raises(ModelError, match="is not the base model it was trained on"):
        tempering.load(tmp_path / "model", base_model=save_tiny("bert", tmp_path / "other", seed=1))


def test_a_base_that_is_gone_is_explained_without_an_option_that_nobody_gave(moved: Any, tmp_path: Path) -> None:
    moved()
    with pytest.raises(ModelError) as refused:
        tempering.load(tmp_path / "model")
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'model'}: holds only what was trained, and its base model '{tmp_path / 'old'}' cannot be read")
    assert (
        "there is no such folder" in said
        and "tempering.load and TextClassifier.from_pretrained base_model" in said
        and "--model /" not in said
    )
    (tmp_path / "old").mkdir()
    with pytest.raises(ModelError, match="holds no config.json.*put it back, or say where it is now"):
        tempering.load(tmp_path / "model")


def test_a_changed_base_that_is_gone_from_the_folder_is_a_damaged_folder(tmp_path: Path) -> None:
    backbone = Backbone.load(str(save_tiny("bert", tmp_path / "base")))
    with torch.no_grad():
        backbone.embeddings.get_parameter("weight").mul_(1.5)
    backbone.changed = True
    learner = fit(Recipe("test", (stage_of(LoRA(r=2)),)), tiny_task(16), backbone)
    learner.save_pretrained(tmp_path / "model")
    shutil.move(tmp_path / "model" / "base", tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="base cannot be read; the folder is damaged"):
        tempering.load(tmp_path / "model")
    found = tempering.load(tmp_path / "model", base_model=tmp_path / "elsewhere")
    assert same(found, learner) and found.backbone.changed and found.backbone.source == str(tmp_path / "base")
    with pytest.raises(ModelError, match=r"which was the one in .*model/base"):
        tempering.load(tmp_path / "model", base_model=tmp_path / "base")


def test_how_a_base_is_packed_has_to_agree(tmp_path: Path) -> None:
    base = save_tiny("bert", tmp_path / "base")
    made(base, tmp_path / "plain", LoRA(r=2))
    packed = made(base, tmp_path / "packed", LoRA(r=2), quantize="8bit")
    with pytest.raises(ModelError, match="trained on matrices as they are, and those of the base model given are packed in 8bit"):
        tempering.load(tmp_path / "plain", base_model=Backbone.load(str(base), quantize="8bit"))
    for given in (base, Backbone.load(str(base)), Backbone.load(str(base), quantize="8bit")):
        found = tempering.load(tmp_path / "packed", base_model=given)
        assert found.backbone.quantized == "8bit" and same(found, packed)


def test_folders_that_belong_together(tmp_path: Path) -> None:
    """One read anew for each, were its name to decide, where the same base is copied under two names."""
    one = save_tiny("bert", tmp_path / "one")
    two = Path(shutil.copytree(one, tmp_path / "two"))
    made(one, tmp_path / "a", LoRA(r=2))
    made(two, tmp_path / "b", Houlsby(m=2))
    made(one, tmp_path / "c", Full())
    base = Backbone.load(str(one))
    assert belongs(tmp_path / "a", base) and belongs(tmp_path / "b", base) and not belongs(tmp_path / "c", base)
    assert not belongs(tmp_path / "a", Backbone.load(str(save_tiny("bert", tmp_path / "three", seed=1))))
    texts = [e.texts[0] for e in dev()]
    alone = tempering.load(tmp_path / "b").predict(texts)
    assert load_many([tmp_path / "a", tmp_path / "b"]).predict(texts, "b") == alone
