"""The seam through which a framing re-estimates state over all training rows: when, from what, and who is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tempering.cache import TrunkCache
from tempering.contracts import Hooks, Weights
from tempering.errors import RecipeError
from tempering.framings.prototypes import Prototypes
from tempering.learner import Learner
from tempering.mixing.training import fit_many
from tempering.recipe import Recipe
from tempering.stabilizers.ema import EMA
from tempering.stabilizers.self_distillation import SelfDistillation
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.train import hooks, optimizer
from tempering.train.feed import Feed
from tempering.train.progress import Event
from tempering.train.refresh import TrainingRows
from tempering.train.settings import Loop
from tempering.tunings.frozen import Frozen
from tempering.tunings.lora import LoRA
from tests.laws.bench import SEEDS, STAGE, run, stage_of, untrained
from tests.laws.settings import Row, rows
from tests.laws.test_same_bytes import LOOP, check_resume
from tests.tiny import tiny_backbone, tiny_task

GROWING = Prototypes(alpha=0.9, slots=6, refresh_steps=2, pool="mean", diversity=0.5)


def stage(framing: Prototypes = GROWING, **settings: Any) -> Train:
    return dataclasses.replace(stage_of(framing=framing), **settings)


def told(stage: Train, kind: str) -> list[Event]:
    events: list[Event] = []
    run(stage, around=Surroundings(listener=events.append))
    return [e for e in events if e["event"] == kind]


@pytest.mark.parametrize(
    ("framing", "settings", "expected"),
    [
        (GROWING, {"max_steps": 6}, [0, 2, 4]),
        (Prototypes(slots=6), {"max_steps": -1, "num_train_epochs": 3}, [0, 3, 6]),  # 24 rows in batches of 8
        (Prototypes(slots=6), {"max_steps": -1, "num_train_epochs": 2, "min_steps": 10}, [0, 5]),  # stretched, as evaluations are
        (Prototypes(slots=6), {"num_train_epochs": 1}, [0]),  # a warm-up of one epoch
    ],
)
def test_it_comes_before_the_first_step_and_with_the_epochs(framing: Prototypes, settings: dict[str, Any], expected: list[int]) -> None:
    assert [event["step"] for event in told(stage(framing, **settings), "refresh")] == expected


def test_what_the_framing_tells_is_in_the_record() -> None:
    learner = run(stage(max_steps=6))
    facts = learner.record["stage"]["facts"]
    assert [f["step"] for f in facts] == [0, 2, 4] and facts[-1]["prototypes"] == float(learner.framing.active.sum())
    assert facts[-1]["prototypes"] == facts[-1]["prototypes of bad"] + facts[-1]["prototypes of good"]
    assert "facts" not in run(STAGE).record["stage"]  # a head has nothing to tell


def rows_seen(learner: Learner, cached: bool = False) -> TrainingRows:
    feed = Feed(learner.framing, tiny_task(24).train.examples, dataclasses.replace(STAGE, per_device_eval_batch_size=5), SEEDS)
    if cached:
        feed.features = TrunkCache().features(learner, feed.prompts())
    return TrainingRows(learner, feed, 0)


def test_all_rows_are_seen_in_order_in_evaluation_mode_and_a_cache_is_used() -> None:
    learner = untrained(stage()).train()
    seen = rows_seen(learner)
    prompts = seen.feed.prompts()
    with torch.no_grad():
        expected = [
            learner.framing.trunk(learner.backbone.eval(), learner.framing.collate([p], np.random.default_rng(0)))[0] for p in prompts
        ]
    learner.train()
    torch.testing.assert_close(seen.trunk(), torch.stack(expected))
    torch.testing.assert_close(seen.trunk([7, 2]), torch.stack([expected[7], expected[2]]))
    assert seen.targets == [p.target for p in prompts]
    cached = rows_seen(learner, cached=True)
    assert torch.equal(cached.trunk([7, 2]), cached.feed.features[[7, 2]])  # type: ignore[index]


def test_the_optimizer_forgets_what_was_placed_anew() -> None:
    weight, other = nn.Parameter(torch.zeros(2, 3, 4)), nn.Parameter(torch.zeros(5))
    optim = optimizer.make({"framing.prototypes": weight, "framing.other": other}, Loop(weight_decay=0.1), False, {"prototypes"})
    optimizer.renew(optim, "framing.prototypes", torch.ones(2, 3, dtype=torch.bool))  # before the first step: nothing to forget
    weight.grad, other.grad = torch.randn(2, 3, 4), torch.ones(5)
    optim.step()
    before = {k: v.clone() for k, v in optim.state[weight].items()}
    rows = torch.tensor([[True, False, False], [False, False, True]])
    optimizer.renew(optim, "framing.prototypes", rows)
    after = optim.state[weight]
    assert not after["exp_avg"][rows].any() and torch.equal(after["exp_avg"][~rows], before["exp_avg"][~rows])
    assert torch.equal(after["exp_avg_sq"][~rows], before["exp_avg_sq"][~rows])
    torch.testing.assert_close(after["exp_avg_sq"][1, 2], before["exp_avg_sq"][~rows].mean(0))
    assert after["step"] == 1 and all(after[k].shape == before[k].shape for k in before)
    optimizer.renew(optim, "framing.prototypes", torch.ones(2, 3, dtype=torch.bool))
    assert not optim.state[weight]["exp_avg_sq"].any()


def test_weight_decay_leaves_prototypes_alone() -> None:
    learner = untrained(stage())
    optim = optimizer.make(learner.trained(), Loop(weight_decay=0.1), False, learner.framing.undecayed)
    decay = {name: group["weight_decay"] for group in optim.param_groups for name in group["names"]}
    assert decay["framing.prototypes"] == 0.0 and decay["framing.log_sigma"] == 0.0
    assert decay["backbone.model.encoder.layer.0.output.dense.weight"] == 0.1


def test_a_method_s_copies_of_a_weight_are_put_right_where_it_was_placed_anew() -> None:
    held = {
        "0/framing.p": torch.zeros(2, 2),
        "framing.p": torch.ones(2, 2),
        "0/framing.q": torch.zeros(2, 2),
        "xframing.p": torch.zeros(2, 2),
    }
    given: list[Weights] = []
    held["mask/framing.p"] = torch.zeros(2, 2, dtype=torch.bool)
    folded = hooks.Folded([("one", Hooks(save=lambda: held, restore=given.append)), ("two", Hooks())])
    folded.renew("framing.p", {"framing.p": torch.full((2, 2), 7.0)}, torch.tensor([False, True]))
    (now,) = given
    assert now["0/framing.p"].tolist() == [[0, 0], [7, 7]] and now["framing.p"].tolist() == [[1, 1], [7, 7]]
    assert (
        not now["mask/framing.p"].any() and not now["0/framing.q"].any() and not now["xframing.p"].any() and not held["0/framing.p"].any()
    )


def test_a_teacher_knows_the_prototypes_of_its_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher of old weights under the mask of today would see slots that held nothing then."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def spy(learner: Learner, weights: Weights) -> None:
        seen.append((weights["framing.prototypes"].clone(), learner.framing.prototypes.detach().clone(), learner.framing.active.clone()))

    from tempering.passes import Passes

    under = Passes.under
    monkeypatch.setattr(Passes, "under", lambda self, weights: (spy(self.learner, weights), under(self, weights))[1])
    growing = stage(dataclasses.replace(GROWING, simplify=False), max_steps=6)
    run(dataclasses.replace(growing, stabilizers=(SelfDistillation(1.0, k=3),)))
    assert len({int(active.sum()) for _, _, active in seen}) > 1  # prototypes did come and go
    for theirs, mine, active in seen:
        assert theirs[active].abs().sum(-1).min() > 0 and float((theirs - mine)[active].abs().max()) < 0.1
    assert torch.equal(seen[0][0], seen[0][1])  # the first teacher is the student itself


def test_the_best_weights_come_back_with_their_own_prototypes(tmp_path: Path) -> None:
    """Another number of prototypes at the end than at the best step: weights and mask must be of the same moment."""
    states: dict[int, tuple[Tensor, Tensor]] = {}
    chosen = stage(max_steps=8, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, metric_for_best_model="loss")
    holder: list[Learner] = []

    def listen(event: Event) -> None:
        if event["event"] == "evaluate":
            states[event["step"]] = tuple(t.detach().clone() for t in (holder[0].framing.active, holder[0].framing.prototypes))

    import tempering.stages.train as module

    real = module.assemble
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "assemble", lambda *args: holder.append(real(*args)) or holder[0])
        learner = run(chosen, around=Surroundings(tmp_path, listener=listen))
    active, points = states[learner.record["stage"]["best_step"]]
    assert torch.equal(learner.framing.active, active) and torch.equal(learner.framing.prototypes, points)
    assert len({int(active.sum()) for active, _ in states.values()}) > 1


@pytest.mark.parametrize("row", rows("stabilizer"))
def test_every_stabilizer_goes_with_it_or_says_why_not(row: Row) -> None:
    one = dataclasses.replace(stage(dataclasses.replace(GROWING, simplify=False), max_steps=5), stabilizers=(row.live,))
    reason, learner = "", None
    try:
        learner = run(one)
    except RecipeError as refused:
        reason = str(refused)
    if learner is None:
        assert len(reason.split()) > 10 and "framing" in reason
    else:
        scores = learner.framing(torch.randn(3, learner.framing.prototypes.shape[-1]))[0]
        assert scores.isfinite().all() and learner.framing.prototypes[learner.framing.active].abs().sum(-1).min() > 0


def test_it_learns_and_the_number_of_prototypes_changes_on_the_way() -> None:
    learner = run(stage(Prototypes(), max_steps=60, num_train_epochs=6, learning_rate=1e-3))
    record = learner.record["stage"]
    assert record["history"][-1]["accuracy"] >= 0.9
    assert len({f["prototypes"] for f in record["facts"]}) > 1 and record["facts"][0]["prototypes"] == 2.0


@pytest.mark.parametrize("method", [SelfDistillation(1.0, k=3), EMA(0.5)])
def test_a_kill_at_every_step_leaves_no_trace_beside_a_method_that_keeps_weights(method: Any, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, framing=dataclasses.replace(GROWING, simplify=False), stabilizers=(method,))
    check_resume(loop, tmp_path)


@pytest.mark.parametrize("tuning", [Frozen(), LoRA(r=2)])
def test_a_kept_trunk_and_a_tuned_one_both_grow(tuning: Any) -> None:
    one = stage(max_steps=6)
    learner = run(dataclasses.replace(one, tuning=tuning))
    assert learner.record["stage"]["cached"] is isinstance(tuning, Frozen)
    assert len(learner.record["stage"]["facts"]) == 3 and learner.framing.active.any(-1).all()


def test_mixed_training_refreshes_as_a_single_run_does() -> None:
    """One task in a mixed batch, with dropout off, is the single run to rounding: the same prototypes come and go."""
    one = dataclasses.replace(stage(max_steps=6), tuning=LoRA(r=2, lora_dropout=0.0), learning_rate=1e-3, eval_strategy="no")
    backbone = tiny_backbone()
    for layer in backbone.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    mixed = fit_many({"a": tiny_task(24)}, Recipe("r", (one,)), backbone)["a"]
    alone = one.run(backbone, tiny_task(24), SEEDS)
    assert len(alone.record["stage"]["facts"]) == 3
    for mine, theirs in zip(mixed.record["stage"]["facts"], alone.record["stage"]["facts"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert torch.equal(mixed.framing.active, alone.framing.active)
    torch.testing.assert_close(mixed.framing.prototypes, alone.framing.prototypes, rtol=1e-4, atol=1e-5)
