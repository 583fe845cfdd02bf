"""Label smoothing: a share of each target is spread over all classes, while training and only then."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers.trainer_pt_utils import LabelSmoother

from tempering.contracts import Batch, Kind, Scores, Slab
from tempering.errors import RecipeError
from tempering.framings.losses import supervised_loss
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.prototypes import Prototypes
from tempering.passes import Passes
from tempering.stages.train import Train
from tests.laws.bench import bits, dev, differing, losses, run, stage_of, untrained


def _slab(targets: torch.Tensor, kind: Kind = "classification", weights: torch.Tensor | None = None) -> Slab:
    torch.manual_seed(0)
    return Slab(torch.randn(2, 5, 3), targets, weights, None, kind)


CLASSES = torch.tensor([0, 2, 1, 1, 0])


def test_the_loss_is_that_of_the_paper() -> None:
    """Cross entropy with q = (1 - s) one-hot + s / C, mean over heads and rows."""
    slab = _slab(CLASSES)
    q = 0.7 * F.one_hot(CLASSES, 3) + 0.1
    expected = -(q * slab.logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(supervised_loss(slab, 0.3), expected)


def test_it_is_that_of_transformers() -> None:
    slab = _slab(CLASSES)._replace(logits=torch.randn(1, 5, 3))
    theirs = LabelSmoother(epsilon=0.1)({"logits": slab.logits[0]}, CLASSES)
    torch.testing.assert_close(supervised_loss(slab, 0.1), theirs)


def test_rows_keep_their_weights() -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0])
    rows = torch.stack(
        [
            supervised_loss(_slab(CLASSES)._replace(logits=_slab(CLASSES).logits[:, i : i + 1], targets=CLASSES[i : i + 1]), 0.2)
            for i in range(5)
        ]
    )
    torch.testing.assert_close(supervised_loss(_slab(CLASSES, weights=weights), 0.2), (rows * weights).sum() / weights.sum())


def test_of_several_labels_each_yes_and_no_is_smoothed() -> None:
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 1]])
    slab = _slab(targets, "multilabel")
    p, q = slab.logits.sigmoid(), targets * 0.8 + 0.1
    torch.testing.assert_close(supervised_loss(slab, 0.2), -(q * p.log() + (1 - q) * (1 - p).log()).mean())


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_without_it_the_loss_keeps_its_bits(kind: Kind) -> None:
    targets: Any = {"classification": CLASSES, "multilabel": torch.ones(5, 3), "regression": torch.ones(5)}[kind]
    slab = _slab(targets, kind)
    assert torch.equal(supervised_loss(slab), supervised_loss(slab, 0.0))


SMOOTH = dataclasses.replace(stage_of(), label_smoothing_factor=0.2)


def test_it_acts_in_training_and_not_in_evaluation() -> None:
    """The framing's loss follows its mode; the first step's loss is smoothed and the history's losses are not."""
    learner = untrained(SMOOTH)
    slab = _slab(torch.tensor([0, 1, 1, 1, 0]))._replace(logits=torch.randn(1, 5, 2))
    scores = type("S", (), {"only": slab})()
    assert torch.equal(learner.framing.train().loss(scores, None), supervised_loss(slab, 0.2))
    assert torch.equal(learner.framing.eval().loss(scores, None), supervised_loss(slab))
    assert losses(SMOOTH)[0] != losses(stage_of())[0]
    still = dataclasses.replace(SMOOTH, learning_rate=1e-30, weight_decay=0.0)
    plain = dataclasses.replace(still, label_smoothing_factor=0.0)
    assert run(still).record["stage"]["history"][0]["loss"] == pytest.approx(run(plain).record["stage"]["history"][0]["loss"])


def test_every_student_pass_is_smoothed() -> None:
    learner = untrained(SMOOTH).train()
    batch = learner.framing.collate(
        [p[0] for p in learner.framing.render(dev()[:6], (), np.random.default_rng(0))], np.random.default_rng(0)
    )
    passes = Passes(learner, batch, learner.trained(), (0, 0))
    passes.student(1)
    expected = torch.stack([supervised_loss(scores.only, 0.2) for scores in passes.drawn()]).mean()
    assert torch.equal(passes.supervised(), expected)


def test_masked_words_are_smoothed_too() -> None:
    stage = dataclasses.replace(stage_of(framing=MaskedLM(0.5)), text="unlabeled")
    smooth = dataclasses.replace(stage, label_smoothing_factor=0.3)
    assert differing(bits(run(stage)), bits(run(smooth)))


@pytest.mark.parametrize("value", [Prototypes(), Prototypes(readout="nearest"), Prototypes(soft_labels=True)])
def test_the_chances_of_a_mixture_meet_the_smoothed_target(value: Prototypes) -> None:
    """- sum_y q(y) log P(y | x): what the framing puts out are log-probabilities already."""
    module = untrained(stage_of(framing=value)).framing
    module.smoothing = 0.3
    torch.manual_seed(1)
    logits, _ = module(torch.randn(6, 32) / 10)
    targets = torch.tensor([0, 1, 1, 0, 0, 1])
    scores = Scores((Slab(logits, targets, None, None, "classification"),))
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(1, 6))
    q = 0.7 * F.one_hot(targets, 2) + 0.15
    batch = Batch({"features": torch.zeros(6, 32)})
    torch.testing.assert_close(module.train().loss(scores, batch), -(q * logits[0]).sum(-1).mean())
    torch.testing.assert_close(module.eval().loss(scores, batch), -logits[0][torch.arange(6), targets].mean())


def test_values_have_nothing_to_smooth() -> None:
    with pytest.raises(
        RecipeError, match="label_smoothing_factor 0.2 spreads targets over classes, and framing head of a task of kind 'reg"
    ):
        run(SMOOTH, kind="regression")
    with pytest.raises(ValueError, match="less than 1"):
        Train(label_smoothing_factor=1.0)
