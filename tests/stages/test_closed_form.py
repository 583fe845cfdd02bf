"""The head that is solved for: equal to scikit-learn's, written into the head's own weights, saved and loaded like any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

import tempering
from tempering.cache import TrunkCache
from tempering.contracts import Example, Seeds
from tempering.errors import DataError, RecipeError
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.framings.head import Head
from tempering.framings.pairs import Pairs
from tempering.learner import Learner
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.saving import loads_with
from tempering.stages.closed_form import ABSENT, ClosedForm
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.tasks import Task
from tempering.tunings.lora import LoRA
from tests.laws.bench import bits, differing
from tests.tiny import save_tiny, tiny_backbone, tiny_examples, tiny_task

SEEDS = Seeds.of(0)
STAGE = ClosedForm()


def three(rows: int = 30) -> Task:
    """A task of three classes of uneven size."""
    found = tiny_examples(rows, "classification", 0)
    labelled = [dataclasses.replace(e, label="so so" if i % 5 == 0 else e.label) for i, e in enumerate(found)]
    return Task.from_examples(train=labelled, dev=labelled[:10], kind="classification")


def vectors(learner: Learner, task: Task) -> tuple[np.ndarray, list[Any]]:
    """(what the last map reads of the training rows, their labels)."""
    prompts = [found[0] for found in learner.framing.render(task.train.examples, (), np.random.default_rng(0))]
    features = learner.score(prompts).only.features
    assert features is not None
    return features.double().numpy(), [e.label for e in task.train]


def chances(learner: Learner, task: Task) -> np.ndarray:
    """Probabilities [rows, classes] of the training rows."""
    return np.array([[p.probabilities[label] for label in task.labels] for p in learner.predictions(task.train.examples)])


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("task", [tiny_task(), three()], ids=["two", "three"])
def test_the_logistic_head_is_scikit_learns(task: Task, c: float, balanced: bool) -> None:
    learner = dataclasses.replace(STAGE, C=c, class_weights="balanced" if balanced else "none").run(tiny_backbone(), task, SEEDS)
    x, y = vectors(learner, task)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=10_000, class_weight="balanced" if balanced else None).fit(x, y)
    order = [list(theirs.classes_).index(label) for label in task.labels]
    np.testing.assert_allclose(chances(learner, task), theirs.predict_proba(x)[:, order], atol=1e-5)


def test_the_solution_is_a_minimum() -> None:
    """The gradient of |W|^2 / 2 + C sum of cross entropies vanishes there."""
    task = three()
    learner = dataclasses.replace(STAGE, C=2.0).run(tiny_backbone(), task, SEEDS)
    x, y = vectors(learner, task)
    weight = learner.framing.final.weight.detach().double().requires_grad_()
    bias = learner.framing.final.bias.detach().double().requires_grad_()
    logits = torch.from_numpy(x) @ weight.T + bias
    targets = torch.tensor([task.label_index(label) for label in y])
    (weight.square().sum() / 2 + 2.0 * torch.nn.functional.cross_entropy(logits, targets, reduction="sum")).backward()
    assert weight.grad is not None and bias.grad is not None
    assert weight.grad.abs().max() < 1e-4 and bias.grad.abs().max() < 1e-4


def test_sets_of_labels_are_one_problem_a_label() -> None:
    task = tiny_task(kind="multilabel")
    learner = STAGE.run(tiny_backbone(), task, SEEDS)
    x, y = vectors(learner, task)
    for i, label in enumerate(task.labels):
        theirs = LogisticRegression(tol=1e-8, max_iter=10_000).fit(x, [label in chosen for chosen in y])
        np.testing.assert_allclose(chances(learner, task)[:, i], theirs.predict_proba(x)[:, 1], atol=1e-5)


@pytest.mark.parametrize("rows", [12, 60])
def test_ridge_is_scikit_learns_with_fewer_and_with_more_rows_than_dimensions(rows: int) -> None:
    task = tiny_task(rows, "regression")
    learner = ClosedForm(head="ridge", C=4.0).run(tiny_backbone(), task, SEEDS)
    x, y = vectors(learner, task)
    values = np.asarray(y, float)
    theirs = Ridge(alpha=1 / 4.0).fit(x, (values - values.mean()) / values.std())
    mine = np.array([p.label for p in learner.predictions(task.train.examples)])
    np.testing.assert_allclose(mine, theirs.predict(x) * values.std() + values.mean(), atol=1e-4)


def test_ridge_over_classes_fits_one_hot_targets() -> None:
    task = three()
    learner = ClosedForm(head="ridge", C=3.0, class_weights="balanced").run(tiny_backbone(), task, SEEDS)
    x, y = vectors(learner, task)
    numbers = np.array([task.label_index(label) for label in y])
    weights = len(y) / (3 * np.bincount(numbers)[numbers])
    theirs = Ridge(alpha=1 / 3.0).fit(x, np.eye(3)[numbers], sample_weight=weights)
    np.testing.assert_allclose(learner.framing.final.weight.detach().numpy(), theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(learner.framing.final.bias.detach().numpy(), theirs.intercept_, atol=1e-4)


def test_classes_without_rows_and_single_classes() -> None:
    rows = tiny_task(20).train.examples
    absent = Task("t", "classification", ("bad", "good", "never"), dataclasses.replace(tiny_task().train, examples=rows))
    found = chances(STAGE.run(tiny_backbone(), absent, SEEDS), absent)
    assert (found[:, 2] < np.exp(-ABSENT + 1)).all() and np.allclose(found.sum(1), 1, atol=1e-5)
    good = tuple(e for e in rows if e.label == "good")
    alone = dataclasses.replace(absent, train=dataclasses.replace(absent.train, examples=good))
    assert (chances(STAGE.run(tiny_backbone(), alone, SEEDS), alone)[:, 1] > 1 - 1e-9).all()


def test_several_heads_and_unit_vectors() -> None:
    task = tiny_task()
    one, two = (ClosedForm(Head(pool="mean", normalize=True, heads=n)).run(tiny_backbone(), task, SEEDS) for n in (1, 2))
    np.testing.assert_allclose(chances(one, task), chances(two, task), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors(one, task)[0], axis=1), 1, atol=1e-5)


def test_the_model_itself_stays_and_its_outputs_are_shared() -> None:
    backbone, cache = tiny_backbone(), TrunkCache()
    before = {n: p.clone() for n, p in backbone.named_parameters()}
    first = STAGE.run(backbone, tiny_task(), SEEDS, around=Surroundings(cache=cache))
    assert all(torch.equal(p, before[n]) for n, p in backbone.named_parameters())
    spent = cache.seconds
    second = dataclasses.replace(STAGE, C=9.0).run(backbone, tiny_task(), SEEDS, around=Surroundings(cache=cache))
    assert spent > 0 and cache.seconds == spent
    assert differing(bits(first), bits(second)) == ["framing.final.bias", "framing.final.weight"]


@pytest.mark.parametrize("tuning", ["full", LoRA(r=2)], ids=["full", "lora"])
def test_setfit_from_pairs_to_a_folder(tuning: Any, tmp_path: Path) -> None:
    recipe = Recipe.load("setfit").override({"stages.0.max_steps": 3})
    recipe = dataclasses.replace(recipe, stages=(dataclasses.replace(recipe.stages[0], tuning=tuning), recipe.stages[1]))
    assert isinstance(recipe.stages[0].framing, Pairs) and recipe.check() == []
    task = tiny_task(16)
    learner = fit(recipe, task, save_tiny("bert", tmp_path / "base").as_posix())
    assert learner.record["metrics"]["dev"]["accuracy"] >= 0 and learner.record["stage"]["steps"] == 0
    assert learner.record["trained_parameters"] == sum(p.numel() for p in learner.framing.final.parameters())
    learner.save_pretrained(tmp_path / "saved")
    back = tempering.load(tmp_path / "saved")
    assert back.predictions(task.train.examples) == learner.predictions(task.train.examples)
    assert "tempering" in loads_with(learner)
    assert explain(recipe, tiny_backbone(), task).stages[1].cached


def test_the_same_seed_gives_the_same_bytes() -> None:
    runs = [fit(Recipe.load("setfit").override({"stages.0.max_steps": 2}), tiny_task(16), tiny_backbone(), seed=3) for _ in range(2)]
    assert differing(bits(runs[0]), bits(runs[1])) == []


def test_one_that_died_while_it_solved_solves_again_and_trains_no_pair_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, task = Recipe.load("setfit").override({"stages.0.max_steps": 2}), tiny_task(16)
    whole = fit(recipe, task, tiny_backbone(), output_dir=tmp_path / "whole")
    with monkeypatch.context() as broken:
        broken.setattr(ClosedForm, "_fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, task, tiny_backbone(), output_dir=tmp_path / "killed")
    told: list[dict[str, Any]] = []
    again = fit(recipe, task, tiny_backbone(), output_dir=tmp_path / "killed", resume=True, listener=told.append)
    assert not [e for e in told if e["event"] == "step"] and differing(bits(whole), bits(again)) == []


@pytest.mark.parametrize(
    ("stage", "kind", "reason"),
    [
        (STAGE, "regression", "head=logistic fits classes, and this task has values; set head: ridge"),
        (STAGE, "tagging", "kind 'tagging': it fits one vector a text; use a stage train"),
        (ClosedForm(class_weights="balanced"), "multilabel", "these rows have none; leave it out"),
    ],
)
def test_tasks_it_cannot_serve_are_refused(stage: ClosedForm, kind: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        stage.run(tiny_backbone(), tiny_task(kind=kind), SEEDS)


def test_places_and_framings_it_cannot_serve_are_refused() -> None:
    with pytest.raises(RecipeError, match="found cloze; use framing head"):
        ClosedForm(Cloze()).check("r: stages.0", last=True)
    with pytest.raises(RecipeError, match="make it the last stage"):
        Recipe("r", (STAGE, Train())).check()
    with pytest.raises(
        RecipeError, match=r"\(roberta\) has a dense layer below it that would stay as it was drawn; set framing.pool: mean"
    ):
        ClosedForm(Head()).run(tiny_backbone("roberta"), tiny_task(), SEEDS)
    empty = dataclasses.replace(tiny_task(), train=dataclasses.replace(tiny_task().train, examples=()))
    with pytest.raises(DataError, match="expected labelled training rows, found none"):
        STAGE.run(tiny_backbone(), empty, SEEDS)


def test_long_texts_keep_their_place_among_the_rows() -> None:
    """Rows are read longest first, and come back in their order."""
    rows = [Example(("good " * (i + 1) if i % 2 else "bad " * (20 - i),), "good" if i % 2 else "bad", i + 1) for i in range(12)]
    task = Task.from_examples(train=rows, kind="classification")
    learner = ClosedForm(C=1e4, per_device_eval_batch_size=5).run(tiny_backbone(), task, SEEDS)
    assert [p.label for p in learner.predictions(rows)] == [e.label for e in rows]
