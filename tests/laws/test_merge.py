"""Law 8. Where a tuning merges, merged and unmerged scores agree to 1e-5 and nothing of it is left; where not, it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import ModelError
from tempering.framings.cloze import Cloze
from tempering.framings.text_to_text import TextToText
from tempering.tunings.lora import LoRA, LowRank
from tests.laws.bench import dev, logits, run, serves, stage_of
from tests.laws.settings import TABLE, Row, rows

OTHER = Seeds.of(1)
TIED = [
    pytest.param(Cloze("{text} it was {mask}", words=("bad", "good")), "bert", id="cloze"),
    pytest.param(TextToText(words={"bad": "bad", "good": "good"}), "t5", id="text_to_text"),
]


def check_merge(tuning: Any, family: str = "bert", framing: Any = None) -> None:
    """Scores of a trained learner before and after merging."""
    stage = stage_of(tuning, framing=framing)
    learner = run(stage, family)
    backbone, before = learner.backbone, logits(learner, dev())
    assert not torch.equal(before, logits(run(stage, family, seeds=OTHER), dev()))  # training moved them
    if not tuning.merges:
        with pytest.raises(ModelError, match="cannot be merged"):
            tuning.merge(backbone)
        assert torch.equal(logits(learner, dev()), before)
        return
    tuning.merge(backbone)
    torch.testing.assert_close(logits(learner, dev()), before, rtol=1e-5, atol=1e-5)
    assert set(backbone.model.state_dict()) == backbone.own
    assert not [m for m in backbone.modules() if m._forward_hooks or m._forward_pre_hooks]


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2"])
@pytest.mark.parametrize("row", rows("tuning"))
def test_merging_keeps_the_scores(row: Row, family: str) -> None:
    if not serves(row.live, family):
        return  # refused there: see the law of families
    check_merge(row.live, family)


@pytest.mark.parametrize("name", ["diff_pruning", "lt_sft", "fish", "magnitude", "movement", "grft"])
@pytest.mark.parametrize(("framing", "family"), TIED)
def test_merging_keeps_the_scores_of_an_output_matrix_that_is_tied_to_the_embeddings(name: str, framing: Any, family: str) -> None:
    """Entries of the embeddings are chosen too, and the look-up and the output matrix are one weight."""
    check_merge(TABLE["tuning"][name].live, family, framing)


@dataclass(frozen=True)
class Unscaled(LoRA):
    """Broken: merges B A without alpha / r."""

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        for module in backbone.modules():
            if isinstance(module, LowRank):
                module.B.div_(module.scaling)
        super().merge(backbone)


@dataclass(frozen=True)
class Clinging(LoRA):
    """Broken: folds the change in and stays attached, so that it counts twice."""

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        for _, layer in self.targets(backbone):
            layer.get_parameter("weight").add_(layer.get_submodule("lora").product())


@pytest.mark.parametrize("broken", [Unscaled(r=2), Clinging(r=2)])
def test_the_law_catches(broken: Any, register: Callable[[str, type], None]) -> None:
    register("tuning", type(broken))
    with pytest.raises(AssertionError, match="not close"):
        check_merge(broken)
