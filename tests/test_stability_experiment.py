"""The experiment on the theory of stability: its minimizers, its gradients, its verdicts, and that its results are of its claims."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch.nn import functional as F

FOLDER = Path(__file__).parents[1] / "experiments" / "stability"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[Any, Any, Any]]:
    """``worlds``, ``claims`` and ``judging``: scripts beside each other, in no package; the others can be imported beside them."""
    before = torch.get_default_dtype()
    sys.path.insert(0, str(FOLDER))
    try:
        import claims
        import judging
        import worlds

        yield worlds, claims, judging
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("claims", "judging", "linear", "networks", "run", "worlds"):
            sys.modules.pop(name, None)
        torch.set_default_dtype(before)


def test_the_minimizer_is_scipys(modules: tuple[Any, Any, Any]) -> None:
    worlds, _, _ = modules
    sets = worlds.Sets.draw(2, 20, 5, 1.0, torch.Generator().manual_seed(0))
    weights = sets.left_out(4)
    found = worlds.minimize(sets, weights, 0.1, 1.5)
    x, y = sets.rows[1].numpy(), sets.signs[1].numpy()
    for k in (0, 3):
        share = weights[1, k].numpy()

        def loss(w: Any, share: Any = share) -> float:
            return float(1.5 * (share * np.log1p(np.exp(-y * (x @ w)))).sum() + 0.05 * w @ w)

        theirs = optimize.minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
        np.testing.assert_allclose(found[1, k].numpy(), theirs.x, atol=1e-6)


def test_leaving_a_row_out_keeps_the_divisor_and_obeys_the_bound(modules: tuple[Any, Any, Any]) -> None:
    worlds, _, _ = modules
    sets = worlds.Sets.draw(5, 20, 4, 1.0, torch.Generator().manual_seed(1))
    weights = sets.left_out(5)
    assert weights[:, 0].sum(-1).tolist() == pytest.approx([1.0] * 5)
    assert weights[:, 1:].sum(-1).unique().tolist() == pytest.approx([19 / 20])
    apart = worlds.from_whole(worlds.minimize(sets, weights, 0.2))
    assert (apart <= (2 * sets.reach / (0.2 * 20)).unsqueeze(1)).all()
    assert (apart > 0).all()


def test_descent_takes_the_gradient_of_its_objective(modules: tuple[Any, Any, Any]) -> None:
    worlds, _, _ = modules
    sets = worlds.Sets.draw(1, 10, 3, 1.0, torch.Generator().manual_seed(2))
    start = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    weights = sets.whole(1)
    loss = 2.0 * (weights[0, 0] * F.softplus(-sets.signs[0] * (sets.rows[0] @ start[0, 0]))).sum() + 0.15 * start.square().sum()
    (gradient,) = torch.autograd.grad(loss, start)
    found = worlds.descend(sets, weights, start.detach(), 0.1, 1, (1,), mu=0.3, scale=2.0)[1]
    torch.testing.assert_close(found, start.detach() - 0.1 * gradient)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_step_of_the_network_is_its_gradient(modules: tuple[Any, Any, Any], heads: int) -> None:
    """Loss and margin's term written with autograd: the body follows the mean over heads, each head its own loss."""
    worlds, _, _ = modules
    rng = torch.Generator().manual_seed(4)
    sets = worlds.Sets.draw(2, 12, 3, 1.0, rng)
    net = worlds.fresh(2, 2, heads, 5, 3, rng)
    weights = sets.left_out(1)
    drawn = torch.randint(0, 12, (2, 2, 6), generator=rng)
    how = worlds.Tuning(rate=0.3, scale=1.7, mmr=0.8, batch=6)
    moved = worlds._step(net, sets, weights, how, drawn)
    s, k = 1, 1
    body, head = net.body[s, k].clone().requires_grad_(), net.heads[s, k].clone().requires_grad_()
    x, y = sets.rows[s, drawn[s, k]], sets.signs[s, drawn[s, k]]
    features = torch.tanh(torch.cat([x, torch.ones(6, 1)], 1) @ body.T)
    each = F.softplus(-y * (features @ head.T).T) * weights[s, k, drawn[s, k]] * 12 / 6 * 1.7
    margin = 0.8 / (1 + (features[y > 0].mean(0) - features[y < 0].mean(0)).norm())
    (of_body,) = torch.autograd.grad(each.sum(1).mean() + margin, body, retain_graph=True)
    (of_head,) = torch.autograd.grad(each.sum(), head)
    torch.testing.assert_close(moved.body[s, k], net.body[s, k] - 0.3 * of_body)
    torch.testing.assert_close(moved.heads[s, k], net.heads[s, k] - 0.3 * of_head)


def test_smaller_sets_lie_inside_larger_ones_and_stay_balanced(modules: tuple[Any, Any, Any]) -> None:
    worlds, _, _ = modules
    whole = worlds.Sets.draw(1, 16, 2, 1.0, torch.Generator().manual_seed(5))
    part = whole.first(6)
    assert float(part.signs.sum()) == 0.0
    rows = {tuple(x) for x in whole.rows[0].tolist()}
    assert {tuple(x) for x in part.rows[0].tolist()} <= rows


def test_a_moved_start_is_one_body_for_all_models_of_a_set(modules: tuple[Any, Any, Any]) -> None:
    """Else starts that differ, and not new heads and orders, would be what grows with the move."""
    import networks

    target = networks._Target.draw(2)
    here, moved = target.start(3, shared=False), target.start(3, shared=False, away=4.0)
    torch.testing.assert_close((moved.body - here.body).flatten(2).norm(dim=-1), torch.full((2, 3), 4.0))
    assert torch.equal(moved.body, moved.body[:, :1].expand_as(moved.body))
    assert not torch.equal(moved.body[0], moved.body[1])
    assert torch.equal(moved.heads, here.heads)
    assert len({tuple(x) for x in moved.heads.flatten(2)[0].tolist()}) == 3


