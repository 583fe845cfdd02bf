"""Prototypes as a classifier: P(y | x), its limits and gradients. Golden values P1, P2, P3, P6, P9, P10 of the spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Batch, Example
from tempering.errors import RecipeError
from tempering.framings.clusters.mixture import ABSENT, log_chances, nearness, stray
from tempering.framings.head import Head
from tempering.framings.prototypes import Prototypes, PrototypesModule, own_labels
from tempering.stabilizers.freelb import FreeLB
from tempering.streams import torch_stream
from tests.laws.bench import STEPS, run, stage_of
from tests.tiny import tiny_backbone

TaskOf = Callable[..., Any]
BatchOf = Callable[[Any, list[Example]], Batch]
TARGETS = [0, 0, 1, 1, 2, 2]


class Rows:
    """Training rows that are already embedded."""

    def __init__(self, rows: Tensor, targets: Sequence[int], step: int = 0) -> None:
        self.rows, self.targets, self.step, self.rng = rows, targets, step, np.random.default_rng(step)

    def trunk(self, rows: Sequence[int] | None = None) -> Tensor:
        return self.rows if rows is None else self.rows[list(rows)]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def on(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def chances(rows: Tensor, points: Tensor, active: Tensor, sigma: float = 1.0, **options: Any) -> Tensor:
    return log_chances(nearness(rows, points, active, torch.tensor(sigma, dtype=rows.dtype).log()), active, **options).exp()


@pytest.fixture
def built(task_of: TaskOf) -> Callable[..., tuple[PrototypesModule, Any]]:
    """A module on a tiny backbone, with its backbone."""

    def make(value: Prototypes | None = None, family: str = "bert") -> tuple[PrototypesModule, Any]:
        backbone = tiny_backbone(family)
        with torch_stream(0, "test"):
            return (value or Prototypes(slots=4)).build(task_of(), backbone), backbone

    return make


def test_p1_two_prototypes_on_a_line() -> None:
    points, x = torch.tensor([[[0.0]], [[2.0]]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64)
    assert chances(x, points, on(2, 1), sigma=1.0)[0, 0].item() == pytest.approx(0.731059, abs=1e-6)
    assert chances(x, points, on(2, 1), sigma=0.5)[0, 0].item() == pytest.approx(0.880797, abs=1e-6)  # -D / (2 sigma) = -D


@pytest.mark.parametrize("soft", [False, True])
def test_p2_probabilities_are_those_of_the_mixture(soft: bool) -> None:
    """sum_k softmax_k(-D / (2 sigma)) l_ky, with slots out of use; rows sum to 1."""
    points, rows, active = draw(3, 4, 5), draw(7, 5, seed=1), torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()
    labels = draw(3, 4, 3, seed=2) if soft else None
    found = chances(rows, points, active, 0.8, soft=labels)
    used = points[active]
    weights = torch.softmax(-(rows.unsqueeze(1) - used).square().sum(-1) / 1.6, -1)
    own = F.one_hot(active.nonzero()[:, 0], 3).double() if labels is None else labels[active].softmax(-1)
    torch.testing.assert_close(found, weights @ own)
    torch.testing.assert_close(found.sum(-1), torch.ones(7, dtype=torch.float64))


def test_p2_order_and_copies_of_prototypes_do_not_matter() -> None:
    points, rows = draw(3, 4, 5), draw(7, 5, seed=1)
    found = chances(rows, points, on(3, 4))
    torch.testing.assert_close(chances(rows, points[:, [2, 0, 3, 1]], on(3, 4)), found)
    torch.testing.assert_close(chances(rows, points[[1, 2, 0]], on(3, 4))[:, [2, 0, 1]], found)
    torch.testing.assert_close(chances(rows, points.repeat(1, 2, 1), on(3, 8)), found)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_p3_one_prototype_a_class_is_a_linear_head(dtype: torch.dtype, tolerance: float) -> None:
    points, rows, sigma = draw(5, 1, 16, dtype=dtype), draw(9, 16, seed=1, dtype=dtype), 3.0
    weight, bias = points[:, 0] / sigma, -points[:, 0].square().sum(-1) / (2 * sigma)
    linear = F.linear(rows, weight, bias).softmax(-1)
    assert float((chances(rows, points, on(5, 1), sigma) - linear).abs().max()) < tolerance


def test_the_nearest_prototype_of_each_class_may_speak_alone() -> None:
    points, rows, active = draw(3, 4, 5), draw(7, 5, seed=1), torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()
    apart = (rows[:, None, None] - points).square().sum(-1).masked_fill(~active, torch.inf).amin(-1)
    torch.testing.assert_close(chances(rows, points, active, 0.8, readout="nearest"), (-apart / 1.6).softmax(-1))


def test_a_class_without_prototypes_has_next_to_no_chance_and_no_infinity() -> None:
    points, rows = draw(3, 2, 5).requires_grad_(), draw(4, 5, seed=1)
    active = torch.tensor([[True, True], [False, False], [True, False]])
    logits = log_chances(nearness(rows, points, active, torch.tensor(0.0)), active)
    assert (logits[:, 1] == ABSENT).all()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1, 2, 2])), points)
    assert gradient.isfinite().all() and not gradient[~active].any() and gradient[active].any()


@pytest.mark.parametrize("readout", ["mixture", "nearest"])
def test_p10_a_tiny_scale_stays_finite(readout: Any) -> None:
    points, rows = draw(3, 4, 8, dtype=torch.float32).requires_grad_(), 5 * draw(6, 8, seed=1, dtype=torch.float32)
    log_sigma = torch.tensor(1e-4).log().requires_grad_()
    logits = log_chances(nearness(rows, points, on(3, 4), log_sigma), on(3, 4), readout)
    gradients = torch.autograd.grad(F.cross_entropy(logits, torch.tensor(TARGETS)), [points, log_sigma])
    assert logits.isfinite().all() and logits.min() < -1e4 and all(g.isfinite().all() for g in gradients)
    assert gradients[0].any()  # wrong rows still pull, though their probability is 0


def test_a_common_offset_of_all_texts_costs_no_digits() -> None:
    points, rows = draw(3, 4, 8, dtype=torch.float32), draw(6, 8, seed=1, dtype=torch.float32)
    shifted = chances(rows + 1000, points + 1000, on(3, 4), 0.5)
    torch.testing.assert_close(shifted, chances(rows, points, on(3, 4), 0.5), atol=2e-3, rtol=0)


def test_the_pull_is_to_the_nearest_prototype_of_the_own_class() -> None:
    points, active = torch.tensor([[[0.0], [3.0]], [[0.4], [9.0]]]), torch.tensor([[True, True], [True, False]])
    assert stray(torch.tensor([[0.5], [2.0], [1.4]]), torch.tensor([0, 0, 1]), points, active).tolist() == [0.25, 1.0, 1.0]


def test_p9_gradients_reach_the_body_the_prototypes_and_the_scale(
    built: Callable[..., Any], batch_of: BatchOf, examples: list[Example]
) -> None:
    module, backbone = built()
    batch = batch_of(module, [Example(e.texts, label) for e, label in zip(examples, ["bad", "good", "so so", "bad"], strict=True)])
    module.loss(module.scores(backbone, batch), batch).backward()
    assert backbone.embeddings.weight.grad.any() and module.prototypes.grad[module.active].any() and module.log_sigma.grad != 0
    assert not module.prototypes.grad[~module.active].any()
    assert {n for n, _ in module.named_parameters()} == {"prototypes", "log_sigma"} and module.active.dtype == torch.bool


def test_the_first_refresh_places_class_means_and_predicts_with_them(built: Callable[..., Any]) -> None:
    module, _ = built()
    rows = draw(6, 32, dtype=torch.float32) + torch.tensor(TARGETS).unsqueeze(1) * 3
    renewed = module.refresh(Rows(rows, TARGETS))
    assert module.active.sum(-1).tolist() == [1, 1, 1] and module.facts()["prototypes"] == 3.0
    assert renewed["prototypes"].all() and renewed["log_sigma"]  # all was placed anew
    for label in range(3):
        torch.testing.assert_close(module.prototypes[label, 0].detach(), rows[2 * label : 2 * label + 2].mean(0))
    logits, features = module(rows)
    assert torch.equal(features, rows) and logits.argmax(-1)[0].tolist() == TARGETS
    apart = torch.cdist(rows, module.prototypes[:, 0]).square().mean() / (2 * module.log_sigma.exp())
    assert apart.item() == pytest.approx(3.0, rel=1e-4)


def test_p8_slots_change_hands_without_moving_a_tensor(built: Callable[..., Any]) -> None:
    module, _ = built(Prototypes(slots=4, alpha=0.9, soft_labels=True, simplify=False))
    rows = draw(6, 32, dtype=torch.float32)
    module.refresh(Rows(rows, TARGETS))
    before = {n: (p.data_ptr(), p.shape) for n, p in module.named_parameters()}
    with torch.no_grad():
        module.soft.fill_(7.0)
        module.log_sigma.fill_(-9.0)
    renewed = module.refresh(Rows(rows, TARGETS, step=5))
    assert {n: (p.data_ptr(), p.shape) for n, p in module.named_parameters()} == before
    assert module.active.sum(-1).tolist() == [3, 3, 3] and module.facts()["created"] == 6.0  # a mean and two rows each
    assert renewed["prototypes"].tolist() == [[False, True, True, True]] * 3
    assert torch.equal(module.soft[0, 0], torch.full((3,), 7.0)) and torch.equal(module.soft[0, 1], own_labels(3, 4)[0, 1])
    assert set(map(tuple, module.prototypes[1, 1:3].tolist())) == set(map(tuple, rows[2:4].tolist()))


def test_nothing_is_embedded_where_nothing_adapts(built: Callable[..., Any]) -> None:
    module, _ = built(Prototypes(initial=1, create=False, simplify=False, diversity=0.0, slots=1))
    rows = Rows(draw(6, 32, dtype=torch.float32), TARGETS, step=3)
    rows.trunk = lambda rows=None: pytest.fail("embedded")  # type: ignore[method-assign]
    assert module.refresh(rows) == {}


def test_new_label_vectors_give_most_to_the_own_class() -> None:
    vectors = own_labels(4, 2).softmax(-1)
    assert vectors.shape == (4, 2, 4) and torch.allclose(vectors[2, 1], torch.tensor([0.1 / 3, 0.1 / 3, 0.9, 0.1 / 3]))
    assert own_labels(1, 2).softmax(-1).tolist() == [[[1.0], [1.0]]]


def test_a_projection_gives_the_width_that_is_asked_for(built: Callable[..., Any], batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built(Prototypes(proto_dim=6, slots=2))
    scores = module.scores(backbone, batch_of(module, examples)).only
    assert scores.features.shape == (4, 6) and module.prototypes.shape == (3, 2, 6) and scores.logits.shape == (1, 4, 3)
    assert scores.targets is None and scores.kind == "classification"
    torch.testing.assert_close(scores.logits.exp().sum(-1), torch.ones(1, 4))


def test_predictions_are_labels_with_their_probabilities(built: Callable[..., Any], batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built()
    scores = module.scores(backbone, batch_of(module, examples))
    for row, found in zip(scores.only.logits[0].detach().exp(), module.decode(scores), strict=True):
        assert found.label == ("bad", "good", "so so")[int(row.argmax())]
        assert list(found.probabilities) == ["bad", "good", "so so"]
        assert list(found.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)


def test_kept_outputs_are_those_of_a_head_over_the_same_vectors(
    built: Callable[..., Any], task_of: TaskOf, batch_of: BatchOf, examples: list[Example]
) -> None:
    module, backbone = built(Prototypes(pool="mean", max_length=12))
    head: Any = Head(pool="mean", max_length=12).build(task_of(), backbone)
    batch = batch_of(module, examples)
    assert module.trunk_key() == head.trunk_key() and torch.equal(module.trunk(backbone, batch), head.trunk(backbone, batch))
    cached = Batch({"features": module.trunk(backbone, batch)})
    assert torch.equal(module.scores(backbone, cached).only.logits, module.scores(backbone, batch).only.logits)


def test_half_precision_stops_before_the_distances(built: Callable[..., Any], batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built()
    with torch.autocast("cpu", torch.bfloat16):
        slab = module.scores(backbone, batch_of(module, examples)).only
    assert slab.logits.dtype == slab.features.dtype == torch.float32


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_tasks_are_refused(kind: str, task_of: TaskOf) -> None:
    with pytest.raises(RecipeError, match="stands for one class; take framing head"):
        Prototypes().build(task_of(kind), tiny_backbone())


def test_settings_that_contradict_each_other_are_refused(task_of: TaskOf) -> None:
    with pytest.raises(RecipeError, match="set soft_labels: false"):
        Prototypes(readout="nearest", soft_labels=True).build(task_of(), tiny_backbone())
    with pytest.raises(RecipeError, match="prototypes.pool=pooler"):
        Prototypes(pool="pooler").build(task_of(), tiny_backbone("roberta"))
    for wrong in ({"alpha": 0.0}, {"initial": 0}, {"slots": 0}, {"quantile": 1.5}, {"diversity": -1.0}):
        with pytest.raises(ValidationError):
            Prototypes(**wrong)


@pytest.mark.parametrize(("pull", "passes"), [(0.0, 2), (0.1, 3)])
def test_only_the_pull_asks_for_a_pass_of_its_own(pull: float, passes: int) -> None:
    """FreeLB makes two and reads no other; a head beside it costs no third, and prototypes that pull no row cost none either."""
    stage = stage_of(stabilizers=[FreeLB()], framing=Prototypes(pull=pull, slots=4))
    assert stage.passes_per_step == passes == stage_of(stabilizers=[FreeLB()]).passes_per_step + (pull > 0)
    assert run(stage).record["stage"]["passes"] == passes * STEPS
