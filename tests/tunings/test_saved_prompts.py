"""Prompts that begin where another run's ended: read back, compared, mixed, and what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tempering import cli
from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.recipe import Recipe
from tempering.saving import load
from tempering.stages.train import Train
from tempering.tunings.lora import LoRA
from tempering.tunings.prompt_tuning import PromptTuning
from tempering.tunings.prompts import prompt_of
from tempering.tunings.saved_prompts import Source, mixture, most_similar, saved_prompt, similarity
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import save_tiny, tiny_task


def trained(folder: Path, seed: int, p: int = 4) -> torch.Tensor:
    """The prompt of a short run that is saved in ``folder``."""
    model = save_tiny("bert", folder / "m")
    stage = Train(tuning=PromptTuning(p=p), max_steps=2, num_train_epochs=1, learning_rate=0.1)
    learner = fit(Recipe("p", (stage,)), tiny_task(seed=seed), str(model), seed=seed)
    learner.save_pretrained(folder / f"out-{seed}")
    found = prompt_of(learner.backbone)
    assert found is not None
    return found().detach().clone()


def test_a_prompt_begins_where_another_ended(tmp_path: Path) -> None:
    saved = trained(tmp_path, 1)
    assert torch.equal(saved_prompt(tmp_path / "out-1"), saved)
    for p in (4, 3, 6):
        tuning = PromptTuning(p=p, init="file", file=str(tmp_path / "out-1"))
        stage = Train(tuning=tuning, max_steps=1, num_train_epochs=1, learning_rate=1e-12)
        learner = fit(Recipe("s", (stage,)), tiny_task(), str(tmp_path / "m"))
        mine = prompt_of(learner.backbone)().detach()  # type: ignore[misc]
        assert torch.allclose(mine[: min(p, 4)], saved[: min(p, 4)], atol=1e-6) and mine.shape == (p, 32)
        table = learner.backbone.embeddings.get_parameter("weight")
        assert all(any(torch.allclose(row, known, atol=1e-6) for known in table) for row in mine[4:])  # what is left over are words
    learner.save_pretrained(tmp_path / "target")
    shutil.rmtree(tmp_path / "out-1")  # the model no longer needs where it began
    assert load(tmp_path / "target").predict_proba(["a good film"]) == learner.predict_proba(["a good film"])
    recipe = Recipe("p", (Train(tuning=PromptTuning(init="file", file="a/b")),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_sources_are_ranked_by_the_cosine_of_their_means_and_mixed_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert similarity(a, b) == pytest.approx(2**-0.5)
    prompts = {seed: trained(tmp_path, seed) for seed in (1, 2, 3)}
    found = most_similar(tmp_path / "out-1", [tmp_path / "out-2", tmp_path / "out-1", tmp_path / "out-3"])
    assert found[0].folder.endswith("out-1") and found[0].similarity == pytest.approx(1)
    assert [s.similarity for s in found] == sorted((s.similarity for s in found), reverse=True)
    assert cli.run(["rank-prompts", *(str(tmp_path / f"out-{seed}") for seed in (1, 2, 1, 3))]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["1.0000", str(tmp_path / "out-1")]
    assert said[-1].endswith(f"tuning.init=file tuning.file={tmp_path / 'out-1'}")
    assert [line.split()[0] for line in said[1:4]] == [f"{one.similarity:.4f}" for one in found]
    given = [Source(str(tmp_path / "out-2"), 0.2), Source(str(tmp_path / "out-3"), 0.6), Source(str(tmp_path / "out-1"), 0.1)]
    assert torch.allclose(mixture(given, 2), 0.25 * prompts[2] + 0.75 * prompts[3], atol=1e-6)
    with pytest.raises(ModelError, match="alike"):
        mixture([Source("x", -0.1)], 1)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    with pytest.raises(ModelError, match="of width 32, and these are 16 wide"):
        saved_prompt(tmp_path / "out-1", 16)
    with pytest.raises(ModelError, match="another model"):
        saved_prompt(tmp_path / "out-1", base="no such")
    for wrong in ({"init": "file"}, {"file": "x"}):
        with pytest.raises(ValueError, match="belong together"):
            PromptTuning(**wrong)  # type: ignore[arg-type]
    stage = Train(tuning=LoRA(r=2), max_steps=1, num_train_epochs=1)
    fit(Recipe("l", (stage,)), tiny_task(), str(tmp_path / "m")).save_pretrained(tmp_path / "lora")
    with pytest.raises(ModelError, match="saved in the form 'peft'"):
        saved_prompt(tmp_path / "lora")


def test_a_model_whose_checkpoint_lacks_weights_is_drawn_alike_again(tmp_path: Path) -> None:
    """A masked language model holds no pooler; the saved change names the seed that it was drawn from."""
    save_masked_lm("bert", tmp_path / "m")
    stage = Train(framing=Head(pool="pooler"), tuning=PromptTuning(p=2), max_steps=1, num_train_epochs=1)
    learner = fit(Recipe("p", (stage,)), tiny_task(), str(tmp_path / "m"), seed=5)
    learner.save_pretrained(tmp_path / "out")
    assert load(tmp_path / "out").predict_proba(["a good film"]) == learner.predict_proba(["a good film"])
    held = Backbone.load(str(tmp_path / "m"), 1)  # of another seed: not its base
    with pytest.raises(ModelError, match=r"is not the base model .* drawn with seed \d+, and those of the one given with 1"):
        load(tmp_path / "out", held)