def test_to_scale_the_loss_is_to_scale_the_rate(modules: tuple[Any, Any, Any]) -> None:
    """The reason given for one failed claim."""
    worlds, _, _ = modules
    import networks

    target = networks._Target.draw(2)
    steep, fast = (worlds.Tuning(steps=5, **x) for x in ({"scale": 2.0}, {"rate": 0.2}))
    torch.testing.assert_close(target.seeds(steep), target.seeds(fast))
    assert (target.seeds(steep) != target.seeds(worlds.Tuning(steps=5))).all()


def test_several_heads_are_trained_apart_from_one_shared_start_and_averaged(modules: tuple[Any, Any, Any]) -> None:
    worlds, _, _ = modules
    import linear

    sets = worlds.Sets.draw(2, 40, linear.D, 1.0, worlds.seeded(13))
    found = linear._removed(sets, 0.5, (3,), heads=4)[3]
    starts = 0.1 * torch.randn(2, 1, 4, linear.D, generator=worlds.seeded(5))[1, 0]
    weights = sets.left_out(worlds.REMOVED)[1]
    assert found.shape == (2, 1 + worlds.REMOVED, linear.D)
    for k in (0, 5):
        heads = []
        for head in starts:
            for _ in range(3):
                margins = sets.signs[1] * (sets.rows[1] @ head)
                head = head + 0.5 * ((weights[k] * torch.sigmoid(-margins) * sets.signs[1]) @ sets.rows[1])
            heads.append(head)
        torch.testing.assert_close(found[1, k], torch.stack(heads).mean(0))


def _claim(judging: Any, slope: tuple[float, float]) -> Any:
    return judging.Claim("x", "world", "falls", "n", "distance", slope, lambda n: None)


def test_a_verdict_is_the_mean_slope_over_sets_with_its_interval(modules: tuple[Any, Any, Any]) -> None:
    _, _, judging = modules
    rng, levels = np.random.default_rng(0), [1.0, 2.0, 4.0, 8.0]
    slopes = -1 + 0.2 * rng.standard_normal(30)
    values = torch.tensor(np.array([[x**b for x in levels] for b in slopes]))
    verdict = judging.judge(_claim(judging, judging.FALLS), judging.Measured(levels, values))
    half = stats.t.isf(0.025, 29) * slopes.std(ddof=1) / math.sqrt(30)
    assert (verdict.slope, verdict.low, verdict.high) == pytest.approx((slopes.mean(), slopes.mean() - half, slopes.mean() + half))
    assert verdict.holds
    assert not judging.judge(_claim(judging, judging.RISES), judging.Measured(levels, values)).holds
    assert not judging.judge(_claim(judging, (-0.5, 0.0)), judging.Measured(levels, values)).holds


def test_one_measurement_beyond_its_bound_fails_a_claim(modules: tuple[Any, Any, Any]) -> None:
    _, _, judging = modules
    levels = [1.0, 2.0]
    values = torch.tensor([[2.0, 1.0], [2.1, 1.0]])
    inside = torch.tensor([[True, True], [True, False]])
    found = judging.Measured(levels, values, torch.ones(2, 2), inside)
    verdict = judging.judge(_claim(judging, judging.FALLS), found)
    assert verdict.inside == 0.75
    assert not verdict.holds
    assert judging.judge(_claim(judging, judging.FALLS), judging.Measured(levels, values, torch.ones(2, 2), inside | True)).holds


def test_the_command_writes_a_table_and_a_plot_for_each_claim(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), "--sets", "12", "--only", "convex-rows,head-rate-seeds", "--output", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("holds convex-rows: slope -")
    assert "FAILS head-rate-seeds" in said
    text = (tmp_path / "results.md").read_text()
    assert "1 of 2 claims hold on 12 synthetic sets" in text
    assert "| 100 % | holds |" in text
    assert "- head-rate-seeds: At a fixed number of steps" in text
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["convex-rows.svg", "head-rate-seeds.svg"]
    bad = subprocess.run([*command[:4], "--only", "nothing"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert "there is no claim nothing" in bad.stderr


def test_the_results_that_are_kept_are_of_these_claims_and_of_enough_sets(modules: tuple[Any, Any, Any]) -> None:
    import run

    text = (FOLDER / "results.md").read_text(encoding="utf-8")
    assert {f"{claim.name}.svg" for claim in run.CLAIMS} == {p.name for p in (FOLDER / "figures").iterdir()}
    for claim in run.CLAIMS:
        assert f"| [{claim.name}](figures/{claim.name}.svg) |" in text
    assert int(text.split(" claims hold on ")[1].split()[0]) >= 200
    assert f"{text.count('| holds |')} of {len(run.CLAIMS)} claims hold" in text
    assert all(part in text for part in (run.METHOD, *run.WORLDS.values()))
    assert all(claim.why for claim in run.CLAIMS if f"- {claim.name}: " in text)


@pytest.mark.parametrize(
    "varied",
    ["rows n", "steps T", "learning rate", "scale of the loss", "move of the start", "gap between the classes", "heads H"],
)
def test_both_quantities_are_asked_of_everything_that_is_varied(modules: tuple[Any, Any, Any], varied: str) -> None:
    _, claims, _ = modules
    asked = {claim.quantity for claim in claims.CLAIMS if claim.level == varied}
    assert asked & {claims.REMOVAL, claims.TURNED}
    assert asked & {claims.SEEDS, claims.CHANCES}
