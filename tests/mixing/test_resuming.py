"""A mixed run that is broken off, anywhere and several times over, ends bit for bit as one that was left alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tempering.contracts import Seeds
from tempering.errors import RecipeError, ResumeError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.framings.prototypes import Prototypes
from tempering.mixing.learner import MixedLearner
from tempering.mixing.resuming import identity
from tempering.mixing.training import fit_many
from tempering.recipe import Recipe
from tempering.stabilizers.ema import EMA
from tempering.stabilizers.r_drop import RDrop
from tempering.stages.train import Train
from tempering.train import checkpoint
from tempering.tunings.adalora import AdaLoRA
from tempering.tunings.bitfit import BitFit
from tempering.tunings.fish import FISH
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tests.tiny import save_tiny, tiny_backbone, tiny_task

QUICK = Train(
    max_steps=6,
    per_device_train_batch_size=6,
    learning_rate=1e-2,
    weight_decay=0.1,
    eval_strategy="steps",
    eval_steps=2,
    save_strategy="steps",
    save_steps=1,
)


class Killed(Exception):
    """Stands for the end of a process."""


def recipe(tuning: Any, **given: Any) -> Recipe:
    return Recipe("test", (dataclasses.replace(QUICK, **{"tuning": tuning, "framing": Head(dropout=0.1)} | given),))


RECIPES = {
    "waits": recipe(LoRA(r=2, lora_dropout=0.1), max_steps=4, gradient_accumulation_steps=3, per_device_train_batch_size=2),
    "leads": recipe(Houlsby(m=2), max_steps=20, per_device_train_batch_size=2),
    "averaged": recipe(LoRA(r=2), stabilizers=(EMA(0.6), RDrop(0.5))),
    "stops": recipe(BitFit(), max_steps=8, early_stopping_patience=1, learning_rate=0.3),
    "refreshed": recipe(LoRA(r=2), framing=Prototypes(alpha=0.9, slots=4, refresh_steps=2, proto_dim=4)),
    "chosen": recipe(FISH(density=0.02, rows=4), max_steps=3),
    "pruned": recipe(AdaLoRA(target_r=1, init_r=2, tinit=0.25, tfinal=0.25), max_steps=5),
    "apart": recipe(Full(), learning_rate=1e-3, max_steps=3),
}
TASKS = {name: tiny_task(14 + 2 * i, seed=i) for i, name in enumerate(RECIPES)}


def run(folder: Path | None, listener: Callable[[dict[str, Any]], None] | None = None, **given: Any) -> MixedLearner:
    """All tasks in batches of few rows, so that some wait for others."""
    more = {"listener": listener} if listener else {}
    return fit_many(TASKS, RECIPES, tiny_backbone(), seed=3, rows_per_batch=12, output_dir=folder, **more | given)


def breaking(moment: str, nth: int) -> Callable[[dict[str, Any]], None]:
    """A listener that ends the run at the ``nth`` event of a kind."""
    seen: list[dict[str, Any]] = []

    def listener(event: dict[str, Any]) -> None:
        if event["event"] == moment:
            seen.append(event)
            if len(seen) == nth:
                raise Killed

    return listener


def left(mixed: MixedLearner) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All tensors, and what the records say of the training."""
    return mixed.state_dict(), {name: mixed[name].record["stage"] for name in mixed.names}


class Whole(NamedTuple):
    """What a run that was left alone leaves, and each task's state and the gathered gradients in every checkpoint that it wrote."""

    weights: dict[str, torch.Tensor]
    records: dict[str, Any]
    last: dict[str, torch.Tensor]
    seen: list[tuple[dict[str, Any], set[str]]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder, seen = tmp_path_factory.mktemp("whole"), []

    def listener(event: dict[str, Any]) -> None:
        if event["event"] == "save":
            tensors, state = newest(folder)
            seen.append((state["lanes"], {name.partition("/")[0] for name in tensors["gradients"]}))

    mixed = run(folder, listener)
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))
    return Whole(*left(mixed), last_checkpoint(folder), seen)


