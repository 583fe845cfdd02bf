"""Diff pruning: the hard-concrete gate, the penalty, the gated run, and the fixed mask that comes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tempering.contracts import Probe
from tempering.learner import Learner
from tempering.streams import torch_stream
from tempering.tunings.attach import body_weights
from tempering.tunings.diff_pruning import GATES, DiffPruning, Gated, Gates, gate, open_chance
from tempering.tunings.sparse import flat
from tests.laws.bench import bits, run, stage_of
from tests.tiny import tiny_backbone
from tests.tunings.shared import inputs, loss_of, states
from tests.tunings.sparse_cases import Told, fresh, moved


@pytest.mark.parametrize("a", [-2.0, 0.0, 0.7, 5.0])
def test_the_chance_of_an_open_gate_is_its_monte_carlo_mean(a: float) -> None:
    with torch_stream("gates"):
        drawn = gate(torch.full((200_000,), a), random=True)
    assert float((drawn > 0).float().mean()) == pytest.approx(float(open_chance(torch.tensor(a))), abs=4e-3)
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1


def test_the_constant_of_the_specification() -> None:
    """sigmoid(0.7 - log(1.5 / 1.5)) = 0.668, and 0.669 was measured."""
    assert float(open_chance(torch.tensor(0.7))) == pytest.approx(0.668, abs=5e-4)


def test_the_gate_is_the_stretched_and_clamped_concrete() -> None:
    a = torch.tensor([-3.0, -0.2, 0.0, 0.4, 3.0])
    s = 1 / (1 + torch.exp(-a))
    torch.testing.assert_close(gate(a, random=False), torch.clamp(3 * s - 1.5, 0, 1))
    with torch_stream("u"):
        u = torch.rand(5)
    with torch_stream("u"):
        drawn = gate(a, random=True)
    torch.testing.assert_close(drawn, torch.clamp(3 * torch.sigmoid(torch.log(u / (1 - u)) + a) - 1.5, 0, 1))


def _gated(method: DiffPruning, family: str = "bert") -> Learner:
    learner = fresh(method, family)
    Gated(method).attach(learner.backbone)
    return learner


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_the_gated_run_starts_as_the_backbone_and_trains_a_change_and_a_gate_for_each_number(family: str, structured: bool) -> None:
    method = DiffPruning(structured=structured)
    backbone = _gated(method, family).backbone
    assert torch.equal(states(backbone), states(tiny_backbone(family)))
    own = body_weights(backbone)
    trained = [w for w in backbone.parameters() if w.requires_grad]
    assert sum(w.numel() for w in trained) == 2 * sum(w.numel() for w in own.values()) + structured * len(own)
    assert sum(w.numel() for w in trained) == Gated(method).count(backbone)
    loss_of(backbone).backward()
    assert all(w.grad is None for w in own.values())
    changes = [n for n, w in backbone.named_parameters() if n.endswith("_w") and w.grad is not None and w.grad.any()]
    assert len(changes) > 0.5 * len(own)


def test_the_body_runs_under_the_gated_change() -> None:
    """In evaluation mode: theta0 + z_group z w, with both gates at their middle."""
    backbone, plain = _gated(DiffPruning(gate_init=0.4)).backbone, tiny_backbone()
    own = dict(plain.model.named_parameters())
    middle = 3 * torch.sigmoid(torch.tensor(0.4)) - 1.5
    with torch_stream("w"):
        for name, weight in backbone.model.named_parameters():
            if name.endswith("_w"):
                path, _, leaf = name.removesuffix("_w").rpartition(f".{GATES}.")
                weight.data = torch.randn_like(weight)
                own[f"{path}.{leaf}"].data += middle**2 * weight.detach()
    torch.testing.assert_close(states(backbone), states(plain), rtol=1e-4, atol=1e-5)
    backbone.train()
    with torch.no_grad(), torch_stream(1):
        one = backbone.encode(inputs(backbone)).last
    with torch.no_grad(), torch_stream(2):
        assert not torch.equal(backbone.encode(inputs(backbone)).last, one)


@pytest.mark.parametrize("structured", [True, False])
def test_the_penalty_is_the_expected_number_of_open_entries(structured: bool) -> None:
    method = DiffPruning(l0=0.01, gate_init=0.7, structured=structured)
    learner = _gated(method)
    hooks = Gated(method).start(learner, learner.trained(), 0)
    size = sum(w.numel() for w in body_weights(learner.backbone).values())
    chance = float(open_chance(torch.tensor(0.7)))
    assert hooks.term is not None
    assert hooks.term(None).item() == pytest.approx(0.01 * size * chance ** (2 if structured else 1), rel=1e-4)  # type: ignore[arg-type]


def test_gates_alone_are_trained_faster_and_are_never_decayed() -> None:
    method = DiffPruning(gate_rate=50.0, gated_rate=0.25)
    learner = _gated(method)
    rate = Gated(method).start(learner, learner.trained(), 0).rate
    assert rate is not None
    by_rate = {r: {n.rpartition("_")[2] for n in learner.trained() if GATES in n and rate(n, 0.5) == r} for r in (0.25, 50.0)}
    assert by_rate == {0.25: {"w"}, 50.0: {"a", "g"}}
    assert all(rate(n, 0.5) == 1.0 for n in learner.trained() if GATES not in n)
    assert all(w.ndim == 1 for n, w in learner.trained().items() if n.endswith(("_a", "_g")))  # the loop decays matrices only


def test_the_largest_gated_changes_are_kept_with_their_values() -> None:
    method = DiffPruning(density=0.01)
    learner, copied = fresh(method), _gated(method)
    with torch_stream("found"):
        found = {n: torch.randn_like(w) for n, w in copied.trained().items() if GATES in n}
    probe = Told(tuned=found)
    method.prepare(learner, probe)
    assert isinstance(probe.asked["tuning"], Gated) and probe.asked["epochs"] == 3.0
    chosen, bank = method.chosen(learner.backbone), method.bank(learner.backbone)
    diffs: dict[str, Any] = {}
    for name in chosen:
        path, _, leaf = name.rpartition(".")
        w, a, g = (found[f"backbone.model.{path}.{GATES}.{leaf}_{letter}"] for letter in "wag")
        z, group = ((3 * torch.sigmoid(t) - 1.5).clamp(0, 1) for t in (a, g))
        diffs[f"backbone.model.{name}"] = w * z.view(w.shape) * group
    diff = flat(diffs, chosen)
    k = method.count(learner.backbone)
    torch.testing.assert_close(bank.values[0], diff[bank.indices.long()])
    assert bank.values.abs().min().item() == pytest.approx(float(diff.abs().sort(descending=True).values[k - 1]))


def test_a_run_leaves_no_gates_and_changes_exactly_the_kept_share() -> None:
    method = DiffPruning(density=0.01, epochs=1.0, gate_rate=10.0)
    learner = run(stage_of(method))
    assert not [m for m in learner.modules() if isinstance(m, Gates)]
    assert not [n for n in bits(learner) if GATES in n]
    assert 0.9 * method.count(learner.backbone) < moved(method, learner.backbone) <= method.count(learner.backbone)


def test_a_strong_penalty_closes_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gated run itself, through the loop: more penalty, fewer open gates."""
    shares: dict[float, float] = {}

    def prepare(self: DiffPruning, learner: Learner, probe: Probe) -> None:
        found = probe.fine_tuned(Gated(self), 1.0)
        odds = torch.cat([w for n, w in found.items() if n.endswith("_a")])
        shares[self.l0] = open_chance(odds).mean().item()

    monkeypatch.setattr(DiffPruning, "prepare", prepare)
    for l0 in (0.0, 1e-2):
        run(stage_of(DiffPruning(density=0.01, l0=l0, gate_init=0.5, gate_rate=100.0)))
    assert shares[1e-2] < shares[0.0] - 0.1
