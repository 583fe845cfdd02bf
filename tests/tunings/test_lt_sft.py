"""Lottery-ticket sparse fine-tuning: choice by change, rewind, the penalty in both runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tempering.contracts import Probe
from tempering.learner import Learner
from tempering.tunings.attach import body_weights
from tempering.tunings.lt_sft import LTSFT
from tempering.tunings.sparse import flat
from tests.laws.bench import bits, differing, losses, run, stage_of
from tests.tunings.sparse_cases import Told, fresh, scores_like


def _prepared(tuning: LTSFT, tuned: dict[str, Any], learner: Learner) -> torch.Tensor:
    tuning.prepare(learner, Told(tuned=tuned))
    return tuning.bank(learner.backbone).indices


def test_the_entries_that_changed_most_are_kept_all_over_the_body() -> None:
    tuning = LTSFT(density=0.01)
    learner = fresh(tuning)
    chosen = tuning.chosen(learner.backbone)
    change = scores_like(chosen)
    tuned = {n: body_weights(learner.backbone)[n.removeprefix("backbone.model.")].detach() + t for n, t in change.items()}
    indices = _prepared(tuning, tuned, learner)
    k = tuning.count(learner.backbone)
    size = (flat(tuned, chosen) - flat({f"backbone.model.{n}": w.detach() for n, w in chosen.items()}, chosen)).abs()
    assert len(indices) == len(set(indices.tolist())) == k
    assert float(size[indices.long()].min()) >= float(size.sort(descending=True).values[k - 1])


def test_changes_that_tie_are_kept_to_the_exact_number() -> None:
    tuning = LTSFT(density=0.01)
    learner = fresh(tuning)
    tuned = {f"backbone.model.{n}": torch.full_like(w, 9.0) for n, w in tuning.chosen(learner.backbone).items()}
    with torch.no_grad():
        for weight in body_weights(learner.backbone).values():
            weight.fill_(8.0)
    assert _prepared(tuning, tuned, learner).tolist() == list(range(tuning.count(learner.backbone)))


def test_choosing_rewinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `prepare` every weight, the head's too, is what it was, and the change is zero."""
    seen: dict[str, Any] = {}
    prepare = LTSFT.prepare

    def watched(self: LTSFT, learner: Learner, probe: Probe) -> None:
        before = bits(learner)
        prepare(self, learner, probe)
        seen["moved"] = differing(before, bits(learner))
        seen["values"] = bool(self.bank(learner.backbone).values.any())

    monkeypatch.setattr(LTSFT, "prepare", watched)
    run(stage_of(LTSFT(density=0.02, epochs=1.0)))
    assert seen == {"moved": ["backbone.model.lt_sft.indices"], "values": False}


def test_norms_are_left_out_of_both_runs_unless_asked_for() -> None:
    learner, probe = fresh(LTSFT()), Told()
    LTSFT().prepare(learner, probe)
    assert probe.asked["epochs"] == 3.0
    probe.asked["tuning"].attach(learner.backbone)
    trained = [n for n, w in learner.backbone.model.named_parameters() if w.requires_grad]
    assert trained and not [n for n in trained if "LayerNorm" in n or "lt_sft" in n]
    assert probe.asked["tuning"].count(learner.backbone) == sum(
        w.numel() for n, w in body_weights(learner.backbone).items() if n in trained
    )
    assert LTSFT(layer_norm=True).count(learner.backbone) > LTSFT().count(learner.backbone)


def test_the_penalty_is_the_mean_absolute_change() -> None:
    tuning = LTSFT(density=0.02, l1=0.5)
    learner = fresh(tuning)
    bank = tuning.bank(learner.backbone)
    bank.values.data.uniform_(-1, 1)
    term = tuning.start(learner, learner.trained(), 0).term
    assert term is not None
    expected = 0.5 * float(bank.values.detach().abs().sum()) / sum(w.numel() for w in tuning.chosen(learner.backbone).values())
    assert term(None).item() == pytest.approx(expected)  # type: ignore[arg-type]


def test_the_first_run_has_the_same_penalty_against_its_start() -> None:
    tuning, probe = LTSFT(density=0.02, l1=0.5), Told()
    learner = fresh(tuning)
    tuning.prepare(learner, probe)
    dense = probe.asked["tuning"]
    dense.attach(learner.backbone)
    term = dense.start(learner, learner.trained(), 0).term
    assert term(None).item() == 0.0
    with torch.no_grad():
        learner.backbone.model.encoder.layer[0].intermediate.dense.bias.add_(2.0)
    assert term(None).item() == pytest.approx(0.5 * 2.0 * 64 / dense.count(learner.backbone))


def test_only_a_penalty_makes_it_act_while_training() -> None:
    assert LTSFT().neutral and not LTSFT(l1=0.1).neutral
    plain, held = losses(stage_of(LTSFT(density=0.02, epochs=1.0))), losses(stage_of(LTSFT(density=0.02, epochs=1.0, l1=100.0)))
    assert held[-1] != plain[-1]
