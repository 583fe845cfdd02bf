"""Law 5. Recipe -> YAML -> recipe is equal; learner -> folder -> learner gives the same scores, and other libraries load it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import field_validator
from pydantic.dataclasses import dataclass

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Hooks
from tempering.exporting import classifier_config
from tempering.framings.cloze import Cloze
from tempering.learner import Learner
from tempering.pretrained import quiet
from tempering.recipe import Recipe, available
from tempering.saving import loads_with
from tempering.stages.train import Train
from tempering.tunings.full import Full
from tests.laws.bench import ROWS, SEEDS, STAGE, dev, kind_of, logits, stage_of
from tests.laws.settings import TABLE, Row, live, rows
from tests.tiny import save_tiny, tiny_task

KINDS = ("classification", "regression", "multilabel")


def check_recipe(recipe: Recipe) -> None:
    """The recipe survives YAML: equal, of equal hash and key, and written the same a second time."""
    text = recipe.to_yaml()
    back = Recipe.from_yaml(text)
    assert back == recipe and hash(back) == hash(recipe) and back.key() == recipe.key()
    assert back.to_yaml() == text


@pytest.mark.parametrize("name", available())
def test_every_shipped_recipe(name: str) -> None:
    recipe = Recipe.load(name)
    check_recipe(recipe)
    assert recipe.name == name and recipe.description


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, found in TABLE.items() for name in found])
def test_every_method_away_from_its_defaults(kind: str, name: str) -> None:
    value = TABLE[kind][name].live
    stage = {
        "framing": lambda: Train(framing=value),
        "tuning": lambda: Train(tuning=value),
        "stabilizer": lambda: Train(stabilizers=(value,)),
        "verbalizer": lambda: Train(framing=Cloze(verbalizer=value)),
        "stage": lambda: value,
    }[kind]()
    check_recipe(Recipe("one", (stage,)))
    check_recipe(Recipe("two", (Train(), stage), search={"learning_rate": (1e-5, 3e-4)}, description="no: yes"))


@pytest.mark.parametrize("rate", [1e-5, 2e-05, 1e-10, 5e-324, 1.0, 1e22, 0.1 + 0.2])
def test_every_float_comes_back_to_the_last_bit(rate: float) -> None:
    recipe = Recipe("r", (Train(learning_rate=rate),))
    assert Recipe.from_yaml(recipe.to_yaml()).stages[0].learning_rate == rate


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pretrained model on disk."""
    return save_tiny("bert", tmp_path_factory.mktemp("base") / "bert")


def fitted(stage: Train, base: Path, kind: str = "classification") -> Learner:
    """A learner that a few steps have moved, of a backbone that came from a folder."""
    backbone = Backbone.load(str(base))
    backbone.base_fingerprint = backbone.fingerprint()
    return stage.run(backbone, tiny_task(ROWS, kind), SEEDS)


def check_learner(learner: Learner, folder: Path, kind: str = "classification") -> Learner:
    """Saved and loaded again, the learner scores and predicts the same, to the bit."""
    before = logits(learner, dev(kind))
    learner.save_pretrained(folder)
    back = tempering.load(folder)
    assert torch.equal(logits(back, dev(kind)), before)
    assert back.predictions(dev(kind)) == learner.predictions(dev(kind))
    assert back.framing.labels == learner.framing.labels and back.tuning == learner.tuning
    assert not [p.name for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pickle", ".pth")]
    return back


def _theirs(learner: Learner, folder: Path) -> Any:
    """What transformers or PEFT makes of the folder; None where neither is said to load it."""
    from transformers import AutoModelForSequenceClassification as Auto

    with quiet():  # peft's own use of a deprecated name
        if loads_with(learner)[0] == "transformers":
            return Auto.from_pretrained(folder).eval()
        if loads_with(learner)[0] == "peft":
            from peft import PeftModel

            plain = Auto.from_pretrained(learner.backbone.where, config=classifier_config(learner))
            return PeftModel.from_pretrained(plain, str(folder)).eval()
    return None


@torch.no_grad()
def check_elsewhere(learner: Learner, folder: Path, kind: str) -> None:
    """The other library gives our logits, or our values on the user's scale."""
    model = _theirs(learner, folder)
    if model is None:
        return
    prompts = [found[0] for found in learner.framing.render(dev(kind), (), np.random.default_rng(0))]
    theirs = model(**learner.framing.collate(prompts, np.random.default_rng(0)).inputs).logits
    mine = logits(learner, dev(kind)).mean(0)
    if kind == "regression":
        mine = torch.tensor([[p.label] for p in learner.predictions(dev(kind))])
    else:
        assert tuple(model.config.id2label.values()) == learner.framing.labels
    torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tuning", rows("tuning"))
def test_a_learner_comes_back(tuning: Row, kind: str, base: Path, tmp_path: Path) -> None:
    learner = fitted(stage_of(tuning.live), base, kind)
    check_learner(learner, tmp_path, kind)
    check_elsewhere(learner, tmp_path, kind)


@pytest.mark.parametrize("framing", rows("framing"))
def test_for_every_framing(framing: Row, base: Path, tmp_path: Path) -> None:
    kind = kind_of(framing.live)
    folder = base if framing.family == "bert" else save_tiny(framing.family, tmp_path / "base")
    check_learner(fitted(stage_of(framing=framing.live), folder, kind), tmp_path, kind)


def test_at_least_one_tuning_loads_with_each_library(base: Path) -> None:
    missing = {"transformers", "peft", "tempering"}
    for value in live("tuning").values():
        if missing:
            missing -= set(loads_with(fitted(stage_of(value), base)))
    assert not missing


@dataclass(frozen=True)
class Absentminded(Full):
    """Broken: what it adds to the body is no weight, so that no file holds it."""

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        backbone.embeddings.register_forward_hook(lambda _m, _a, out: out * 1.5)


@dataclass(frozen=True)
class Doubling:
    """Broken: doubles its field whenever it is built."""

    touches: ClassVar[tuple[str, ...]] = ()
    neutral: ClassVar[bool] = False
    p: float = 0.0

    @field_validator("p")
    @classmethod
    def _twice(cls, value: float) -> float:
        return 2 * value

    def start(self, *_: Any) -> Hooks:
        return Hooks()


def test_the_law_catches_a_change_that_is_not_saved(
    base: Path, tmp_path: Path, register: Callable[[str, type], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register("tuning", Absentminded)
    monkeypatch.setattr("tempering.saving.compare_reload", lambda *_: None)  # the library's own check would say it first
    monkeypatch.setattr("tempering.saving.decode", lambda kind, node, where: Absentminded() if kind == "tuning" else STAGE.framing)
    with pytest.raises(AssertionError):
        check_learner(fitted(stage_of(Absentminded()), base), tmp_path)
    shutil.rmtree(tmp_path)


def test_the_library_itself_refuses_a_folder_that_scores_differently(
    base: Path, tmp_path: Path, register: Callable[[str, type], None]
) -> None:
    register("tuning", Absentminded)
    with pytest.raises(tempering.ModelError, match="a reload by transformers scores differently"):
        fitted(stage_of(Absentminded()), base).save_pretrained(tmp_path)


def test_the_law_catches_a_value_that_changes_on_the_way(register: Callable[[str, type], None], monkeypatch: pytest.MonkeyPatch) -> None:
    register("stabilizer", Doubling)
    monkeypatch.setattr("tempering.codec.find", lambda kind, name: Doubling if kind == "stabilizer" else Train)
    with pytest.raises(AssertionError):
        check_recipe(Recipe("broken", (Train(stabilizers=(Doubling(0.5),)),)))
