"""Law 6. As many backbone weights are trained as the tuning's formula says. (Published figures: tests/tunings/test_counts.py.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.contracts import Tuning
from tempering.errors import ModelError
from tempering.tunings.lora import LoRA
from tests.laws.settings import Row, rows
from tests.tiny import FAMILIES, tiny_backbone


def check_count(tuning: Tuning, family: str) -> None:
    """The formula, before and after `attach`, is the number of trained weights; a refusal comes from both."""
    backbone = tiny_backbone(family)
    try:
        foretold = tuning.count(backbone)
    except ModelError:
        with pytest.raises(ModelError):
            tuning.attach(backbone)
        return
    tuning.attach(backbone)
    found = sum(w.numel() for w in backbone.parameters() if w.requires_grad)
    assert found == foretold == tuning.count(backbone), f"{found} weights are trained, the formula says {foretold}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", rows("tuning"))
def test_the_formula_counts_what_is_trained(row: Row, family: str) -> None:
    check_count(row.live, family)
    if family != "qwen2" and all(f.default is not dataclasses.MISSING for f in dataclasses.fields(row.live)):
        check_count(type(row.live)(), family)


@dataclass(frozen=True)
class Miscounting(LoRA):
    """Broken: forgets one of the two matrices."""

    def count(self, backbone: Backbone) -> int:
        return super().count(backbone) // 2


def test_the_law_catches(register: Callable[[str, type], None]) -> None:
    register("tuning", Miscounting)
    with pytest.raises(AssertionError, match="the formula says"):
        check_count(Miscounting(r=2), "bert")
