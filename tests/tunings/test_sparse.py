"""The bank of chosen entries: exactness, ties, sharing, copies, swapped weights, merging, adding up."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import ModelError
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings
from tempering.streams import torch_stream
from tempering.tunings.attach import attach_all, body_weights
from tempering.tunings.fish import FISH
from tempering.tunings.grft import GRFT
from tempering.tunings.lora import LoRA
from tempering.tunings.lt_sft import LTSFT
from tempering.tunings.magnitude import MagnitudeMask
from tempering.tunings.sparse import add, changes, maskable, top
from tests.laws.bench import NOWHERE, SEEDS, STAGE, bits, dev, differing, logits, run, stage_of
from tests.tiny import FAMILIES, save_tiny, tiny_backbone, tiny_task
from tests.tunings.shared import attached, disturb, inputs, loss_of, one_step, states, trained

SPARSE: dict[str, Any] = {
    "fish": FISH(density=0.02),
    "lt_sft": LTSFT(density=0.02),
    "magnitude": MagnitudeMask(density=0.02),
    "grft": GRFT(r=2),
    "grft-columns": GRFT(r=3, axis="columns"),
}


@pytest.mark.parametrize(
    ("scores", "k", "expected"),
    [
        ([1.0, 3.0, 2.0, 3.0], 2, [1, 3]),
        ([5.0, 5.0, 5.0, 5.0], 3, [0, 1, 2]),  # a threshold test would take all four
        ([0.0, 7.0, 1.0, 1.0, 1.0], 3, [1, 2, 3]),
        ([0.0, 0.0], 2, [0, 1]),
        ([-1.0, -2.0, -1.0], 1, [0]),
    ],
)
def test_exactly_k_are_chosen_also_with_ties(scores: list[float], k: int, expected: list[int]) -> None:
    assert top(torch.tensor(scores), k).tolist() == expected


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite; lower learning_rate"):
        top(torch.tensor([1.0, float("nan")]), 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_density_one_the_values_feel_the_gradient_of_every_weight(family: str) -> None:
    """Every maskable weight is reached in every family: what a family reads aside is not maskable."""
    tuning = FISH(density=1.0)
    backbone, plain = attached(tuning, family), tiny_backbone(family)
    loss_of(backbone).backward()
    loss_of(plain).backward()
    bank, own = tuning.bank(backbone), body_weights(plain)
    assert bank.values.grad is not None
    sizes = [w.numel() for w in tuning.chosen(backbone).values()]
    for name, part in zip(tuning.chosen(backbone), bank.values.grad[0].split(sizes), strict=True):
        grad = own[name].grad
        assert torch.equal(part, torch.zeros_like(part) if grad is None else grad.reshape(-1)), name
    assert set(own) - set(tuning.chosen(backbone)) == set(plain.layout.read_aside)


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "albert"])
def test_only_the_chosen_entries_change_and_merging_is_exact(family: str, name: str) -> None:
    tuning, backbone = SPARSE[name], attached(SPARSE[name], family)
    before = {n: w.detach().clone() for n, w in body_weights(backbone).items()}
    start = states(backbone)
    assert torch.equal(start, states(tiny_backbone(family)))
    one_step(backbone)  # AdamW with weight decay
    assert all(torch.equal(w, before[n]) for n, w in body_weights(backbone).items())
    disturb(backbone)
    scored, count = states(backbone), tuning.count(backbone)
    assert not torch.equal(scored, start)
    tuning.merge(backbone)
    assert torch.equal(states(backbone), scored)  # the very weights of the last pass
    changed = {n: int((w != before[n]).sum()) for n, w in body_weights(backbone).items()}
    assert sum(changed.values()) == count
    assert set(backbone.state_dict()) == set(tiny_backbone(family).state_dict())
    assert not [m for m in backbone.modules() if "forward" in vars(m)]


def test_apply_then_revert_gives_the_pretrained_bits() -> None:
    backbone = attached(SPARSE["fish"])
    start = states(backbone)
    disturb(backbone)
    assert not torch.equal(states(backbone), start)
    FISH(density=0.02).bank(backbone).values.data.zero_()
    assert torch.equal(states(backbone), start)


def test_only_k_numbers_have_optimizer_state_and_they_decay_towards_the_pretrained_weights() -> None:
    tuning = MagnitudeMask(density=0.01)
    backbone = attached(tuning)
    (values,) = trained(backbone).values()
    assert values.shape == (1, tuning.count(backbone)) and values.ndim == 2  # the loop decays matrices only
    values.data.fill_(1.0)
    optimizer = torch.optim.AdamW([values], lr=0.1, weight_decay=0.5)
    values.grad = torch.zeros_like(values)
    optimizer.step()
    assert torch.allclose(values, torch.full_like(values, 0.95))
    assert sum(t.numel() for t in optimizer.state[values].values() if t.ndim) == 2 * tuning.count(backbone)


@pytest.mark.parametrize("name", SPARSE)
def test_copies_and_swapped_weights_are_seen(name: str) -> None:
    backbone = attached(SPARSE[name])
    other = copy.deepcopy(backbone)
    disturb(other)
    before, expected = states(backbone), states(other)
    assert not torch.equal(before, expected)
    own = {n: w + 0.01 for n, w in body_weights(backbone).items()}
    added = {n.removeprefix("model."): w for n, w in trained(other).items()}
    with torch.no_grad():
        called = torch.func.functional_call(backbone.model, added, kwargs=inputs(backbone)).last_hidden_state
        both = torch.func.functional_call(backbone.model, added | own, kwargs=inputs(backbone)).last_hidden_state
    assert torch.equal(called, expected) and not torch.equal(both, expected)
    assert torch.equal(states(backbone), before)


def test_a_layer_called_by_itself_and_one_that_fails_leave_the_weights_as_they_were() -> None:
    tuning = FISH(density=0.5)
    backbone = attached(tuning)
    disturb(backbone)
    layer = backbone.model.encoder.layer[0].intermediate.dense
    weight = layer.weight
    x = torch.randn(2, 32)
    alone = layer(x)  # outside of the body's forward pass
    with pytest.raises(RuntimeError, match="shapes"):
        layer(torch.randn(2, 5))
    assert layer.weight is weight
    tuning.merge(backbone)
    assert torch.equal(layer(x), alone)


def test_recomputed_blocks_give_the_same_gradient() -> None:
    """Gradient checkpointing runs layers again in the backward pass, when the body's own forward pass is over."""
    found = []
    for on in (False, True):
        backbone = attached(SPARSE["fish"])
        disturb(backbone)
        backbone.recompute(on)
        backbone.train()
        with torch_stream("dropout"):
            loss_of(backbone).backward()
        found.append(SPARSE["fish"].bank(backbone).values.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_two_deltas_add_up() -> None:
    """theta0 + delta_a + delta_b, in either order, is the body that carries both."""
    a, b = LTSFT(density=0.03), MagnitudeMask(density=0.03)
    found = {}
    for tuning in (a, b):
        backbone = attached(tuning)
        with torch_stream(tuning.method):
            disturb(backbone)
            tuning.bank(backbone).values.data.copy_(torch.randn_like(tuning.bank(backbone).values))
        found[tuning.method] = (changes(backbone, tuning.method, tuning.chosen(backbone)), tuning.bank(backbone).state_dict())
    one, other, both = tiny_backbone(), tiny_backbone(), tiny_backbone()
    for backbone, order in ((one, ("lt_sft", "magnitude")), (other, ("magnitude", "lt_sft"))):
        for name in order:
            add(backbone, found[name][0])
    attach_all((a, b), both)
    a.bank(both).load_state_dict(found["lt_sft"][1])
    b.bank(both).load_state_dict(found["magnitude"][1])
    torch.testing.assert_close(states(one), states(other), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states(one), states(both), rtol=1e-5, atol=1e-5)
    assert torch.equal(states(one), states(both))  # banks are added in the order of their names
    alone = tiny_backbone()
    add(alone, found["lt_sft"][0])
    assert float((states(one) - states(alone)).abs().max()) > 0.01


def test_a_sparse_change_and_a_lora_on_one_layer_in_either_order() -> None:
    pair = (LoRA(r=2), FISH(density=0.05))
    first, second = tiny_backbone(), tiny_backbone()
    attach_all(pair, first)
    attach_all(pair[::-1], second)
    disturb(first)
    second.load_state_dict(first.state_dict())
    assert torch.equal(states(first), states(second))
    before = states(first)
    for tuning in pair:
        tuning.merge(first)
    torch.testing.assert_close(states(first), before, rtol=1e-5, atol=1e-5)


def test_the_entries_follow_when_they_are_written_to() -> None:
    """Loading and checkpoints copy into the buffer: where the values go must not be remembered from before."""
    tuning = FISH(density=0.02)
    backbone = attached(tuning)
    states(backbone)
    bank = tuning.bank(backbone)
    bank.values.data.fill_(1.0)
    bank.load_state_dict({"values": bank.values, "indices": torch.arange(bank.indices.numel(), dtype=bank.indices.dtype)})
    tuning.merge(backbone)
    table = body_weights(backbone)["embeddings.word_embeddings.weight"].reshape(-1)
    before = body_weights(tiny_backbone())["embeddings.word_embeddings.weight"].reshape(-1)
    k = bank.indices.numel()
    assert torch.equal(table[:k], before[:k] + 1) and torch.equal(table[k:], before[k:])


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_a_density_out_of_range_is_refused_by_its_name(density: float) -> None:
    with pytest.raises(ValidationError, match="density"):
        FISH(density=density)


def test_a_density_that_leaves_nothing_and_another_setting_on_top_are_refused() -> None:
    with pytest.raises(ModelError, match=r"fish: density 1e-07 .* less than one entry; give a density of at least"):
        FISH(density=1e-7).attach(tiny_backbone())
    with pytest.raises(ModelError, match="earlier stage"):
        FISH(density=0.5).attach(attached(FISH(density=0.02)))


def test_the_count_is_the_rounded_share_of_what_may_be_masked() -> None:
    backbone = tiny_backbone()
    every = sum(w.numel() for w in body_weights(backbone).values())
    norms = 5 * 2 * 32
    assert FISH(density=0.1).count(backbone) == round(0.1 * every)
    assert FISH(density=0.1, layer_norm=False).count(backbone) == round(0.1 * (every - norms))
    assert not [n for n in maskable(backbone, layer_norm=False) if "LayerNorm" in n]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("base") / "bert")


