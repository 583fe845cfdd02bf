"""Out of memory: the step is done again in smaller parts, with the same gradients, and the run says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tempering.batching import halving, out_of_memory
from tempering.contracts import Hooks, Seeds
from tempering.errors import MemoryShort, RecipeError, TemperingError
from tempering.learner import Learner
from tempering.passes import Passes
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.train import hooks
from tempering.train.device import Place
from tempering.train.evaluate import Evaluator
from tempering.train.feed import Feed
from tempering.train.fit import Plan, fit, supervised
from tempering.train.settings import Loop
from tests.laws.bench import assemble
from tests.laws.bench import run as run_stage
from tests.tiny import tiny_backbone, tiny_task

STAGE = Train(max_steps=2, num_train_epochs=1, per_device_train_batch_size=8, learning_rate=1e-3, warmup_steps=0)


def short_of(learner: Learner, rows: int, message: str = "CUDA out of memory. Tried to allocate 2.00 GiB") -> list[int]:
    """Let training fail on more than ``rows`` rows; returns the list of the batch sizes that were tried."""
    tried: list[int] = []

    def check(body: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        if body.training:
            tried.append(len(kwargs["input_ids"]))
            if tried[-1] > rows:
                raise RuntimeError(message)

    learner.backbone.model.register_forward_pre_hook(check, with_kwargs=True)
    return tried


@pytest.mark.parametrize(("rows", "parts"), [(4, 2), (2, 4), (1, 8)])
def test_the_gradients_are_those_of_the_whole_batch(rows: int, parts: int, make: Callable[..., Any], spy: Any) -> None:
    whole, feed = make(STAGE, still=True)
    fit(whole, feed, Plan(dataclasses.replace(STAGE, max_steps=1), [("spy", spy)]))
    expected = dict(spy.seen)
    cut, feed = make(STAGE, still=True)
    tried = short_of(cut, rows)
    run = fit(cut, feed, Plan(dataclasses.replace(STAGE, max_steps=1), [("spy", spy)]))
    assert run.split == parts and max(tried) == 8 and tried[-parts:] == [rows] * parts
    assert run.passes == parts  # what failed does not count
    for name, grad in expected.items():
        torch.testing.assert_close(spy.seen[name], grad, rtol=1e-5, atol=1e-6)


def test_a_failure_in_a_later_micro_batch_counts_no_gradient_twice(make: Callable[..., Any], spy: Any) -> None:
    stage = dataclasses.replace(STAGE, max_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=2, group_by_length=False)
    whole, feed = make(stage, still=True)
    fit(whole, feed, Plan(stage, [("spy", spy)]))
    expected = dict(spy.seen)
    cut, feed = make(stage, still=True)
    count = iter(range(100))

    def once(*_: Any) -> None:
        if next(count) == 1:
            raise torch.OutOfMemoryError("the second micro-batch")

    cut.backbone.model.register_forward_pre_hook(once)
    assert fit(cut, feed, Plan(stage, [("spy", spy)])).split == 2
    for name, grad in expected.items():
        torch.testing.assert_close(spy.seen[name], grad, rtol=1e-5, atol=1e-6)


def test_training_goes_on_in_parts_and_says_so(make: Callable[..., Any]) -> None:
    told: list[dict[str, Any]] = []
    learner, feed = make(STAGE)
    tried = short_of(learner, 4)
    run = fit(learner, feed, Plan(STAGE, listener=told.append))
    assert run.step == 2 and tried == [8, 4, 4, 4, 4]  # the second step does not try the whole batch again
    (note,) = (event["text"] for event in told if event["event"] == "note")
    assert "out of memory" in note and "2 parts" in note


def test_the_record_and_the_checkpoint_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_stage(STAGE).record["stage"]["split"] == 1
    saved = dataclasses.replace(STAGE, save_strategy="steps", save_steps=1)
    monkeypatch.setattr("tempering.stages.train.assemble", _assembled_short)
    assert run_stage(saved, around=Surroundings(tmp_path)).record["stage"]["split"] == 2
    monkeypatch.undo()
    longer = dataclasses.replace(saved, max_steps=3)
    assert run_stage(longer, around=Surroundings(tmp_path, resume=True)).record["stage"]["split"] == 2


def _assembled_short(*given: Any) -> Learner:
    learner = assemble(*given)
    short_of(learner, 4)
    return learner


class Coupled:
    """A stabilizer whose loss couples the rows of a batch."""

    touches: ClassVar[tuple[str, ...]] = ("term",)
    neutral: ClassVar[bool] = False
    couples_rows: ClassVar[bool] = True

    def start(self, *_: Any) -> Hooks:
        return Hooks(term=lambda passes: passes.student().only.features.var(0).mean())


def test_a_loss_that_couples_rows_is_not_cut(make: Callable[..., Any]) -> None:
    learner, feed = make(STAGE)
    short_of(learner, 4)
    with pytest.raises(MemoryShort, match=r"out of memory at 8 rows, and max_margin couples the rows.*per_device_train_batch_size"):
        fit(learner, feed, Plan(STAGE, [("max_margin", Coupled())]))
    assert issubclass(MemoryShort, TemperingError)


def test_a_single_row_that_does_not_fit_is_the_end(make: Callable[..., Any]) -> None:
    learner, feed = make(STAGE)
    tried = short_of(learner, 0)
    with pytest.raises(MemoryShort, match="single row"):
        fit(learner, feed, Plan(STAGE))
    assert tried == [8, 4, 2, 1]


def test_other_errors_are_not_taken_for_it(make: Callable[..., Any]) -> None:
    learner, feed = make(STAGE)
    tried = short_of(learner, 4, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        fit(learner, feed, Plan(STAGE))
    assert tried == [8]


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: RuntimeError, is_one: bool) -> None:
    assert out_of_memory(error) is is_one


def narrow(learner: Learner, rows: int) -> list[int]:
    """Let evaluation fail on more than ``rows`` rows; returns the list of the batch sizes that were tried."""
    tried: list[int] = []

    def check(body: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        if not body.training:
            tried.append(len(kwargs["input_ids"]))
            if tried[-1] > rows:
                raise torch.OutOfMemoryError("CUDA out of memory")

    learner.backbone.model.register_forward_pre_hook(check, with_kwargs=True)
    return tried


def test_predictions_go_on_in_smaller_batches_and_stay_what_they_are(make: Callable[..., Any]) -> None:
    learner, feed = make(STAGE)
    whole = learner.predictions(feed.examples)
    tried = narrow(learner, 3)
    found = learner.predictions(feed.examples)
    assert tried == [24, 12, 6, *[3] * 8] and learner.fits == 3  # 24 rows: never more than there are
    assert [p.label for p in found] == [p.label for p in whole]
    for a, b in zip(found, whole, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    tried.clear()
    assert learner.predictions(feed.examples) == found and tried == [3] * 8  # what did not fit is not tried again
    assert learner.predictions(feed.examples[:2]) and tried[8:] == [2]


def test_the_longest_texts_go_first(make: Callable[..., Any]) -> None:
    learner, feed = make(STAGE)
    widths: list[int] = []
    body = learner.backbone.model
    body.register_forward_pre_hook(lambda _m, _a, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    learner.predictions(feed.examples, batch_size=4)
    assert len(set(widths)) > 1 and widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_an_evaluation_while_training_says_so_once(tuning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def assembled(*given: Any) -> Learner:
        learner = assemble(*given)
        narrow(learner, 8)
        return learner

    monkeypatch.setattr("tempering.stages.train.assemble", assembled)
    stage = dataclasses.replace(STAGE, tuning=tuning, eval_strategy="steps", eval_steps=1)
    told: list[dict[str, Any]] = []
    learner = run_stage(stage, around=Surroundings(listener=told.append))
    notes = [event["text"] for event in told if event["event"] == "note"]
    assert notes == ["out of memory: evaluation goes on in batches of 6 rows"] and len(learner.record["stage"]["history"]) == 2


@pytest.mark.parametrize("name", ["supcon", "mmr"])
def test_what_couples_rows_is_not_shared_by_processes(name: str, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Train(stabilizers=(name,), **{field.name: getattr(STAGE, field.name) for field in dataclasses.fields(Loop)})
    plan = Plan(stage, [(name, s) for s in stage.stabilizers])
    learner, feed = make(stage)
    monkeypatch.setattr("tempering.train.fit.place", lambda *_: Place(torch.device("cpu"), nullcontext, 1, 2))
    with pytest.raises(RecipeError, match=f"{name} compares the rows of a batch, so that processes cannot share it"):
        fit(learner, feed, plan)
    monkeypatch.undo()
    whole, *shares = (dataclasses.replace(feed, rank=rank, world=world) for rank, world in ((0, 1), (0, 2), (1, 2)))
    folded = hooks.start(plan.stabilizers, learner.eval(), learner.trained(), 0)
    found = [_loss(folded, learner, part) for part in (whole, *shares)]
    assert found[0] != pytest.approx(sum(found[1:]) / 2, rel=1e-3)  # what is refused would have been another loss


def _loss(folded: hooks.Folded, learner: Learner, feed: Feed) -> float:
    (batch,) = feed.micro(0)
    return float(folded.loss(Passes(learner, batch, learner.trained(), (0, 0)), supervised).detach())


def test_the_loss_of_unlabeled_text_is_measured_in_smaller_batches() -> None:
    stage = dataclasses.replace(STAGE, framing="masked_lm", text="unlabeled")
    learner = assemble(stage, tiny_backbone(), tiny_task(24), Seeds.of(0))
    tried = narrow(learner, 1)
    told: list[dict[str, Any]] = []
    metrics, _ = Evaluator(tiny_task(24).train.examples[:3], "text", (), listener=told.append)(learner)
    assert tried == [3, 1, 1, 1] and metrics["loss"] > 0 and "batches of one row" in told[0]["text"]


def test_one_row_that_does_not_fit_is_the_end_of_an_evaluation_too(make: Callable[..., Any]) -> None:
    learner, feed = make(STAGE)
    narrow(learner, 0)
    with pytest.raises(MemoryShort, match=r"single row; shorten max_length"):
        learner.predict([feed.examples[0].texts[0]])
    with pytest.raises(RuntimeError, match="shapes"):
        halving(4, lambda _: _raise("mat1 and mat2 shapes cannot be multiplied"))


def _raise(text: str) -> None:
    raise RuntimeError(text)
