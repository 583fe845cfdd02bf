"""Several tries: the bad ones end early, the one that is kept is the run it would have been alone, and nothing is hidden."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.contracts import Seeds
from tempering.errors import RecipeError, ResumeError
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.stages.pet import PET
from tempering.tasks import Task
from tempering.train import checkpoint
from tempering.trying import Tries, fit_tries
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import save_tiny, tiny_examples, tiny_task

FAST = {"min_steps": 6, "num_train_epochs": 3, "learning_rate": 3e-3, "metric_for_best_model": "loss"}
HOW = Tries(4, stop_worst=0.5, stop_at=0.3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.from_examples(train=tiny_examples(24), dev=tiny_examples(12, start=100), test=tiny_examples(16, start=200))


@pytest.fixture(scope="module")
def whole(model: str, task: Task) -> Any:
    return fit_tries(recipe(), task, model, tries=HOW)


def recipe(**changes: Any) -> Recipe:
    return Recipe.load("full").override(FAST | changes)


def tries(learner: Any) -> list[dict[str, Any]]:
    return list(learner.record["tries"])


def test_half_of_them_are_stopped_and_the_best_on_dev_is_bit_for_bit_its_own_run(model: str, task: Task) -> None:
    chosen = fit_tries(recipe(), task, model, tries=HOW, seed=3)
    states = [t["state"] for t in tries(chosen)]
    assert states.count("stopped") == states.count("finished") == 2
    assert all(t["step"] == 2 for t in tries(chosen) if t["state"] == "stopped")
    best = max((t for t in tries(chosen) if t["state"] == "finished"), key=lambda t: t["score"])
    assert chosen.record["chosen"] == best["number"]
    alone = fit(recipe(), task, model, seeds=Seeds(**best["seeds"]))
    for name, weight in alone.trained().items():
        assert torch.equal(weight, chosen.trained()[name]), name
    assert alone.record["metrics"] == chosen.record["metrics"]
    assert alone.record["data"] == chosen.record["data"]


def test_the_worst_at_the_pause_are_those_that_end(model: str, task: Task, whole: Any) -> None:
    found = tries(whole)
    first = []
    for t in found:
        history = fit(recipe(), replace(task, test=None), model, seeds=Seeds(**t["seeds"])).record["stage"]["history"]
        first.append(-history[0]["loss"])
    order = sorted(range(4), key=lambda i: -first[i])
    assert {t["number"] for t in found if t["state"] == "stopped"} == set(order[2:])


def test_the_first_try_is_the_plain_run_and_rows_are_the_same_in_all() -> None:
    found = HOW.seeds(Seeds.of(2))
    assert found[0] == Seeds.of(2)
    assert {s.sampling for s in found} == {Seeds.of(2).sampling}
    assert [(s.init, s.order, s.dropout) for s in found[1:]] == [
        (Seeds.of(i).init, Seeds.of(i).order, Seeds.of(i).dropout) for i in (3, 4, 5)
    ]


def test_the_test_split_is_read_for_the_kept_model_alone(model: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(
        "tempering.trying.fit", lambda recipe, task, *a, **k: (seen.append(task.test is None), fit(recipe, task, *a, **k))[1]
    )
    chosen = fit_tries(recipe(), task, model, tries=2)
    assert seen
    assert all(seen)
    assert set(chosen.record["metrics"]) == {"dev", "test"}


def test_what_was_done_and_spent_is_said(whole: Any) -> None:
    chosen = whole
    assert any("of 4, chosen on the development split (2 were stopped early)" in note for note in chosen.record["notes"])
    assert chosen.record["train_seconds"] == pytest.approx(sum(t["seconds"] for t in tries(chosen)))
    assert chosen.record["seconds"] >= chosen.record["train_seconds"] > 0


@pytest.mark.parametrize("kill_at", [3, 8])
def test_a_killed_race_goes_on_where_it_stood(model: str, task: Task, whole: Any, tmp_path: Path, kill_at: int) -> None:
    saves = 0

    def kill(event: dict[str, Any]) -> None:
        nonlocal saves
        saves += event["event"] == "save"
        if saves == kill_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_tries(recipe(), task, model, tries=HOW, output_dir=tmp_path, listener=kill)
    again = fit_tries(recipe(), task, model, tries=HOW, output_dir=tmp_path, resume=True)
    timeless = [[{k: v for k, v in t.items() if k != "seconds"} for t in tries(x)] for x in (whole, again)]
    assert timeless[0] == timeless[1]
    assert all(torch.equal(w, again.trained()[n]) for n, w in whole.trained().items())
    once_more = fit_tries(recipe(), task, model, tries=HOW, output_dir=tmp_path, resume=True)
    assert tries(once_more) == tries(again)


def test_a_try_that_diverges_is_the_worst_and_ends_no_other(model: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.errors import CollapseError

    def half(*args: Any, **given: Any) -> Any:
        if given["seeds"].init in (Seeds.of(0).init, Seeds.of(2).init):
            raise CollapseError("the loss became inf in step 1")
        return fit(*args, **given)

    monkeypatch.setattr("tempering.trying.fit", half)
    chosen = fit_tries(recipe(), task, model, tries=HOW)
    assert [t["state"] for t in tries(chosen)] == ["stopped", "finished", "stopped", "finished"]
    monkeypatch.setattr("tempering.trying.fit", lambda *a, **k: (_ for _ in ()).throw(CollapseError("inf")))
    with pytest.raises(CollapseError, match="in every try; lower learning_rate"):
        fit_tries(recipe(), task, model, tries=2)


def test_other_tries_are_not_resumed(model: str, task: Task, tmp_path: Path) -> None:
    fit_tries(recipe(), task, model, tries=2, output_dir=tmp_path)
    known = json.loads((tmp_path / "checkpoints" / "tries.json").read_text())
    assert known["how"] == asdict(Tries(2))
    with pytest.raises(ResumeError, match="other tries or seeds"):
        fit_tries(recipe(), task, model, tries=3, output_dir=tmp_path, resume=True)
    assert checkpoint.latest(tmp_path / "checkpoints" / f"try-{_kept(known)}" / "checkpoints" / "stage-0") is not None


def _kept(known: dict[str, Any]) -> int:
    return next(a["number"] for a in known["attempts"] if a["state"] == "finished")


def test_earlier_stages_are_not_where_tries_are_judged(model: str, task: Task) -> None:
    tapt = Recipe.load("tapt-lora").override({"min_steps": 3, "num_train_epochs": 3})
    found = tries(fit_tries(tapt, task, model, tries=2))
    assert sorted(t["state"] for t in found) == ["finished", "stopped"]


def test_tries_of_pet_are_judged_by_its_classifier(tmp_path: Path) -> None:
    """Its models under patterns, which are trained before and saved below the same folder, are not judged."""
    save_masked_lm("bert", tmp_path / "m")
    stage = PET(
        patterns=("{text} was {mask}", "{mask} {text}"), words={"bad": "bad", "good": "good"}, pattern_steps=2, repetitions=1,
        max_steps=4, num_train_epochs=1, min_steps=0, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
    )  # fmt: skip
    learner = fit_tries(Recipe("pet", (stage,)), tiny_task(), str(tmp_path / "m"), tries=Tries(2, stop_worst=0.5))
    assert all(one["score"] is not None for one in tries(learner))
    assert sorted(one["state"] for one in tries(learner)) == ["finished", "stopped"]


def test_what_cannot_be_judged_is_refused(model: str, task: Task) -> None:
    with pytest.raises(RecipeError, match="it needs eval_strategy"):
        fit_tries(recipe(eval_strategy="no"), task, model, tries=2)
    with pytest.raises(RecipeError, match="it needs save_strategy"):
        fit_tries(recipe(save_strategy="no"), task, model, tries=2)
    with pytest.raises(RecipeError, match="development split"):
        fit_tries(recipe(), replace(task, dev=None), model, tries=2)
    with pytest.raises(RecipeError, match="--tries 1: expected 2"):
        Tries(1)
    with pytest.raises(RecipeError, match="--stop-worst 1.0: expected a share"):
        Tries(3, stop_worst=1.0)
    with pytest.raises(RecipeError, match="--stop-at 0"):
        Tries(3, stop_at=0)


def test_several_processes_are_refused(model: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="--tries runs in one process, found 2"):
        fit_tries(recipe(), task, model, tries=2)


@pytest.mark.parametrize(("count", "share", "kept"), [(2, 0.5, 1), (5, 0.5, 3), (5, 0.9, 1), (10, 0.7, 3), (3, 0.01, 3)])
def test_how_many_are_finished(count: int, share: float, kept: int) -> None:
    assert Tries(count, share).kept == kept
