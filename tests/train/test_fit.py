"""The loop learns, counts, stops, keeps the best weights, and folds what methods ask of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tempering.contracts import Hooks, Prediction, Seeds, Weights
from tempering.errors import CollapseError, RecipeError
from tempering.learner import Learner
from tempering.passes import Passes
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.train.fit import Plan, fit
from tempering.tunings.frozen import Frozen
from tests.laws.bench import STAGE, bits, differing, losses, run
from tests.tiny import tiny_backbone, tiny_task

STILL = Train(max_steps=3, num_train_epochs=3, per_device_train_batch_size=16, group_by_length=False, warmup_steps=0, learning_rate=1e-3)


def test_the_loss_falls_and_the_task_is_learned() -> None:
    stage = dataclasses.replace(STAGE, max_steps=60, learning_rate=2e-3)
    told: list[dict[str, Any]] = []
    learner = run(stage, around=Surroundings(listener=told.append))
    found = [event["loss"] for event in told if event["event"] == "step"]
    assert found[0] == pytest.approx(math.log(2), abs=0.1) and np.mean(found[-5:]) < 0.2
    assert learner.record["stage"]["history"][-1]["accuracy"] >= 0.8
    assert learner.predict(["the film was good great lovely", "bad awful"]) == ["good", "bad"]


@pytest.mark.parametrize("weights", [None, np.linspace(0.2, 2.0, 24)])
def test_accumulating_2_x_8_is_a_batch_of_16(weights: Any, make: Callable[..., Any]) -> None:
    """Also where the last step of an epoch is smaller, and with row weights of uneven sums."""
    whole, feed = make(STILL, still=True, weights=weights)
    fit(whole, feed, Plan(STILL))
    loop = dataclasses.replace(STILL, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    parts, feed = make(loop, still=True, weights=weights)
    assert fit(parts, feed, Plan(loop)).passes == 2 + 1 + 2
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped_before_the_step(make: Callable[..., Any]) -> None:
    """A large epsilon makes the update proportional to the gradient, so that clipping shows."""

    def moved(limit: float) -> float:
        loop = dataclasses.replace(STILL, max_steps=1, adam_epsilon=10.0, learning_rate=1.0, max_grad_norm=limit)
        learner, feed = make(loop, still=True)
        before = bits(learner)
        fit(learner, feed, Plan(loop))
        after = bits(learner)
        return math.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in before if before[n].is_floating_point()))

    assert moved(0.0) == moved(1e9) > 0
    assert moved(1e-3) == pytest.approx(1e-3 / 10.0, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "steps", "evaluated"),
    [
        ({"max_steps": 4, "num_train_epochs": 2}, 4, [2, 4]),
        ({"max_steps": -1, "num_train_epochs": 2}, 6, [3, 6]),
        ({"max_steps": -1, "num_train_epochs": 1, "min_steps": 5}, 5, [5]),
        ({"max_steps": 5, "eval_strategy": "steps", "eval_steps": 2}, 5, [2, 4, 5]),
        ({"max_steps": 2, "eval_strategy": "no"}, 2, []),
    ],
)
def test_steps_and_evaluations(fields: dict[str, Any], steps: int, evaluated: list[int]) -> None:
    stage = run(dataclasses.replace(STAGE, **fields)).record["stage"]
    assert stage["steps"] == stage["passes"] == steps
    assert [h["step"] for h in stage["history"]] == evaluated


class Scripted:
    """An evaluator that says what the test wants, and keeps the weights it was shown."""

    def __init__(self, scores: Sequence[float], metric: str = "accuracy") -> None:
        self.scores, self.metric, self.shown = list(scores), metric, list[dict[str, torch.Tensor]]()

    def __call__(self, learner: Learner) -> tuple[dict[str, float], list[Prediction]]:
        learner.eval()
        self.shown.append(bits(learner))
        return {"loss": 1.0, self.metric: self.scores[len(self.shown) - 1]}, []


def _scripted(make: Callable[..., Any], scores: Sequence[float], metric: str = "accuracy", **fields: Any) -> tuple[Any, Scripted, Learner]:
    loop = dataclasses.replace(STILL, max_steps=len(scores), eval_strategy="steps", eval_steps=1, **fields)
    learner, feed = make(loop)
    evaluator: Any = Scripted(scores, metric)
    return fit(learner, feed, Plan(loop, evaluator=evaluator, metric=metric)), evaluator, learner


def test_patience_counts_evaluations_without_a_better_score(make: Callable[..., Any]) -> None:
    run, evaluator, learner = _scripted(make, [0.5, 0.7, 0.7, 0.6, 0.9], early_stopping_patience=2)
    assert run.stopped and run.step == 4 and run.best_step == 2 and run.best == 0.7
    assert differing(bits(learner), evaluator.shown[1]) == []


@pytest.mark.parametrize(
    ("metric", "scores", "best"),
    [
        ("accuracy", [0.5, 0.9, 0.6], 2),
        ("loss", [0.9, 0.4, 0.6], 2),
        ("log_loss", [0.4, 0.9, 0.6], 1),
        ("accuracy", [math.nan, 0.1, math.nan], 2),
        ("accuracy", [0.5, 0.5, 0.5], 1),
    ],
)
def test_the_best_weights_come_back(metric: str, scores: list[float], best: int, make: Callable[..., Any]) -> None:
    run, evaluator, learner = _scripted(make, scores, metric)
    assert run.best_step == best
    assert differing(bits(learner), evaluator.shown[best - 1]) == []


def test_or_the_last_ones_if_asked_for(make: Callable[..., Any]) -> None:
    run, evaluator, learner = _scripted(make, [0.5, 0.9, 0.6], load_best_model_at_end=False)
    assert run.best_step == 2 and differing(bits(learner), evaluator.shown[2]) == []


class Method:
    """A stabilizer made of hooks."""

    neutral: ClassVar[bool] = False

    def __init__(self, **hooks: Any) -> None:
        self.hooks = Hooks(**hooks)
        self.touches = tuple(hooks)

    def start(self, *_: Any) -> Hooks:
        return self.hooks


def test_final_weights_are_evaluated_and_saved_while_training_goes_on(make: Callable[..., Any]) -> None:
    mean: dict[str, list[torch.Tensor]] = {}

    def after_step(weights: Weights) -> None:
        for name, weight in weights.items():
            mean.setdefault(name, []).append(weight.detach().clone())

    def final() -> Weights:
        return {name: torch.stack(seen).mean(0) for name, seen in mean.items()}

    loop = dataclasses.replace(STILL, eval_strategy="steps", eval_steps=1, load_best_model_at_end=False)
    evaluator: Any = Scripted([0.1, 0.2, 0.3])
    learner, feed = make(loop)
    fit(learner, feed, Plan(loop, [("mean", Method(after_step=after_step, final=final))], evaluator=evaluator, metric="accuracy"))
    plain, feed = make(loop)
    fit(plain, feed, Plan(loop))
    name = "framing.final.weight"
    assert torch.equal(mean[name][-1], plain.state_dict()[name])  # training itself saw none of it
    assert torch.equal(learner.state_dict()[name], final()[name])
    assert torch.equal(evaluator.shown[1][name], (mean[name][0] + mean[name][1]) / 2)


def test_a_base_replaces_the_supervised_loss_and_terms_add_to_it(make: Callable[..., Any]) -> None:
    told: list[dict[str, Any]] = []
    base = Method(base=lambda p: 0.0 * p.student().only.logits.sum() + 2.0)
    methods = [("base", base), ("term", Method(term=lambda p: torch.tensor(0.5)))]
    learner, feed = make(STILL)
    fit(learner, feed, Plan(STILL, methods, listener=told.append))
    assert [event["loss"] for event in told] == [2.5, 2.5, 2.5]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(value: float, make: Callable[..., Any]) -> None:
    count = iter(range(9))
    learner, feed = make(STILL)
    broken = Method(term=lambda p: torch.tensor(value if next(count) == 1 else 0.0))
    with pytest.raises(CollapseError, match=r"became (nan|inf) in step 2 of 3; lower learning_rate \(now 0\.001\)"):
        fit(learner, feed, Plan(STILL, [("broken", broken)]))


def test_dropout_is_on_in_every_step_and_off_in_a_frozen_trunk(make: Callable[..., Any]) -> None:
    """A body is loaded in evaluation mode, and evaluations in between switch it back."""
    for tuning, expected in ((STILL.tuning, True), (Frozen(), False)):
        loop = dataclasses.replace(STILL, tuning=tuning, eval_strategy="steps", eval_steps=1)
        learner, feed = make(loop)
        modes: list[bool] = []
        learner.backbone.model.register_forward_pre_hook(lambda body, _args, seen=modes: seen.append(body.training))
        evaluator: Any = Scripted([0.1, 0.2, 0.3])
        fit(learner, feed, Plan(loop, evaluator=evaluator, metric="accuracy"))
        assert modes == [expected] * 3
        assert not learner.training and not learner.backbone.model.training


def test_every_micro_batch_of_every_step_has_a_random_stream_of_its_own(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[Any, ...]] = []

    def passes(learner: Learner, batch: Any, trained: Weights, key: tuple[Any, ...], *rest: Any, **named: Any) -> Passes:
        keys.append(key)
        return Passes(learner, batch, trained, key, *rest, **named)

    monkeypatch.setattr("tempering.train.fit.Passes", passes)
    loop = dataclasses.replace(STILL, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    for seed in (0, 1):
        learner, feed = make(loop)
        fit(learner, feed, Plan(loop, seed=seed))
    assert len(set(keys)) == len(keys) == 2 * (2 + 1 + 2)


def test_class_weights_weigh_rows_by_their_class() -> None:
    task = tiny_task(24)
    uneven = task.with_train([i for i, e in enumerate(task.train) if e.label == "good" or i < 6])
    counts = [uneven.train.labels.count(label) for label in uneven.labels]
    assert counts[0] != counts[1]
    stage = dataclasses.replace(STAGE, max_steps=1, per_device_train_batch_size=32, class_weights="balanced", learning_rate=1e-12)
    told: list[float] = []
    listener = Surroundings(listener=lambda event: told.append(event["loss"]) if event["event"] == "step" else None)
    learner = stage.run(tiny_backbone(), uneven, Seeds.of(0), around=listener)
    rows = [-math.log(p.probabilities[e.label]) for p, e in zip(learner.predictions(uneven.train.examples), uneven.train, strict=True)]
    classes = [[r for r, e in zip(rows, uneven.train, strict=True) if e.label == label] for label in uneven.labels]
    assert told[0] == pytest.approx(sum(sum(c) / len(c) for c in classes) / len(classes), abs=0.05)  # 0.05: dropout


def test_thresholds_of_several_labels_are_chosen_on_dev_and_used() -> None:
    learner = run(dataclasses.replace(STAGE, max_steps=8), kind="multilabel")
    examples = tiny_task(24, "multilabel").dev.examples
    thresholds = learner.framing.thresholds
    assert thresholds.shape == (2,) and not torch.equal(thresholds, torch.full((2,), 0.5))
    for prediction in learner.predictions(examples):
        expected = [x for x, t in zip(learner.framing.labels, thresholds, strict=True) if prediction.probabilities[x] >= float(t)]
        assert prediction.label == tuple(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"metric_for_best_model": "acuracy"}, "did you mean"), ({"metric_for_best_model": "pearson"}, "not known for classification")],
)
def test_a_metric_that_means_nothing_here_is_refused_before_training(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run(dataclasses.replace(STAGE, **fields))


def test_a_metric_beside_the_standard_ones_can_choose_the_weights() -> None:
    learner = run(dataclasses.replace(STAGE, metric_for_best_model="precision:good", load_best_model_at_end=True))
    assert "precision:good" in learner.record["stage"]["history"][0]


def test_the_listener_hears_every_step_with_its_rate() -> None:
    told: list[dict[str, Any]] = []
    run(dataclasses.replace(STAGE, warmup_steps=2), around=Surroundings(listener=told.append))
    steps = [event for event in told if event["event"] == "step"]
    assert [e["step"] for e in steps] == [1, 2, 3, 4] and all(e["total"] == 4 for e in steps) and steps[0]["loss"] == losses(STAGE)[0]
    assert [e["learning_rate"] for e in steps] == pytest.approx([0.0, 5e-3, 1e-2, 5e-3])
