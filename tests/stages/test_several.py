"""Drawing batches of several tasks, and what a loss over several costs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tempering.contracts import Batch, Prompt, Scores, Seeds, Slab
from tempering.framings.losses import supervised_loss
from tempering.framings.several import Several, scale_of
from tempering.train.feed import mass
from tempering.train.settings import Loop
from tempering.train.several import SeveralFeed, shares

SEEDS = Seeds.of(3)


def test_shares_by_size_temperature_cap_and_evenly() -> None:
    assert shares([300, 100], "size") == pytest.approx([0.75, 0.25])
    assert shares([400, 100], "temperature", 2.0) == pytest.approx([2 / 3, 1 / 3])  # square roots 20 and 10
    assert shares([400, 100], "temperature", 1.0) == pytest.approx(shares([400, 100], "size"))
    assert shares([400, 100], "temperature", 1e9) == pytest.approx([0.5, 0.5])
    assert shares([400, 100, 7], "uniform") == pytest.approx([1 / 3] * 3)
    assert shares([400, 100, 7], "round_robin", 2.0, cap=50) == pytest.approx([1 / 3] * 3)
    assert shares([10_000, 100], "size", cap=300) == pytest.approx([0.75, 0.25])


class Plain(torch.nn.Module):
    """A framing whose prompts are the rows' numbers."""

    renders_anew = False

    def render(self, examples: Any, support: Any, rng: Any) -> Any:
        return [[Prompt([row], target=0)] for row in examples]

    def collate(self, prompts: Any, rng: np.random.Generator) -> Batch:
        draw = torch.full((len(prompts),), float(rng.random()))
        return Batch({"input_ids": torch.tensor([p.input_ids for p in prompts])}, torch.zeros(len(prompts)), None, extra={"draw": draw})


def feed(sizes: dict[str, int], chances: Any, seeds: Seeds = SEEDS, each: int = 4, in_turns: bool = False) -> SeveralFeed:
    settings = Loop(per_device_train_batch_size=4, gradient_accumulation_steps=each, max_steps=100)
    rows: Any = {name: list(range(count)) for name, count in sizes.items()}
    return SeveralFeed.of({name: Plain() for name in sizes}, rows, list(chances), settings, seeds, {}, in_turns)


