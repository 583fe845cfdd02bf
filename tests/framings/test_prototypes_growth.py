"""How many prototypes there are: threshold, creation, pruning, merging, the least distance. Golden values P4 to P7 of the spec."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tempering.framings.clusters.capacity import centers, closest, light, outliers, separation, spread, threshold
from tempering.framings.clusters.growth import State, grow, masses, mean_distance, place, sampled, simplify
from tempering.framings.clusters.mixture import crowding
from tempering.framings.prototypes import Prototypes


def blobs(each: int = 40, dim: int = 8, seed: int = 0) -> Tensor:
    """Three Gaussian blobs around 0, 3 and -3 in every dimension, std 0.3, in random order."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.normal(center, 0.3, (each, dim)) for center in (0.0, 3.0, -3.0)])
    return torch.from_numpy(rng.permutation(rows))


def state_of(points: Tensor, active: Tensor | None = None, sigma: float = 1.0, d_min: float = 0.0) -> State:
    return State.of(points, torch.ones(points.shape[:2], dtype=torch.bool) if active is None else active, sigma, d_min)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_p4_the_threshold_formula() -> None:
    assert threshold(5.0, 1.0, 64, 0.1) == pytest.approx(81.368749, abs=1e-6)
    assert threshold(5.0, 1.0, 64, 0.1) == pytest.approx(-2 * 5 * math.log(0.1 / (1 + 1 / 5) ** 32))
    assert threshold(5.0, 2.0, 64, 0.1) > threshold(5.0, 1.0, 64, 0.1)
    assert threshold(5.0, 1.0, 128, 0.1) > threshold(5.0, 1.0, 64, 0.1)
    assert threshold(5.0, 1.0, 64, 0.5) < threshold(5.0, 1.0, 64, 0.1)
    assert threshold(5.0, 1.0, 64, 1e-300) > 6000


def test_rho_is_the_unbiased_variance_across_prototypes() -> None:
    points = torch.tensor([[0.0, 1.0], [2.0, 5.0], [4.0, 3.0]])
    assert spread(points) == pytest.approx((4.0 + 4.0) / 2)
    assert spread(points[:1]) == 0.0


def created(rows: Tensor, limit: float, room: int = 1000) -> int:
    return 1 + len(outliers(rows, rows.mean(0, keepdim=True), limit, room))


def test_p5_creation_on_the_golden_blobs() -> None:
    counts = [created(blobs(), limit) for limit in (1e-9, 1.0, 5.0, 20.0, 100.0)]
    assert counts[0] == 121 and counts[1] > 3 and counts[2:] == [3, 3, 1]
    assert counts == sorted(counts, reverse=True)


def test_p5_at_the_limits() -> None:
    rows = torch.cat([blobs(), blobs()[:7]])  # seven rows twice
    assert created(rows, 0.0) == 121
    center = rows.mean(0)
    assert created(rows, float((rows - center).square().sum(-1).max())) == 1
    assert created(rows, 0.0, room=9) == 10


def test_creation_compares_with_all_prototypes_of_the_class_not_with_the_first() -> None:
    """The parent's code would make all of these new: none is near the first prototype."""
    rows = torch.tensor([[10.0], [10.1], [-10.0], [9.9], [-10.1]])
    assert outliers(rows, torch.zeros(1, 1), 1.0, room=10) == [0, 2]


def test_only_prototypes_of_its_own_class_keep_a_row_from_becoming_one() -> None:
    points, active = torch.zeros(2, 4, 1), torch.zeros(2, 4, dtype=torch.bool)
    points[1, 0], active[:, 0] = 10.0, True
    state = state_of(points, active, sigma=0.01)
    rows, targets = torch.tensor([[10.0], [0.0], [10.0]]), torch.tensor([0, 0, 1])
    grow(state, rows, targets, rng(), Prototypes(simplify=False, diversity=0.0, slots=4, alpha=0.9))
    assert state.active.sum(-1).tolist() == [2, 1] and state.changes == {"created": 1.0, "removed": 0.0}
    assert state.mine(0).flatten().tolist() == [0.0, 10.0]


