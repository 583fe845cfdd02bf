"""A law over the registry: any tuning, among rows of others and of a second task of its own kind, scores as alone."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tempering.mixing.learner import MixedLearner
from tempering.tunings.attach import Added, freeze
from tempering.tunings.frozen import Frozen
from tempering.tunings.lora import LoRA
from tests.laws.settings import live
from tests.mixing.shared import batches_of, learner_of, mixture
from tests.tiny import tiny_backbone

TUNINGS = live("tuning")
# They change matrices, layers or modules themselves, not what goes through them: they run in passes of their own.
SPARSE = {"diff_pruning", "lt_sft", "fish", "grft", "magnitude", "movement"}
APART = {"full", "top_layers", "truncate", "peft", *SPARSE}


@pytest.mark.parametrize("name", TUNINGS)
def test_any_tuning_scores_among_others_as_alone(name: str) -> None:
    tuning: Any = TUNINGS[name]
    mixed, alone = mixture({"mine": tuning, "other": LoRA(r=3), "mine-too": tuning})
    batches = batches_of(alone, rows=3)
    with torch.no_grad():
        for slab in mixed.eval()(batches).slabs:
            expected = alone[slab.task].eval()(batches[slab.task]).only.logits
            torch.testing.assert_close(slab.logits, expected, rtol=1e-5, atol=1e-5)
    assert bool(mixed.apart) == (name in APART)
    assert all("are off by" not in why for why in mixed.apart.values())  # what is known of a tuning is said, not what comes of it
    if name in SPARSE:
        assert "it changes embeddings." in mixed.apart["mine"] or "it changes encoder.layer." in mixed.apart["mine"]
        assert mixed.apart["mine"].endswith(".weight itself, which the rows of all tasks share")


class Shift(Added):
    """A vector of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(32))


class Behind:
    """A tuning that acts through a new ``forward`` of the layer instead of a hook, where mixed batches cannot see it."""

    trunk_eval: ClassVar[bool] = False

    def attach(self, backbone: Any) -> None:
        freeze(backbone)
        layer = backbone.blocks[0].attention.output.dense
        layer.add_module("shift", Shift())
        forward = layer.forward
        layer.forward = lambda x: forward(x) + layer.shift.vector if self.acts else forward(x)

    acts = True


class Idle(Behind):
    """One whose weight does nothing at all."""

    acts = False


@pytest.mark.parametrize(("tuning", "why"), [(Behind(), "among others are off by"), (Idle(), "does not show in its scores")])
def test_a_change_that_does_not_arrive_is_found_before_it_is_trained(tuning: Any, why: str) -> None:
    mixed = MixedLearner(tiny_backbone())
    learner = learner_of(Frozen(), "")
    tuning.attach(learner.backbone)
    learner.tuning = tuning
    vector: Tensor = learner.backbone.get_parameter("model.encoder.layer.0.attention.output.dense.shift.vector")
    mixed.add("mine", learner)
    assert why in mixed.apart["mine"] and not vector.any() and vector.requires_grad
