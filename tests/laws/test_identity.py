"""Law 7. Right after `attach` the model is exactly, nearly or not the backbone, as the method declares."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.streams import torch_stream
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tests.laws.bench import serves
from tests.laws.settings import Row, rows
from tests.tiny import tiny_backbone

TEXTS = ["the film was good and not sad", "a bad day"]
NEAR = 0.02  # of the spread of the states


@torch.no_grad()
def _states(backbone: Backbone) -> torch.Tensor:
    backbone.eval()
    return backbone.encode(dict(backbone.tokenizer(TEXTS, padding=True, return_tensors="pt"))).last


def check_identity(tuning: Any, family: str = "bert") -> None:
    """The gap that attaching opens is of the declared size."""
    backbone = tiny_backbone(family)
    before = _states(backbone)
    with torch_stream("attach"):
        tuning.attach(backbone)
    gap = float((_states(backbone) - before).abs().max() / before.std())
    fits = {"exact": gap == 0, "near": 0 < gap < NEAR, "no": gap >= NEAR}
    assert fits[tuning.identity], f"declared {tuning.identity}, opens a gap of {gap:.3g}"


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "t5"])
@pytest.mark.parametrize("row", rows("tuning"))
def test_a_tuning_starts_where_it_says(row: Row, family: str) -> None:
    if not serves(row.live, family):
        return  # refused there: see the law of families
    check_identity(row.live, family)


@dataclass(frozen=True)
class Jumping(LoRA):
    """Broken: B is drawn and not zero, yet the method says it starts as the backbone."""

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        for name, weight in backbone.named_parameters():
            if name.endswith("lora.B"):
                weight.data.normal_()


@dataclass(frozen=True)
class Modest(Houlsby):
    """Broken: the adapters are drawn large, yet the method says that it starts near."""

    init_std: float = 1.0


@dataclass(frozen=True)
class Boasting(LoRA):
    """Broken: starts exactly as the backbone, and says only near."""

    identity: ClassVar[Literal["exact", "near", "no"]] = "near"


@pytest.mark.parametrize("broken", [Jumping(), Modest(m=8), Boasting()])
def test_the_law_catches(broken: Any) -> None:
    with pytest.raises(AssertionError, match="declared"):
        check_identity(broken)
