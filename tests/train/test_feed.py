"""Batches are a pure function of seeds and step: every row once an epoch, in an order that epochs and seeds change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight

from tempering.contracts import Batch, Example, Prompt, Seeds
from tempering.train.feed import Feed, balanced_weights, mass
from tempering.train.settings import Loop

COUNT = 22
LENGTHS = [3 + (7 * i) % 11 for i in range(COUNT)]
LOOP = Loop(per_device_train_batch_size=4, num_train_epochs=3)


class Rows:
    """A framing whose prompts carry their row number as target."""

    renders_anew = False
    deterministic = True
    made = 0

    def render(self, examples: Sequence[Example], support: Any, rng: Any) -> list[list[Prompt]]:
        self.made += 1
        return [[Prompt([1] * LENGTHS[e.row], target=e.row)] for e in examples]

    def collate(self, prompts: Sequence[Prompt], rng: Any) -> Batch:
        longest = max(len(p.input_ids) for p in prompts)
        return Batch({"input_ids": torch.ones(len(prompts), longest)}, torch.tensor([p.target for p in prompts]))


class Redrawn(Rows):
    renders_anew = True


def feed_of(settings: Loop = LOOP, framing: Any = None, **given: Any) -> Feed:
    seeds = given.pop("seeds", Seeds.of(0))
    return Feed(framing or Rows(), [Example(("x",), row=i) for i in range(COUNT)], settings, seeds, **given)


def rows(feed: Feed, step: int, split: int = 1) -> list[list[int]]:
    return [batch.targets.tolist() for batch in feed.micro(step, split) if batch.targets is not None]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def epoch(feed: Feed, number: int) -> list[int]:
    steps = range(number * feed.steps_per_epoch, (number + 1) * feed.steps_per_epoch)
    return [row for step in steps for row in flat(rows(feed, step))]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(("size", "each"), [(4, 1), (4, 2), (5, 3), (64, 1), (1, 1)])
def test_every_row_comes_once_an_epoch(size: int, each: int, grouped: bool) -> None:
    settings = dataclasses.replace(LOOP, per_device_train_batch_size=size, gradient_accumulation_steps=each, group_by_length=grouped)
    feed = feed_of(settings)
    assert feed.steps_per_epoch == -(-COUNT // (size * each))
    for number in range(3):
        assert sorted(epoch(feed, number)) == list(range(COUNT))
    for step in range(feed.steps_per_epoch):
        found = rows(feed, step)
        assert 0 < len(found) <= each and all(0 < len(batch) <= size for batch in found)


def test_a_step_gives_the_same_batches_whenever_it_is_asked_for() -> None:
    straight = feed_of()
    expected = [rows(straight, step) for step in range(18)]
    jumping = feed_of()
    for step in (17, 0, 6, 5, 12, 0):
        assert rows(jumping, step) == expected[step]
    assert rows(feed_of(), 13) == expected[13]


def test_the_order_changes_with_the_epoch_and_the_order_seed_alone() -> None:
    first = epoch(feed_of(), 0)
    assert epoch(feed_of(), 1) != first
    assert epoch(feed_of(seeds=Seeds.of(0, order=77)), 0) != first
    assert epoch(feed_of(seeds=Seeds.of(0, init=7, dropout=7, sampling=7)), 0) == first


def test_grouping_by_length_spares_padding_and_keeps_chance() -> None:
    def padding(feed: Feed) -> int:
        batches = [b for step in range(feed.steps_per_epoch) for b in feed.micro(step)]
        return sum(b.inputs["input_ids"].numel() for b in batches) - sum(LENGTHS)

    plain = feed_of(dataclasses.replace(LOOP, group_by_length=False))
    assert padding(feed_of()) * 3 < padding(plain)
    assert {tuple(sorted(b)) for b in rows(feed_of(), 0)} != {tuple(sorted(b)) for b in rows(feed_of(), feed_of().steps_per_epoch)}


def test_splitting_keeps_the_rows_of_a_step_in_their_order() -> None:
    whole = rows(feed_of(), 2)
    halves, rest = rows(feed_of(), 2, split=2), rows(feed_of(), 2, split=64)
    assert [len(b) for b in halves] == [2, 2] and [len(b) for b in rest] == [1] * 4
    assert flat(halves) == flat(rest) == flat(whole)


def test_processes_share_a_step_without_overlap() -> None:
    parts = [rows(feed_of(rank=rank, world=2), 1) for rank in (0, 1)]
    assert sorted(flat(parts[0] + parts[1])) == sorted(flat(rows(feed_of(), 1)))


def test_weights_and_cached_features_belong_to_their_rows() -> None:
    features = torch.arange(COUNT, dtype=torch.float32)[:, None].repeat(1, 3)
    feed = feed_of(weights=np.arange(COUNT) / 2, features=features)
    for step in range(feed.steps_per_epoch):
        for batch in feed.micro(step):
            assert batch.targets is not None and batch.weights is not None
            assert batch.inputs.keys() == {"features"}
            assert torch.equal(batch.inputs["features"][:, 0], batch.targets.float())
            assert torch.equal(batch.weights, batch.targets.float() / 2)


def test_prompts_are_rendered_once_unless_the_framing_draws() -> None:
    for framing, times in ((Rows(), 1), (Redrawn(), 3)):
        feed = feed_of(framing=framing)
        for step in range(18):
            feed.micro(step)
        assert framing.made == times


def test_balanced_weights_are_those_of_the_textbook() -> None:
    targets = [0] * 9 + [1] * 2 + [3]
    found = balanced_weights(targets)
    np.testing.assert_allclose(found, compute_sample_weight("balanced", targets))
    assert found.mean() == pytest.approx(1.0)


def test_what_a_micro_batch_counts_for() -> None:
    inputs = {"input_ids": torch.ones(4, 2)}
    assert mass(Batch(inputs)) == 4.0
    assert mass(Batch(inputs, torch.zeros(7))) == 7.0  # masked tokens
    assert mass(Batch(inputs, torch.zeros(4), torch.tensor([0.5, 1.0, 0.0, 2.0]))) == 3.5