def test_initialization_places_several_centers_for_large_classes_and_one_for_small_ones() -> None:
    few = torch.tensor([[5.0] * 8, [7.0] * 8], dtype=torch.float64)
    rows, targets = torch.cat([blobs(), few]), torch.tensor([0] * 120 + [1] * 2)
    state = state_of(torch.full((3, 5, 8), 9.0, dtype=torch.float64))
    place(state, rows, targets, rng(), Prototypes(initial=3, slots=5, d_eff=2.0))
    assert state.active.sum(-1).tolist() == [3, 1, 0]  # the third class has no rows
    assert torch.equal(state.mine(1)[0], few.mean(0))
    assert sorted(round(float(p.mean())) for p in state.mine(0)) == [-3, 0, 3]
    points = state.points[state.active]
    mean = float(torch.cdist(rows, points).square().mean())
    assert mean == pytest.approx(mean_distance(rows, points)) and mean / (2 * state.sigma) == pytest.approx(2.0)


def test_initialization_switched_off_takes_the_class_mean() -> None:
    state = state_of(torch.zeros(1, 5, 8, dtype=torch.float64))
    place(state, blobs(), torch.zeros(120, dtype=torch.int64), rng(), Prototypes(initial=1, slots=5))
    assert torch.equal(state.mine(0), blobs().mean(0, keepdim=True))


def test_rows_that_are_all_equal_give_one_center_and_a_usable_scale() -> None:
    state = state_of(torch.zeros(1, 5, 2))
    place(state, torch.ones(30, 2), torch.zeros(30, dtype=torch.int64), rng(), Prototypes(initial=4, slots=5))
    assert state.mine(0).tolist() == [[1.0, 1.0]] and state.sigma == 1.0 and state.d_min == 0.0


def test_centers_are_means_of_the_rows_nearest_to_them() -> None:
    rows = blobs()
    found = centers(rows, 3, rng())
    own = torch.cdist(rows, found).argmin(-1)
    for k in range(3):
        torch.testing.assert_close(found[k], rows[own == k].mean(0))


def test_the_sample_is_of_every_class_and_bounded() -> None:
    targets = torch.tensor([0] * 50 + [1] * 3 + [4])
    chosen = sampled(targets, 10, rng())
    assert targets[chosen].tolist() == [0] * 10 + [1] * 3 + [4] and chosen == sorted(set(chosen))
    assert chosen != sampled(targets, 10, rng(1))


def test_mass_is_the_share_of_the_weights_of_own_rows() -> None:
    state = state_of(torch.tensor([[[0.0], [1.0]], [[4.0], [5.0]]]), sigma=0.7)
    rows, targets = torch.tensor([[0.1], [0.8], [4.2], [0.0]]), torch.tensor([0, 0, 1, 1])
    weights = torch.softmax(-torch.cdist(rows, state.points.flatten(0, 1)).square() / (2 * 0.7), -1)
    expected = [weights[:2, 0].sum(), weights[:2, 1].sum(), weights[2:, 2].sum(), weights[2:, 3].sum()]
    torch.testing.assert_close(masses(state, rows, targets).flatten(), torch.stack(expected) / 4)


def test_p6_every_class_keeps_one_prototype_also_one_without_rows() -> None:
    points = torch.tensor([[[0.0], [50.0]], [[500.0], [900.0]], [[9.0], [9.0]]])
    state = state_of(points)
    simplify(state, torch.tensor([[0.0], [0.1], [0.2]]), torch.tensor([0, 0, 1]), min_mass=1e-3)
    assert state.active.tolist() == [[True, False], [True, False], [True, True]]  # the third class was not in the sample
    assert light(torch.zeros(3), 1.0).tolist() == [False, True, True]
    assert light(torch.tensor([0.1, 0.3, 0.0]), 0.05).tolist() == [False, False, True]