def newest(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    path = checkpoint.latest(folder / "checkpoints")
    assert path is not None
    return checkpoint.read(path, {})


def last_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{group}/{name}": t for group, tensors in newest(folder)[0].items() for name, t in tensors.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("moments", [[("step", 2)], [("save", 3), ("evaluate", 9)], [("save", 7), ("save", 1), ("step", 11)]])
def test_a_run_that_is_broken_off_ends_as_one_left_alone(moments: list[tuple[str, int]], tmp_path: Path, whole: Whole) -> None:
    for moment in moments:
        with pytest.raises(Killed):
            run(tmp_path, breaking(*moment), resume=True)
    heard: list[dict[str, Any]] = []
    mixed = run(tmp_path, heard.append, resume=True)
    weights, records = left(mixed)
    assert records == whole.records and same(weights, whole.weights) and same(last_checkpoint(tmp_path), whole.last)
    resumed = [e for e in heard if "resumed from checkpoint" in str(e.get("text"))]
    assert len(resumed) == (0 if moments == [("step", 2)] else 1)  # that one died before its first checkpoint


def test_a_checkpoint_holds_steps_that_are_half_done(whole: Whole) -> None:
    """Gathered gradients, and micro-batches that were made (after a refresh) and not taken, are among what comes back."""
    assert any(lanes["waits"]["open"] and lanes["waits"]["micro"] for lanes, _ in whole.seen)
    assert any(lane["open"] and lane["micro"] == 0 for lanes, _ in whole.seen for lane in lanes.values())
    for lanes, gathered in whole.seen:
        assert gathered == {name for name, lane in lanes.items() if lane["micro"]}


def test_without_their_gradients_half_done_steps_would_differ(tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    half_done = next(i for i, (_, gathered) in enumerate(whole.seen, start=1) if gathered)
    with pytest.raises(Killed):
        run(tmp_path, breaking("save", half_done))
    read = checkpoint.read
    monkeypatch.setattr(checkpoint, "read", lambda *a: ((found := read(*a))[0] | {"gradients": {}}, found[1]))
    assert not same(run(tmp_path, resume=True).state_dict(), whole.weights)


def test_checkpoints_change_nothing_and_are_as_many_as_the_longest_task_asks_for(tmp_path: Path, whole: Whole) -> None:
    heard: list[dict[str, Any]] = []
    assert same(run(None).state_dict(), whole.weights)
    slow = {name: recipe(LoRA(r=2), max_steps=4 + 4 * (name == "b"), save_strategy="epoch", num_train_epochs=2) for name in "ab"}
    fit_many({name: tiny_task(12) for name in slow}, slow, tiny_backbone(), output_dir=tmp_path, listener=heard.append)
    saves = [(e["task"], e["step"], e["total"]) for e in heard if e["event"] == "save"]
    assert saves == [("b", 4, 8), ("b", 8, 8)]
    silent = recipe(LoRA(r=2), max_steps=2, save_strategy="no")
    fit_many({"a": tiny_task(12)}, silent, tiny_backbone(), output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_fresh_run_forgets_what_lies_there(tmp_path: Path) -> None:
    one = {"a": tiny_task(12)}
    fit_many(one, recipe(LoRA(r=2)), tiny_backbone(), output_dir=tmp_path)
    with pytest.raises(Killed):
        fit_many(one, recipe(LoRA(r=2)), tiny_backbone(), output_dir=tmp_path, listener=breaking("step", 1))
    assert checkpoint.latest(tmp_path / "checkpoints") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": {"b": tiny_task(12)}}, "made with another list of tasks"),
        ({"tasks": {"a": tiny_task(13)}}, "made with another data of task a"),
        ({"recipes": recipe(LoRA(r=3))}, "made with another recipe of task a"),
        ({"seed": 1}, "made with another seeds"),
        ({"rows_per_batch": 8}, "made with another rows_per_batch .'256', now '8'"),
        ({"model": tiny_backbone("roberta")}, "made with another model"),
    ],
)
def test_another_run_s_checkpoint_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    same_run: dict[str, Any] = {"tasks": {"a": tiny_task(12)}, "recipes": recipe(LoRA(r=2), max_steps=2), "model": tiny_backbone()}
    fit_many(**same_run, output_dir=tmp_path)
    with pytest.raises(ResumeError, match=said):
        fit_many(**same_run | change, output_dir=tmp_path, resume=True)


def test_the_identity_is_plain_text() -> None:
    found = identity("bert", Seeds.of(0), 8, {"a": {"recipe": "r", "data": "d"}, "b": {"recipe": "r"}})
    assert found["list of tasks"] == "a, b" and found["data of task a"] == "d" and json.loads(found["seeds"])["order"] == 2


def test_a_packed_backbone_is_trained_over_and_what_writes_to_it_is_refused(tmp_path: Path) -> None:
    where = str(save_tiny("bert", tmp_path / "base"))
    still = {"eval_strategy": "no", "framing": Head(dropout=0.0), "max_steps": 2}
    chosen = {"a": recipe(LoRA(r=2), **still), "b": recipe(Houlsby(m=2), **still)}
    mixed = fit_many({name: tiny_task(12) for name in chosen}, chosen, where, quantize="8bit")
    assert mixed.backbone.quantized == "8bit" and not mixed.apart
    alone = fit(chosen["a"], tiny_task(12), where, quantize="8bit")
    assert alone.record["trained_parameters"] == mixed["a"].record["trained_parameters"]
    for name, path in mixed.save_pretrained(tmp_path / "many").items():
        assert json.loads((path / "tempering.json").read_text())["base"]["quantize"] == "8bit", name
    with pytest.raises(RecipeError, match="task b: quantize 4bit: tuning full trains or changes"):
        fit_many({name: tiny_task(12) for name in "ab"}, {"a": recipe(LoRA(r=2)), "b": recipe(Full())}, "nowhere/at-all", quantize="4bit")
    packed = tiny_backbone()
    packed.pack("8bit")
    with pytest.raises(RecipeError, match="task a: quantize 8bit: tuning fish"):
        fit_many({"a": tiny_task(12)}, recipe(FISH()), packed)
    with pytest.raises(RecipeError, match="the model is loaded already"):
        fit_many({"a": tiny_task(12)}, recipe(LoRA()), packed, quantize="4bit")


def test_auto_chooses_for_every_task() -> None:
    heard: list[dict[str, Any]] = []
    mixed = fit_many({"a": tiny_task(12)}, "auto", tiny_backbone(), listener=heard.append)
    assert mixed["a"].record["recipe"]["name"] == "head"
    assert any(e.get("text", "").startswith("a: recipe auto: head") for e in heard)
