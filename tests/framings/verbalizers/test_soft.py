"""Trained class vectors: Soft and WARP."""

from __future__ import annotations

import pytest
import torch

from tempering.framings.output_head import language_head
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.soft import Soft
from tempering.framings.verbalizers.warp import WARP
from tests.framings.verbalizers.shared import LONGER, WORDS, learner_of, scores_of
from tests.tiny import tiny_backbone, tiny_task

PIECES = {"bad": ("very dull", "awful"), "good": ("great",)}
EXAMPLES = tiny_task(8).train.examples


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "modernbert", "deberta-v2"])
def test_before_any_step_it_is_the_manual_verbalizer_where_the_bias_is_copied(family: str) -> None:
    soft, manual = (scores_of(learner_of(v, family=family), EXAMPLES) for v in (Soft(bias=True), Manual()))
    torch.testing.assert_close(soft, manual, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores_of(learner_of(WARP(), family=family), EXAMPLES), manual, atol=1e-5, rtol=1e-5)


def test_without_a_bias_it_lacks_just_that() -> None:
    learner = learner_of(Manual())
    bias = learner.backbone.lm_head.bias[list(learner.framing.verbalizer.ids)]  # type: ignore[union-attr,index]
    torch.testing.assert_close(scores_of(learner_of(Soft()), EXAMPLES) + bias, scores_of(learner, EXAMPLES), atol=1e-5, rtol=1e-5)


def test_rows_are_means_over_pieces_and_words() -> None:
    mean = learner_of(Soft(words="mean", bias=True), PIECES)
    expected = scores_of(learner_of(Manual(pieces="mean"), PIECES), EXAMPLES)
    torch.testing.assert_close(scores_of(mean, EXAMPLES), expected, atol=1e-5, rtol=1e-5)
    only = {"bad": PIECES["bad"][:1], "good": PIECES["good"]}
    first = learner_of(Soft(bias=True), PIECES)
    torch.testing.assert_close(first.framing.verbalizer.weight, learner_of(Soft(bias=True), only).framing.verbalizer.weight)


def test_a_step_moves_the_vectors_and_not_the_embeddings_they_came_from() -> None:
    learner = learner_of(Soft(), LONGER)
    table = learner.backbone.embeddings.weight.detach().clone()
    with torch.no_grad():
        learner.framing.verbalizer.weight += 1.0
    assert torch.equal(learner.backbone.embeddings.weight, table)


def test_the_output_matrix_of_a_model_that_writes_text() -> None:
    backbone = tiny_backbone("gpt2")
    task = tiny_task(8)
    soft, manual = (v.build(task, backbone, WORDS) for v in (Soft(bias=True), Manual()))
    hidden = torch.randn(3, 1, backbone.hidden_size)
    language_head(backbone)
    torch.testing.assert_close(soft.scores(backbone, hidden), manual.scores(backbone, hidden), atol=1e-5, rtol=1e-5)


def test_warp_may_begin_anywhere() -> None:
    a, b = (learner_of(v).framing.verbalizer for v in (WARP("random"), WARP()))
    assert a.weight.shape == b.weight.shape == (2, 32) and not torch.allclose(a.weight, b.weight)
    assert a.bias.tolist() == [0.0, 0.0] and b.bias.any()
    assert float(a.weight.detach().std()) == pytest.approx(0.02, rel=0.4)
    assert sum(p.numel() for p in a.parameters()) == 2 * (32 + 1)
    assert not WARP("random").works_untrained and WARP().works_untrained