def test_prototypes_of_a_class_closer_than_the_least_distance_are_merged_by_mass() -> None:
    state = state_of(torch.tensor([[[0.0], [1.0], [10.0]], [[0.5], [20.0], [30.0]]]), d_min=2.0, sigma=0.1)
    rows, targets = torch.tensor([[0.0], [0.0], [0.0], [1.0], [10.0], [20.0], [30.0], [0.5]]), torch.tensor([0] * 5 + [1] * 3)
    mass = masses(state, rows, targets)
    expected = (mass[0, 1] * 1.0) / (mass[0, 0] + mass[0, 1])
    simplify(state, rows, targets, min_mass=0.0)
    assert state.active.tolist() == [[True, False, True], [True, True, True]]  # 0.5 is near, but of another class
    torch.testing.assert_close(state.mine(0)[:, 0], torch.stack([expected, torch.tensor(10.0)]))
    assert closest(state.mine(0), 2.0) is None and closest(state.mine(0), 100.0) == (0, 1)


def test_the_least_distance_is_a_quantile_of_those_to_the_nearest_row_of_another_class_and_never_falls() -> None:
    rows, targets = torch.tensor([[0.0], [1.0], [5.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    assert separation(rows, targets, 0.0) == 4.0  # 5, 4, 4, 6
    assert separation(rows, targets, 1.0) == 6.0 and separation(rows, targets, 0.5) == 4.5
    assert separation(rows, torch.zeros(4), 0.5) == 0.0
    state = state_of(torch.tensor([[[0.0]], [[6.0]]]), d_min=5.5)
    settings = Prototypes(create=False, simplify=False, quantile=1.0, slots=1)
    grow(state, rows, targets, rng(), settings)
    assert state.d_min == 6.0
    grow(state, rows / 10, targets, rng(), settings)
    assert state.d_min == 6.0


def test_p7_the_cost_of_crowding() -> None:
    two = torch.tensor([[[0.0, 0.0], [0.6, 0.8]]], requires_grad=True)
    on = torch.ones(1, 2, dtype=torch.bool)
    assert crowding(two, on, torch.tensor(2.0)).item() == pytest.approx(1.0)
    cost = crowding(two, on, torch.tensor(1.0))
    (gradient,) = torch.autograd.grad(cost, two)
    assert cost.item() < 1e-12 and float(gradient.abs().max()) < 1e-6
    (gradient,) = torch.autograd.grad(crowding(two, on, torch.tensor(0.5)), two)
    assert not gradient.any()


def test_p7_is_finite_at_distance_zero_and_blind_to_unused_slots() -> None:
    same = torch.ones(2, 2, 3, requires_grad=True)
    on = torch.tensor([[True, True], [True, False]])
    cost = crowding(same, on, torch.tensor(2.0))
    (gradient,) = torch.autograd.grad(cost, same)
    assert cost.item() == pytest.approx(4.0) and gradient.isfinite().all()
    lone = crowding(same, torch.tensor([[True, False], [False, False]]), torch.tensor(2.0))
    assert lone.item() == 0.0 and lone.requires_grad


def test_p7_against_the_formula_pair_by_pair() -> None:
    points, least = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)), 2.5
    flat = points.flatten(0, 1)
    pairs = [(i, j) for i in range(6) for j in range(i)]
    expected = 2 / (6 * 5) * sum(max(0.0, least - float((flat[i] - flat[j]).norm())) ** 2 for i, j in pairs)
    assert float(crowding(points, torch.ones(3, 2, dtype=torch.bool), torch.tensor(least))) == pytest.approx(expected, rel=1e-5)


def test_the_count_follows_the_shape_of_the_data() -> None:
    """One prototype for a class of one blob, three for a class of three; a wide limit keeps one each."""
    rows = torch.cat([blobs(), torch.from_numpy(rng(2).normal(30.0, 0.3, (40, 8)))])
    targets = torch.tensor([0] * 120 + [1] * 40)

    def count(alpha: float) -> list[int]:
        settings = Prototypes(initial=1, alpha=alpha, simplify=False, slots=10, diversity=0.0)
        state = state_of(torch.zeros(2, 10, 8, dtype=torch.float64))
        place(state, rows, targets, rng(), settings)
        state.sigma = 1.0
        grow(state, rows, targets, rng(), settings)
        return state.active.sum(-1).tolist()  # type: ignore[no-any-return]

    assert count(0.1) == [3, 1] and count(1e-300) == [1, 1]