@pytest.mark.parametrize("sampling", ["size", "temperature", "uniform"])
def test_tasks_are_drawn_as_often_as_they_should_be(sampling: Any) -> None:
    sizes = {"a": 900, "b": 90, "c": 10}
    chances = shares(list(sizes.values()), sampling, 2.0)
    order, _ = feed(sizes, chances).drawn(20_000)
    counts = np.bincount(order[:20_000], minlength=3)
    assert chisquare(counts, 20_000 * chances).pvalue > 1e-3
    assert chisquare(counts, 20_000 * np.roll(chances, 1) if sampling != "uniform" else [9_000, 6_000, 5_000]).pvalue < 1e-6


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_in_turns_every_task_comes_once_before_any_comes_again(tasks: int) -> None:
    sizes = {str(i): 40 + i for i in range(tasks)}
    mine = feed(sizes, [1 / tasks] * tasks, each=tasks, in_turns=True)
    steps = [[batch.task for batch in mine.micro(step)] for step in range(30)]
    assert all(sorted(step) == sorted(sizes) for step in steps)
    assert len({tuple(step) for step in steps}) > 1  # in an order drawn anew
    order, nth = mine.drawn(1000)
    assert np.array_equal(nth[:1000], np.arange(1000) // tasks) and np.array_equal(order[:1000], mine.drawn(9000)[0][:1000])


@pytest.mark.parametrize("in_turns", [False, True])
def test_batches_are_a_function_of_seeds_and_step(in_turns: bool) -> None:
    sizes, chances = {"a": 13, "b": 5}, (0.5, 0.5)
    one, other = feed(sizes, chances, in_turns=in_turns), feed(sizes, chances, in_turns=in_turns)
    later = other.micro(300)  # first far ahead: the sequence of tasks grows without changing
    assert [_facts(b) for b in one.micro(2)] == [_facts(b) for b in other.micro(2)]
    assert [_facts(b) for b in one.micro(300)] == [_facts(b) for b in later]
    assert [_facts(b) for b in feed(sizes, chances, Seeds.of(4), in_turns=in_turns).micro(2)] != [_facts(b) for b in one.micro(2)]


def _facts(batch: Batch) -> tuple[Any, ...]:
    return batch.task, batch.inputs["input_ids"].tolist(), batch.extra["draw"].tolist(), batch.extra["mass"]


def test_every_task_goes_through_all_its_rows_before_any_comes_again() -> None:
    found: dict[str, list[int]] = {"a": [], "b": []}
    mine = feed({"a": 13, "b": 5}, (0.6, 0.4))
    for step in range(12):
        for batch in mine.micro(step):
            found[batch.task] += batch.inputs["input_ids"][:, 0].tolist()
    for name, size in (("a", 13), ("b", 5)):
        assert len(found[name]) > 2 * size
        assert sorted(found[name][:size]) == sorted(found[name][size : 2 * size]) == list(range(size))


def test_a_step_holds_batches_of_different_tasks_and_each_counts_by_its_rows() -> None:
    batches = [b for step in range(20) for b in feed({"a": 40, "b": 40}, (0.5, 0.5)).micro(step)]
    assert len(batches) == 80 and {b.task for b in batches} == {"a", "b"}
    assert all(b.extra["mass"] == len(b) for b in batches)
    assert any(len({b.task for b in batches[i : i + 4]}) == 2 for i in range(0, 80, 4))


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_guessing_evenly_costs_one_in_every_task(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.zeros(1, 64, classes) + 0.01 * torch.randn(1, 64, classes, generator=generator)
    slab = Slab(logits, torch.randint(classes, (64,), generator=generator), None, None, "classification", "t")
    assert float(supervised_loss(slab)) / scale_of(slab) == pytest.approx(1.0, abs=0.02)


def test_scales_of_other_kinds() -> None:
    logits = torch.zeros(1, 4, 5)
    labels = Slab(logits, torch.ones(4, 5), None, None, "multilabel", "t")
    assert float(supervised_loss(labels)) / scale_of(labels) == pytest.approx(1.0, abs=1e-6)
    assert scale_of(labels) == math.log(2)
    assert scale_of(Slab(torch.zeros(1, 4, 1), torch.ones(4), None, None, "regression", "t")) == 1.0


class Fixed(torch.nn.Module):
    """A framing that costs 6 whatever it sees."""

    undecayed = frozenset({"w"})
    reads_lm_head = False
    reads = "tokens"

    def scores(self, backbone: Any, batch: Batch) -> Scores:
        return Scores((Slab(torch.zeros(1, 2, 8), None, None, None, "classification", batch.task),))

    def loss(self, scores: Scores, batch: Batch) -> torch.Tensor:
        return torch.tensor(6.0)


def test_a_loss_is_weighted_and_scaled_by_its_task() -> None:
    batch = Batch({"input_ids": torch.zeros(2, 1)}, task="b")
    for scaled, expected in ((True, 18.0 / math.log(8)), (False, 18.0)):
        several = Several({"a": Fixed(), "b": Fixed()}, {"a": 1.0, "b": 3.0}, scaled)
        assert float(several.loss(several.scores(None, batch), batch)) == pytest.approx(expected)  # type: ignore[arg-type]
    assert several.undecayed == {"parts.task-a.w", "parts.task-b.w"}


def test_masks_of_one_task_do_not_outweigh_rows_of_another() -> None:
    """A batch with many targets (masks) counts as many rows as it has."""
    mine = feed({"a": 8}, (1.0,), each=1)
    (batch,) = mine.micro(0)
    longer = dataclasses.replace(batch, targets=torch.zeros(500))
    assert mass(longer) == mass(batch) == 4.0


class Long(Plain):
    """A framing of rows of unlike size: row r has 1 + r targets, each worth r."""

    deterministic = True

    def collate(self, prompts: Any, rng: np.random.Generator) -> Batch:
        numbers = [p.input_ids[0] for p in prompts]
        return Batch({"input_ids": torch.tensor([[r] for r in numbers])}, torch.tensor([float(r) for r in numbers for _ in range(1 + r)]))


@pytest.mark.parametrize(("world", "split"), [(2, 1), (3, 1), (1, 2), (2, 2)])
def test_however_rows_are_shared_or_cut_their_mean_is_the_same(world: int, split: int) -> None:
    def parts(rank: int, world: int, split: int) -> list[Batch]:
        settings = Loop(per_device_train_batch_size=5, gradient_accumulation_steps=3, max_steps=9)
        rows: Any = {"a": list(range(13)), "b": list(range(7))}
        made = SeveralFeed.of({"a": Long(), "b": Long()}, rows, [0.5, 0.5], settings, SEEDS, {})
        made.rank, made.world = rank, world
        return made.micro(1, split)

    def mean(batches: list[Batch]) -> float:
        return sum(mass(b) * float(b.targets.mean()) for b in batches if b.targets is not None) / sum(mass(b) for b in batches)

    whole, shared = parts(0, 1, 1), [b for rank in range(world) for b in parts(rank, world, split)]
    assert len(shared) > len(whole) and sum(mass(b) for b in shared) == pytest.approx(sum(len(b) for b in whole))
    assert mean(shared) == pytest.approx(mean(whole), rel=1e-6)
