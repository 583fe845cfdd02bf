"""Weights spread over processes: what two processes with a part of each weight do is what one does with the whole, or it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from tempering.batching import halving
from tempering.contracts import Seeds
from tempering.errors import MemoryShort, RecipeError
from tempering.fitting import fit
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stages import train as stage_module
from tempering.stages.checks import check_sharded
from tempering.stages.train import Train
from tempering.train import checkpoint
from tempering.train.device import Place, place
from tempering.train.feed import Feed, mass
from tempering.train.fit import Plan
from tempering.train.fit import fit as loop
from tempering.train.settings import Loop
from tempering.train.sharding import gathered, in_shards, parted, spread, whole
from tests.tiny import tiny_backbone, tiny_task
from tests.train import shards
from tests.train.conftest import Made
from tests.train.test_feed import LOOP, feed_of, rows

CPU = torch.device("cpu")
STAGE = Train(
    per_device_train_batch_size=8, max_steps=3, learning_rate=1e-2, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1
)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A group of processes that is this one: shards are then whole, and go the way of all shards."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that ``accelerate launch --use_fsdp --num_processes 2`` makes."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")


def of_one() -> Place:
    return Place(CPU, torch.no_grad, 0, 1, sharded=True)


@pytest.mark.usefixtures("alone")
def test_shards_are_a_copy_whose_training_comes_back(make: Callable[..., Made]) -> None:
    learner, _ = make(STAGE)
    before = {n: w.detach().clone() for n, w in learner.kept().items()}
    with spread(learner, of_one()) as parts:
        assert parts is not learner and parts.sharded and not learner.sharded
        assert all(isinstance(w, DTensor) for w in parts.parameters()) and not any(isinstance(w, DTensor) for w in learner.parameters())
        assert parts.kept().keys() == before.keys() and parts.trained().keys() == learner.trained().keys()
        for name, weight in whole(parts.kept()).items():
            torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
        with torch.no_grad():
            for weight in parts.trained().values():
                weight.add_(1.0)
        for name, weight in learner.kept().items():
            assert torch.equal(weight, before[name])
    for name, weight in learner.trained().items():
        assert torch.equal(weight, before[name] + 1.0)
    with spread(learner, Place(CPU, torch.no_grad, 0, 1)) as same:
        assert same is learner


@pytest.mark.usefixtures("alone")
def test_tensors_are_laid_out_as_weights_and_made_whole_again(make: Callable[..., Made]) -> None:
    learner, _ = make(STAGE)
    parts = in_shards(learner, of_one()).kept()
    name = "backbone.model.embeddings.word_embeddings.weight"
    moment = torch.randn(parts[name].shape)
    laid = parted({name: moment, f"exp_avg/{name}": moment, f"step/{name}": torch.tensor(3.0), "mask/else": moment}, parts)
    assert {n for n, t in laid.items() if isinstance(t, DTensor)} == {name, f"exp_avg/{name}"}
    assert laid[name].placements == parts[name].placements  # type: ignore[attr-defined]
    assert all(torch.equal(t, moment) for n, t in whole(laid).items() if not n.startswith("step"))
    assert whole(laid, keep=False) == {} and gathered(moment) is moment
    assert parted({name: moment}, {name: moment})[name] is moment


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("first", [True, False])
def test_a_run_in_shards_is_resumed_by_one_without_and_the_other_way_round(
    first: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(folder: Path, sharded: bool) -> dict[str, Any]:
        monkeypatch.setattr(stage_module, "shards_asked", lambda: sharded)
        learner = fit(Recipe("r", (STAGE,)), tiny_task(24), tiny_backbone(), output_dir=folder, resume=True, seed=1)
        assert not learner.sharded and not learner.training
        return learner.record["stage"] | {"weights": {n: w.detach().clone() for n, w in learner.kept().items()}}

    with shards.interrupted(2), pytest.raises(shards.Interrupted):
        run(tmp_path / "two", first)
    path = checkpoint.latest(tmp_path / "two" / "checkpoints" / "stage-0")
    assert path is not None and path.name == "checkpoint-2"
    one, two = run(tmp_path / "one", False), run(tmp_path / "two", not first)
    assert [h["step"] for h in two["history"]] == [1, 2, 3] and (two["best_step"], two["passes"]) == (one["best_step"], one["passes"])
    assert [h["loss"] for h in two["history"]] == pytest.approx([h["loss"] for h in one["history"]], abs=1e-6)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-5)
    made = [checkpoint.read(tmp_path / name / "checkpoints" / "stage-0" / "checkpoint-3", {})[0] for name in ("one", "two")]
    shapes = [{f"{group}/{n}": t.shape for group, found in groups.items() for n, t in found.items()} for groups in made]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 100


@pytest.mark.usefixtures("alone")
def test_half_precision_is_that_of_whole_weights(make: Callable[..., Made]) -> None:
    stage = Train(per_device_train_batch_size=8, max_steps=3, learning_rate=3e-2, eval_strategy="no", bf16=True)
    told: list[list[float]] = []
    for sharded in (False, True):
        learner, feed = make(stage, still=True)
        told.append([])
        with spread(learner, Place(CPU, torch.no_grad, 0, 1, sharded)) as trained:
            loop(trained, feed, Plan(stage, listener=lambda e: told[-1].append(e["loss"])))
    assert len(told[0]) == 3 and told[1] == pytest.approx(told[0], abs=1e-6) and len(set(told[0])) == 3


def test_a_process_without_a_share_joins_the_pass_without_weight() -> None:
    feed = feed_of(world=3, rank=2)
    feed.settings = Loop(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert feed.micro(0) == []
    feed.together = True
    idle = feed.micro(0)
    shared = feed_of(Loop(per_device_train_batch_size=2, gradient_accumulation_steps=2))
    assert [b.targets.tolist() for b in idle if b.targets is not None] == rows(shared, 0)
    assert [mass(b) for b in idle] == [0.0, 0.0]
    feed = feed_of(LOOP, world=2, rank=1, together=True)
    assert all(mass(b) == len(b) == 2 for b in feed.micro(0))


def test_a_share_without_masks_is_no_share() -> None:
    framing = MaskedLM(0.2).build(tiny_task(8), tiny_backbone())
    task = tiny_task(8)
    only = next(step for step in range(500) if min(_masks(framing, task, step, rank) for rank in (0, 1)) == 0)
    found = [_feed(framing, task, rank).micro(only) for rank in (0, 1)]
    assert sorted(map(len, found)) == [0, 1] and sum(mass(b) for part in found for b in part) == len(_whole(framing, task, only))
    idle = [_feed(framing, task, rank, together=True).micro(only) for rank in (0, 1)]
    assert sorted(mass(part[0]) for part in idle)[0] == 0.0 and all(len(b.targets) for part in idle for b in part if b.targets is not None)


def _feed(framing: Any, task: Any, rank: int, **given: Any) -> Feed:
    settings = Loop(per_device_train_batch_size=2, max_steps=500)
    return Feed(framing, task.train.examples, settings, Seeds.of(0), rank=rank, world=2, **given)


def _whole(framing: Any, task: Any, step: int) -> Any:
    feed = _feed(framing, task, 0)
    feed.world = 1
    return feed.micro(step)[0].targets


def _masks(framing: Any, task: Any, step: int, rank: int) -> int:
    return sum(int(mass(b)) for b in _feed(framing, task, rank).micro(step))


def test_what_all_processes_do_is_done_by_all_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(2, requires_grad=True)
    Place(CPU, torch.no_grad, 0, 2, sharded=True).backward(weight.sum())
    assert weight.grad is not None and weight.grad.tolist() == [2.0, 2.0]  # FSDP then takes the mean over both
    weight.grad = None
    Place(CPU, torch.no_grad, 0, 2).backward(weight.sum())
    assert weight.grad is not None and weight.grad.tolist() == [1.0, 1.0]

    def never(*_: Any) -> None:
        raise AssertionError("the backward pass has done it")

    monkeypatch.setattr(distributed, "all_reduce", never)
    Place(CPU, torch.no_grad, 0, 2, sharded=True).sum_gradients([weight])
    assert of_one().once(lambda: 3) == 3 and of_one().home == CPU


@pytest.mark.usefixtures("alone")
def test_memory_that_runs_out_ends_the_run(make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    learner, feed = make(STAGE)
    with spread(learner, of_one()) as parts:
        monkeypatch.setattr(parts.framing, "loss", short)
        with pytest.raises(MemoryShort, match="8 rows.*--use_fsdp.*smaller per_device_train_batch_size"):
            loop(parts, feed, Plan(STAGE))
    monkeypatch.setattr(parts.framing, "scores", short)
    with pytest.raises(MemoryShort, match="batches of 4 rows.*per_device_eval_batch_size"):
        parts.score(feed.prompts(), 4)
    with pytest.raises(MemoryShort, match="single row"):
        halving(4, short)


CORPUS_STAGE: dict[str, Any] = {"text": "unlabeled", "framing": "masked_lm"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "tuning": ({"tuning": "prefix_tuning"}, "tuning prefix_tuning is not known to train so; use full, lora"),
    "inner": ({"tuning": ["lora", "compacter"]}, "tuning compacter is not known"),
    "cached": ({"tuning": "frozen"}, "tuning frozen is not known"),
    "framing": ({"framing": "prototypes"}, "framing prototypes is not known to train so; use head, masked_lm"),
    "vectors": ({"framing": "contrastive"} | {"text": "unlabeled"}, "framing contrastive"),
    "teacher": ({"stabilizers": ["self_distillation"]}, "self_distillation is not known to act on weights"),
    "weights": ({"stabilizers": ["mixout"]}, "mixout is not known.*use r_drop or layer_decay"),
    "term": ({"stabilizers": ["r_drop", "l2_sp"]}, "l2_sp is not known"),
}


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_whole_weights_is_refused_before_training(case: str) -> None:
    fields, sentence = REFUSED[case]
    with pytest.raises(RecipeError, match=rf"stages.1: --use_fsdp .* {sentence}.*launch without --use_fsdp"):
        check_sharded((Train(**CORPUS_STAGE), Train(**fields)), None)


@pytest.mark.usefixtures("asked")
def test_stages_with_passes_of_their_own_and_packed_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"stages.0: .* stage prime makes passes of its own"):
        check_sharded(Recipe.load("prime").stages, None)
    with pytest.raises(RecipeError, match="a packed model stays whole; leave quantize out"):
        check_sharded((Train(tuning="lora"),), "8bit")
    with pytest.raises(RecipeError, match="stages.0: --use_fsdp"):
        fit(Recipe("r", (Train(tuning="prefix_tuning"),)), tiny_task(8), tiny_backbone())
    with pytest.raises(RecipeError, match="here each holds the whole"):  # whoever calls the loop with a learner that is not spread
        place(Loop())
    check_sharded((Train(tuning=["lora", "bitfit"], stabilizers=["r_drop", {"mixout": {"p": 0.0}}]),), None)
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_sharded((Train(tuning="prefix_tuning"),), None)
    assert not place(Loop()).sharded  # one process: there is nothing to spread
