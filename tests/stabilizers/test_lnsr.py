"""LNSR: what the blocks above a noisy layer put out should not move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tempering.errors import ModelError, RecipeError
from tempering.passes import altered
from tempering.recipe import Recipe
from tempering.stabilizers.lnsr import LNSR
from tempering.stabilizers.r_drop import RDrop
from tempering.stages.train import Train
from tempering.tunings.frozen import Frozen
from tempering.tunings.prompt_tuning import PromptTuning


@pytest.mark.parametrize(("layer", "place", "above"), [(0, 0, (1, 2)), (1, 2, (2,))])
def test_the_term_is_that_of_the_formula(layer: int, place: int, above: tuple[int, ...], step: Callable[..., Any]) -> None:
    """Mean over real tokens of the squared change of every block above, read from the body's own hidden states."""
    one = step([LNSR(0.5, sigma=0.3, layer=layer)])
    one.learner.eval()  # no dropout, so that the body called by hand says the same
    term = one.hooks.term(one.passes())
    rng, backbone = one.passes().stream("lnsr"), one.learner.backbone

    def change(x: torch.Tensor) -> torch.Tensor:
        return x + 0.3 * torch.from_numpy(rng.standard_normal(tuple(x.shape), "float32"))

    clean = backbone.encode(one.batch.inputs, layers=True).layers
    with altered(backbone, change, place):
        noisy = backbone.encode(one.batch.inputs, layers=True).layers
    mask = one.batch.inputs["attention_mask"].bool()
    expected = sum((clean[r] - noisy[r]).square().mean(-1)[mask].mean() for r in above)
    torch.testing.assert_close(term, 0.5 * expected)
    assert float(term.detach()) > 1e-3


def test_both_passes_share_their_dropout_and_blocks_are_kept(step: Callable[..., Any]) -> None:
    one = step([LNSR(sigma=1e-4), RDrop()])
    passes = one.passes()
    loss = one.folded.loss(passes, lambda found: found.supervised())
    assert passes.made == Train(stabilizers=(LNSR(), RDrop())).passes_per_step == 3
    assert [len(passes.student(i).layers) for i in (0, 1)] == [2, 2] and not step([RDrop()]).passes().student().layers
    assert float(one.folded.hooks[0][1].term(one.passes()).detach()) < 1e-4  # other masks would move far more
    loss.backward()


@pytest.mark.parametrize("family", ["roberta", "albert", "deberta-v2", "modernbert", "gpt2", "llama", "t5", "distilbert"])
def test_families(family: str, step: Callable[..., Any]) -> None:
    one = step([LNSR(sigma=0.1)], family=family)
    passes = one.passes()
    term = one.hooks.term(passes)
    assert len(passes.student().layers) == 2 and float(term.detach()) > 0
    term.backward()


def test_behind_a_prompt(step: Callable[..., Any]) -> None:
    one = step([LNSR(sigma=0.1)], tuning=PromptTuning(p=4))
    assert float(one.hooks.term(one.passes()).detach()) > 0


@pytest.mark.parametrize(("family", "layer"), [("bert", 2), ("albert", 1)])
def test_a_layer_with_nothing_above_is_refused(family: str, layer: int, step: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=f"lnsr: layer = {layer} of tiny-{family}.*give a layer from 0"):
        step([LNSR(layer=layer)], family=family)


def test_where_nothing_inside_is_trained_it_is_refused() -> None:
    with pytest.raises(RecipeError, match="lnsr moves what the model makes of texts.*frozen trains none of those"):
        Recipe("r", (Train(tuning=Frozen(), stabilizers=(LNSR(),)),)).check()
