"""The stage that trains nothing: a language-model head that would stay as it was drawn is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.stages.use import Use
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import save_tiny, tiny_task

ASKED = Cloze("{text} {mask}", words={"bad": "bad", "good": "good"})


@pytest.mark.parametrize("recipe", ["cloze-zero-shot", "in-context", "knn-prompting", "zero-shot"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_drawn_head_is_refused(recipe: str, family: str, tmp_path: Path) -> None:
    where = save_tiny(family, tmp_path)
    with pytest.raises(ModelError, match=r"holds no weights of a language-model head and would name words at random; choose"):
        fit(recipe, tiny_task(), str(where))


def test_a_head_that_an_earlier_stage_trained_is_not(tmp_path: Path) -> None:
    first = Train(framing=MaskedLM(), tuning="full", max_steps=1, text="unlabeled")
    learner = fit(Recipe("two", (first, Use(ASKED))), tiny_task(), str(save_tiny("bert", tmp_path / "body")))
    assert learner.predict(["a good film"])
    save_masked_lm("bert", tmp_path / "whole")
    assert fit(Recipe("one", (Use(ASKED),)), tiny_task(), str(tmp_path / "whole")).predict(["a good film"])
