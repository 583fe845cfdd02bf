"""Magnitude and movement: which entries each score takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tempering
from tempering.backbone import Backbone
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.tunings.attach import body_weights
from tempering.tunings.magnitude import MagnitudeMask
from tempering.tunings.movement import MovementMask
from tempering.tunings.sparse import Bank, flat
from tests.laws.bench import bits, dev, logits, run, stage_of
from tests.tiny import save_tiny, tiny_backbone, tiny_model, tiny_task
from tests.tunings.shared import attached
from tests.tunings.sparse_cases import Told, fresh


@pytest.mark.parametrize("keep", ["largest", "smallest"])
def test_magnitude_takes_the_largest_or_the_smallest_weights_of_all(keep: Any) -> None:
    tuning = MagnitudeMask(density=0.03, keep=keep)
    backbone = attached(tuning)
    size = torch.cat([w.detach().abs().view(-1) for w in tuning.chosen(backbone).values()])
    inside = torch.zeros_like(size, dtype=torch.bool).index_fill(0, tuning.bank(backbone).indices.long(), True)
    assert int(inside.sum()) == tuning.count(backbone)
    if keep == "largest":
        assert float(size[inside].min()) >= float(size[~inside].max())
    else:
        assert float(size[inside].max()) <= float(size[~inside].min())


def test_magnitude_needs_no_data_and_a_later_attach_keeps_its_entries() -> None:
    tuning = MagnitudeMask(density=0.03)
    assert not hasattr(tuning, "prepare")
    backbone = attached(tuning)
    chosen = tuning.bank(backbone).indices.clone()
    tuning.bank(backbone).values.data.fill_(100.0)
    tuning.attach(backbone)
    assert torch.equal(tuning.bank(backbone).indices, chosen) and bool(tuning.bank(backbone).values.all())


def test_magnitude_chooses_nothing_where_a_folder_says_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_tiny("bert", tmp_path / "base")
    learner = tempering.fit(Recipe("mine", (stage_of(MagnitudeMask(density=0.02)),)), tiny_task(24), str(base))
    folder, scored = learner.save_pretrained(tmp_path / "saved"), logits(learner, dev())
    monkeypatch.setattr(Bank, "choose", lambda *_: pytest.fail("chose what the folder holds"))
    assert torch.equal(logits(tempering.load(folder), dev()), scored)


def test_magnitude_is_attached_where_weights_have_no_values() -> None:
    with torch.device("meta"):
        model = type(tiny_model("bert"))(tiny_backbone().config)
    backbone = Backbone(model, None, "outline")
    MagnitudeMask(density=0.03).attach(backbone)
    assert MagnitudeMask(density=0.03).bank(backbone).values.is_meta


def _dense(tuning: MovementMask, learner: Learner) -> Any:
    """The dense run that movement asks for, started on a learner of our own: its hook sees the gradients we make up."""
    probe = Told()
    tuning.prepare(learner, probe)
    dense = probe.asked["tuning"]
    dense.attach(learner.backbone)
    return dense


def test_the_score_grows_where_a_gradient_step_moves_away_from_zero() -> None:
    """S = -g w, summed: positive where -g points the way of w."""
    tuning = MovementMask(density=0.01)
    learner, answering = fresh(tuning), fresh(tuning)
    trained = {n: w for n, w in learner.named_parameters() if n.startswith("backbone.") and "movement" not in n}
    away = {n: -torch.sign(w.detach()) * torch.rand_like(w) for n, w in trained.items()}
    steps = [away, {n: 0.5 * g for n, g in away.items()}]

    class Fed(Told):
        def fine_tuned(self, tuning: Any, num_train_epochs: float | None = None) -> Any:
            hook = tuning.start(learner, trained, 0).gradient
            for gradients in steps:
                for name, g in gradients.items():
                    assert hook(name, g) == 1.0
                with torch.no_grad():
                    for weight in trained.values():
                        weight.mul_(2.0)  # the weights of the second step are others
            assert hook("framing.final.weight", torch.ones(2)) == 1.0
            return {}

    start = {n: w.detach().clone() for n, w in trained.items()}
    tuning.prepare(answering, Fed())
    score = {n: -(steps[0][n] * start[n]) - steps[1][n] * 2 * start[n] for n in start}
    wanted = flat(score, tuning.chosen(answering.backbone))
    indices = tuning.bank(answering.backbone).indices.long()
    k = tuning.count(answering.backbone)
    assert len(indices) == k and float(wanted[indices].min()) >= float(wanted.sort(descending=True).values[k - 1]) > 0


def test_the_dense_run_trains_every_maskable_weight_for_the_asked_epochs() -> None:
    learner = fresh(MovementMask())
    dense = _dense(MovementMask(), learner)
    assert {n for n, w in learner.backbone.model.named_parameters() if w.requires_grad} == set(body_weights(learner.backbone))
    probe = Told()
    MovementMask(epochs=None).prepare(fresh(MovementMask(epochs=None)), probe)
    assert probe.asked["epochs"] is None and type(probe.asked["tuning"]) is type(dense)


def test_the_dense_run_has_a_rate_of_its_own_for_the_body() -> None:
    tuning = MovementMask(dense_rate=0.01)
    learner = fresh(tuning)
    dense = _dense(tuning, learner)
    rate = dense.start(learner, learner.trained(), 0).rate
    rates = {n.partition(".")[0]: rate(n, 0.5) for n in learner.trained()}
    assert rates == {"backbone": 0.01, "framing": 1.0}


def test_movement_trains_other_entries_than_magnitude_and_twice_the_same() -> None:
    first, again, other = (run(stage_of(t)) for t in (MovementMask(density=0.02), MovementMask(density=0.02), MagnitudeMask(density=0.02)))
    mine, theirs = (set(t.tuning.bank(t.backbone).indices.tolist()) for t in (first, other))
    assert len(mine & theirs) < 0.8 * len(mine)
    assert all(torch.equal(a, b) for a, b in zip(bits(first).values(), bits(again).values(), strict=True))
