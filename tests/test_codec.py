"""Methods given in Python: as values, or by name as in a recipe file; anything else is refused where it is given."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tempering.errors import RecipeError
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.r_drop import RDrop
from tempering.stages.train import Train
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA


def test_methods_may_be_named_in_python_as_in_a_file() -> None:
    named = Train(framing="masked_lm", tuning={"lora": {"r": 4}}, stabilizers=["r_drop", Mixout(0.5)], text="unlabeled")
    assert named == Train(framing=MaskedLM(), tuning=LoRA(r=4), stabilizers=(RDrop(), Mixout(0.5)), text="unlabeled")
    assert Train(stabilizers="r_drop") == Train(stabilizers=(RDrop(),)) == Train(stabilizers=RDrop())
    assert dataclasses.replace(Train(), tuning="frozen").cached
    assert Recipe("one", "train") == Recipe("one", [Train()]) == Recipe("one", Train()) and hash(Recipe("one", Train()))
    assert Train(tuning=["lora", Houlsby()]).tuning.tunings == (LoRA(), Houlsby())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tuning": "lorra"}, r"Train\.tuning: unknown tuning 'lorra'; did you mean lora"),
        ({"framing": "full"}, r"Train\.framing: unknown framing 'full'"),
        ({"stabilizers": ("r_drop", "mixup")}, r"Train\.stabilizers\.1: unknown stabilizer 'mixup'; did you mean mixout"),
        ({"tuning": Head()}, r"Train\.tuning: expected a tuning \(full, .*found head, which is a framing"),
        ({"stabilizers": (LoRA(),)}, r"Train\.stabilizers\.0: expected a stabilizer .*found lora, which is a tuning"),
        ({"tuning": LoRA}, r"Train\.tuning: expected a tuning, found the class LoRA; write LoRA\(\)"),
        ({"framing": None}, r"Train\.framing: expected the name of a framing .*found None"),
        ({"tuning": {"lora": {"rank": 3}}}, r"Train\.tuning\.lora: unknown field 'rank'"),
    ],
)
def test_what_is_no_such_method_is_refused_when_it_is_given(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Train(**given)


def test_what_is_no_stage_is_refused_when_it_is_given() -> None:
    with pytest.raises(RecipeError, match=r"Recipe\.stages\.0: expected a stage .*found full, which is a tuning"):
        Recipe("x", (Full(),))