def _fitted(tuning: Any, base: Path) -> Any:
    backbone = Backbone.load(str(base))
    backbone.base_fingerprint = backbone.fingerprint()
    return stage_of(tuning).run(backbone, tiny_task(24), SEEDS)


def test_the_folder_holds_the_changed_entries_only_and_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    learner = _fitted(FISH(density=0.01, rows=4), base)
    scored = logits(learner, dev())
    learner.save_pretrained(tmp_path / "saved")
    held = load_file(tmp_path / "saved" / "delta.safetensors")
    k = FISH(density=0.01).count(learner.backbone)
    assert {n: tuple(t.shape) for n, t in held.items()} == {"fish.values": (1, k), "fish.indices": (k,)}
    assert (tmp_path / "saved" / "delta.safetensors").stat().st_size < 8 * k * 1.02 + 8192
    assert torch.equal(logits(tempering.load(tmp_path / "saved"), dev()), scored)
    save_tiny("bert", base, seed=1)
    with pytest.raises(ModelError, match="trained on another"):
        tempering.load(tmp_path / "saved")
    save_tiny("bert", base)


def test_a_killed_run_keeps_the_entries_it_chose(tmp_path: Path) -> None:
    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    stage = dataclasses.replace(stage_of(FISH(density=0.02, rows=4)), save_strategy="steps", save_steps=1)
    whole = run(stage, around=Surroundings(folder=tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        run(stage, around=Surroundings(folder=tmp_path / "b", listener=kill))
    again = run(stage, around=Surroundings(folder=tmp_path / "b", resume=True))
    assert differing(bits(whole), bits(again)) == []


def test_a_later_stage_trains_the_same_entries_on() -> None:
    stage = stage_of(FISH(density=0.02, rows=4))
    learner = stage.run(tiny_backbone(), tiny_task(24), SEEDS, around=NOWHERE)
    bank = stage.tuning.bank(learner.backbone)
    indices, values = bank.indices.clone(), bank.values.detach().clone()
    stage.run(learner.backbone, tiny_task(24, seed=1), Seeds.of(1), around=NOWHERE)
    assert torch.equal(bank.indices, indices) and not torch.equal(bank.values, values)


def test_stabilizers_over_pretrained_weights_are_refused_with_a_reason() -> None:
    recipe = Recipe("r", (dataclasses.replace(STAGE, tuning=FISH(), stabilizers=(tempering.Mixout(0.1),)),))
    with pytest.raises(tempering.RecipeError, match="mixout"):
        recipe.check()
