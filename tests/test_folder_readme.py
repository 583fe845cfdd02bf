"""The README of a saved folder: its lines of code are run as they stand, for every tuning, and give the learner's scores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering
from tempering.backbone import Backbone
from tempering.framings.causal_lm import CausalLM
from tempering.learner import Learner
from tempering.pretrained import quiet
from tempering.readme import NAME, OURS, fenced, how_to_load
from tempering.saving import loads_with
from tempering.stages.train import Train
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tests.laws.bench import ROWS, SEEDS, dev, logits, stage_of
from tests.laws.settings import live
from tests.tiny import save_tiny, tiny_task

QUICK = ("lora", "houlsby", "ia3")
TUNINGS = [pytest.param(value, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, value in live("tuning").items()]
IN_PEFT = {"lora", "dora", "pissa", "adalora", "vera", "ia3", "peft"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("readme") / "base")


def fitted(stage: Train, where: Path) -> Learner:
    backbone = Backbone.load(str(where))
    backbone.base_fingerprint = backbone.fingerprint()
    return stage.run(backbone, tiny_task(ROWS), SEEDS)


def run_code(folder: Path) -> dict[str, dict[str, Any]]:
    """What every block of code leaves, by the library that it loads with."""
    text = (folder / NAME).read_text(encoding="utf-8").replace("path/to/this/folder", str(folder))
    found: dict[str, dict[str, Any]] = {}
    for library, code in re.findall(r"With (\w+):\n\n```python\n(.*?)```", text, flags=re.S):
        found[library] = {}
        with quiet():
            exec(code, found[library])
    return found


@torch.no_grad()
def scores_of(model: Any, learner: Learner) -> torch.Tensor:
    prompts = [found[0] for found in learner.framing.render(dev(), (), np.random.default_rng(0))]
    scores: torch.Tensor = model.eval()(**learner.framing.collate(prompts, np.random.default_rng(0)).inputs).logits
    return scores


def check(learner: Learner, folder: Path) -> set[str]:
    learner.save_pretrained(folder)
    made = run_code(folder)
    assert list(made) == loads_with(learner)
    assert torch.equal(logits(made["tempering"]["learner"], dev()), logits(learner, dev()))
    for library in made.keys() - {"tempering"}:
        torch.testing.assert_close(scores_of(made[library]["model"], learner), logits(learner, dev()).mean(0), rtol=1e-4, atol=1e-5)
    return set(made)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_code_loads_what_was_saved(tuning: Any, base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    libraries = check(fitted(stage_of(tuning), base), tmp_path)
    name = request.node.callspec.id
    assert ("peft" in libraries) == (name in IN_PEFT)
    text = (tmp_path / NAME).read_text(encoding="utf-8")
    assert ("needs its base model" in text) == (libraries != {"transformers", "tempering"})


@pytest.mark.parametrize("tuning", [LoRA(r=2), Houlsby(m=2)])
def test_a_base_that_an_earlier_stage_changed_is_found_in_the_folder(tuning: Any, base: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(str(base))
    with torch.no_grad():
        backbone.embeddings.get_parameter("weight").mul_(1.5)
    backbone.changed, backbone.base_fingerprint = True, backbone.fingerprint()
    check(stage_of(tuning).run(backbone, tiny_task(ROWS), SEEDS), tmp_path)
    assert "lies in the folder `base`" in (tmp_path / NAME).read_text(encoding="utf-8")


def test_a_language_model_names_its_own_class(tmp_path: Path) -> None:
    where = save_tiny("gpt2", tmp_path / "base")
    stage = stage_of(framing=CausalLM(max_length=16))
    learner = stage.run(Backbone.load(str(where)), tiny_task(ROWS, "text"), SEEDS)
    text = (learner.save_pretrained(tmp_path / "saved") / NAME).read_text(encoding="utf-8")
    assert "AutoModelForCausalLM.from_pretrained" in text and "SequenceClassification" not in text


def test_an_adapter_of_a_language_model_names_its_class_too() -> None:
    """Without a number of labels, which that class would take for its own."""
    said = "\n".join(how_to_load(["peft", "tempering"], "classification", 2, "gpt2", None, "AutoModelForCausalLM"))
    assert 'AutoModelForCausalLM.from_pretrained("gpt2")\n' in said and "PEFT gives the language model alone" in said
    said = "\n".join(how_to_load(["peft", "tempering"], "classification", 3, "bert"))
    assert 'AutoModelForSequenceClassification.from_pretrained("bert", num_labels=3)\n' in said and "alone" not in said


def test_a_readme_of_somebody_else_stays_and_an_older_one_of_ours_does_not(base: Path, tmp_path: Path) -> None:
    learner = fitted(stage_of(LoRA(r=2)), base)
    (tmp_path / NAME).write_text("# mine\n")
    learner.save_pretrained(tmp_path)
    assert (tmp_path / NAME).read_text() == "# mine\n"
    (tmp_path / NAME).write_text(f"{OURS}---\n\nof another model\n")
    learner.save_pretrained(tmp_path)
    text = (tmp_path / NAME).read_text()
    assert text.startswith(OURS) and "of another model" not in text and "tempering.load(" in text
    assert tempering.load(tmp_path).tuning == learner.tuning


def test_odd_names_are_quoted() -> None:
    said = "\n".join(how_to_load(["tempering"], "classification", 2, "a `b`\n# c", {"fingerprint": "0123456789", "inside": False}))
    assert "`` a `b` # c ``" in said and "\n# c" not in said
    assert fenced("x = '```'", "python").startswith("````python\n")
