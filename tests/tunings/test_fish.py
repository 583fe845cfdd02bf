"""FISH: the Fisher information by hand, the choice it makes, and what is asked of the probe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tempering.learner import Learner
from tempering.streams import numpy_stream
from tempering.tunings.fish import FISH
from tempering.tunings.sparse import flat
from tests.laws.bench import run, stage_of
from tests.tiny import tiny_task
from tests.tunings.sparse_cases import Told, fresh, moved, scores_like


def fisher_by_hand(learner: Learner, rows: int, seed: int) -> dict[str, torch.Tensor]:
    """sum_n (d loss_n / d theta)^2 over single rows, each with its true label, by plain backward passes."""
    examples = tiny_task(24).train.examples
    chosen = numpy_stream(seed, "probe", "order").permutation(len(examples))[:rows]
    total: dict[str, torch.Tensor] = {}
    learner.eval()
    for weight in learner.parameters():
        weight.requires_grad_(True)
    for i in chosen:
        learner.zero_grad()
        prompts = [found[0] for found in learner.framing.render([examples[i]], (), np.random.default_rng(0))]
        batch = learner.framing.collate(prompts, np.random.default_rng(0))
        logits = learner(batch).only.logits[0]
        assert batch.targets is not None
        (-logits.log_softmax(-1)[0, batch.targets[0]]).backward()
        for name, weight in learner.named_parameters():
            if weight.grad is not None:
                total[name] = total.get(name, torch.zeros_like(weight)) + weight.grad.square()
    return total


def test_the_mask_is_that_of_a_fisher_information_computed_by_hand() -> None:
    tuning = FISH(density=0.01, rows=5)
    learner = run(stage_of(tuning))
    bank = tuning.bank(learner.backbone)
    plain = fresh(FISH(density=0.01))
    chosen = tuning.chosen(plain.backbone)
    fisher = flat(fisher_by_hand(plain, 5, seed=3), chosen)  # Seeds.of(0).dropout
    expected = fisher.sort(descending=True, stable=True).indices[: tuning.count(plain.backbone)].sort().values
    assert float(fisher[bank.indices.long()].min()) == pytest.approx(float(fisher[expected].min()), rel=1e-4)
    assert len(set(bank.indices.tolist()) & set(expected.tolist())) >= 0.99 * len(expected)
    random = torch.randperm(len(fisher), generator=torch.Generator().manual_seed(0))[: len(expected)]
    assert fisher[bank.indices.long()].sum() > 5 * fisher[random].sum()  # the choice matters


def test_squares_are_summed_over_rows_and_not_the_other_way_round() -> None:
    """Two opposite gradients cancel in a sum and not in a sum of squares."""
    tuning = FISH(density=1e-4)
    learner = fresh(tuning)
    weights = tuning.chosen(learner.backbone)
    one = {n: torch.zeros_like(t) for n, t in scores_like(weights).items()}
    name = "backbone.model.encoder.layer.1.intermediate.dense.weight"
    one[name].view(-1)[: tuning.count(learner.backbone)] = 3.0
    other = {n: -t for n, t in one.items()}
    tuning.prepare(learner, Told([one, other]))
    bank = tuning.bank(learner.backbone)
    start = bank.bounds[list(weights).index(name.removeprefix("backbone.model."))]
    assert bank.indices.tolist() == list(range(start, start + tuning.count(learner.backbone)))


def test_a_weight_without_a_gradient_counts_as_zero() -> None:
    tuning = FISH(density=0.01)
    learner = fresh(tuning)
    weights = tuning.chosen(learner.backbone)
    found = scores_like(weights)
    gone = [n for n in found if "pooler" in n]
    tuning.prepare(learner, Told([{n: t for n, t in found.items() if n not in gone}]))
    bank = tuning.bank(learner.backbone)
    low = bank.bounds[list(weights).index("pooler.dense.weight")]
    high = bank.bounds[list(weights).index("pooler.dense.bias") + 1]
    assert len(gone) == 2 and not [i for i in bank.indices.tolist() if low <= i < high]


@pytest.mark.parametrize(("labels", "sampled"), [("true", False), ("sampled", True)])
def test_it_asks_for_single_rows_with_the_labels_it_names(labels: Any, sampled: bool) -> None:
    tuning, probe = FISH(rows=7, labels=labels), Told()
    tuning.prepare(fresh(tuning), probe)
    assert probe.asked == {"rows": 7, "batch_size": 1, "sampled": sampled}


def test_after_training_exactly_the_chosen_entries_can_differ() -> None:
    tuning = FISH(density=0.01, rows=4)
    learner = run(stage_of(tuning))
    values = tuning.bank(learner.backbone).values.detach()
    count = tuning.count(learner.backbone)
    assert int((values != 0).sum()) > 0.9 * count
    assert 0.9 * count < moved(tuning, learner.backbone) <= count
