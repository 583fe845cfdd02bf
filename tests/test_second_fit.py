"""A loaded backbone that is used again: what hangs on it is refused, what it was trained to is its own base from then on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import tempering
from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.learner import Learner
from tempering.mixing.training import fit_many
from tempering.recipe import Recipe
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.layer_norm import LayerNormOnly
from tempering.tunings.lora import LoRA
from tempering.tunings.pfeiffer import Pfeiffer
from tests.laws.bench import dev, logits, stage_of
from tests.tiny import save_tiny, tiny_task


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("base") / "bert"))


def _fit(tuning: Any, backbone: Backbone) -> Learner:
    return fit(Recipe("test", (stage_of(tuning),)), tiny_task(16), backbone)


@pytest.mark.parametrize("second", [Pfeiffer(m=2), Full(), LoRA(r=2)])
def test_a_body_on_which_a_tuning_hangs_is_refused(second: Any, base: str) -> None:
    backbone = Backbone.load(base)
    _fit(LoRA(r=2), backbone)
    for again in (lambda: _fit(second, backbone), lambda: fit_many({"a": tiny_task(16)}, model=backbone)):
        with pytest.raises(ModelError, match=r"holds what an earlier fit added \(.*lora.*load the pretrained model anew"):
            again()


@pytest.mark.parametrize("first", [Full(), BitFit()])
def test_what_an_earlier_fit_trained_is_saved_along(first: Any, base: str, tmp_path: Path) -> None:
    backbone = Backbone.load(base)
    _fit(first, backbone)
    many = fit_many({"a": tiny_task(16)}, Recipe("one", (stage_of(LoRA(r=2)),)), model=backbone)
    learner = _fit(Pfeiffer(m=2), backbone)
    for name, one in (("single", learner), ("many", many["a"])):
        one.save_pretrained(tmp_path / name)
        assert (tmp_path / name / "base").exists()
        assert torch.equal(logits(tempering.load(tmp_path / name), dev()), logits(one, dev()))


def test_a_body_that_nothing_changed_serves_again(base: str, tmp_path: Path) -> None:
    backbone = Backbone.load(base)
    _fit(Frozen(), backbone)
    learner = _fit(Pfeiffer(m=2), backbone)
    learner.save_pretrained(tmp_path)
    assert not learner.backbone.changed and torch.equal(logits(tempering.load(tmp_path), dev()), logits(learner, dev()))


def test_a_base_on_which_a_tuning_hangs_is_not_lent(base: str, tmp_path: Path) -> None:
    low = _fit(LoRA(r=2), Backbone.load(base))
    learner = _fit(Pfeiffer(m=2), Backbone.load(base))
    learner.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="holds what an earlier fit added"):
        tempering.load(tmp_path, base_model=low.backbone)
    assert torch.equal(logits(tempering.load(tmp_path, base_model=Backbone.load(base)), dev()), logits(learner, dev()))


def test_a_packed_body_is_used_again_where_it_is_what_it_was(base: str) -> None:
    pristine = Backbone.load(base, quantize="8bit")
    _fit(LoRA(r=2), copy.deepcopy(pristine))
    _fit(Frozen(), pristine)
    _fit(LayerNormOnly(), pristine)
    with pytest.raises(ModelError, match="is packed, and an earlier fit trained its"):
        _fit(LoRA(r=2), pristine)
