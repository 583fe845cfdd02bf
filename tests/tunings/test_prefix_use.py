"""Prefixes at work: recomputation, swapped weights, caches, a start from a text, the self-test, other tunings, saving."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

import tempering
from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.saving import loads_with
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.tunings import attention_route
from tempering.tunings.attach import Added
from tempering.tunings.deep_prefix import Prefix, remove
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.together import Together
from tests.laws.bench import dev, logits
from tests.tiny import FAMILIES, save_tiny, tiny_backbone, tiny_task
from tests.tunings.shared import attached, inputs, loss_of, one_step, states, trained

SERVED = [family for family in FAMILIES if family not in ("mpnet", "deberta-v2")]
FLAT, MLP = PrefixTuning(p=3, m=None), PrefixTuning(p=3, m=8)


def prefixes(backbone: Backbone) -> list[Any]:
    return [module for module in backbone.modules() if isinstance(module, Prefix)]


@pytest.mark.parametrize("family", SERVED)
@pytest.mark.parametrize("tuning", [FLAT, MLP], ids=["flat", "mlp"])
def test_gradient_checkpointing_gives_the_same_gradients(family: str, tuning: PrefixTuning) -> None:
    backbone = attached(tuning, family)
    if not backbone.model.supports_gradient_checkpointing:
        pytest.skip("this family cannot recompute")
    found: list[dict[str, Tensor]] = []
    for on in (False, True):
        other = copy.deepcopy(backbone).train()
        for module in other.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        other.recompute(on)
        with torch_stream("dropout"):  # what is left draws the same masks
            loss_of(other).backward()
        found.append({name: weight.grad for name, weight in trained(other).items() if weight.grad is not None})
    assert len(found[1]) == len(trained(backbone))
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tuning", [FLAT, MLP], ids=["flat", "mlp"])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_swapped_weights_and_copies_reach_it(family: str, tuning: PrefixTuning) -> None:
    backbone = attached(tuning, family)
    before, other = states(backbone), copy.deepcopy(backbone)
    with torch_stream("other"):
        swapped = {name: w.detach() + torch.randn_like(w) for name, w in trained(backbone).items()}
    other.load_state_dict(backbone.state_dict() | swapped)
    assert not torch.equal(states(other), before) and torch.equal(states(backbone), before)
    with torch.no_grad():
        body = {name.removeprefix("model."): w for name, w in swapped.items()}
        called = torch.func.functional_call(backbone.model, body, kwargs=inputs(backbone)).last_hidden_state
    assert torch.equal(called, states(other)) and torch.equal(states(backbone), before)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_token_at_a_time_with_a_cache_is_the_whole_text_at_once(family: str) -> None:
    backbone = attached(FLAT, family).eval()
    ids = inputs(backbone)["input_ids"][:1]
    with torch.no_grad():
        whole = backbone.model(ids, use_cache=False).last_hidden_state
        first = backbone.model(ids[:, :3], use_cache=True)
        parts, cache = [first.last_hidden_state], first.past_key_values
        for i in range(3, ids.shape[1]):
            parts.append(backbone.model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).last_hidden_state)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
    assert cache.get_seq_length() == ids.shape[1]  # the prefix is in no cache


def test_dropout_on_the_prefix_acts_while_training_only_and_row_by_row() -> None:
    backbone = attached(PrefixTuning(p=40, m=None, prefix_dropout=0.5))
    prefix = prefixes(backbone)[0]
    with torch_stream("drop"):
        front = prefix.train().front(2)
    assert 0.4 < float((front.keys == 0).float().mean()) < 0.6 and not torch.equal(front.keys[0], front.keys[1])
    assert torch.equal(prefix.eval().front(2).keys, prefix.weight[0, :1])  # one for all rows


@pytest.mark.parametrize("family", ["bert", "albert", "llama", "t5"])
def test_a_text_starts_it_with_its_own_keys_and_values(family: str) -> None:
    """Those that the body computes where it reads "good film" over and over."""
    tuning = PrefixTuning(p=5, m=None, init="text", text="good film")
    backbone = attached(tuning, family)
    ids = backbone.tokenizer("good film", add_special_tokens=False)["input_ids"]
    plain = tiny_backbone(family)
    attention_route.route(plain, "prefix_tuning")
    rows = torch.tensor([(ids * 5)[:5]])
    with attention_route.recording(attention_route.attention_layers(plain, "prefix_tuning")) as seen, torch.no_grad():
        plain.eval().encode({"input_ids": rows})
    held = [pair for prefix in prefixes(backbone) for pair in prefix.weight]
    assert len(held) == len(seen) == 2 and not any(prefix.hidden for prefix in prefixes(backbone))
    for pair, (key, value) in zip(held, seen, strict=True):
        torch.testing.assert_close(pair, torch.stack([key[0], value[0]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("given", [{"init": "text"}, {"text": "good"}, {"init": "text", "text": "good"}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="belong together|set m: null"):
        PrefixTuning(**given)


def test_the_self_test_disturbs_nothing() -> None:
    backbone = tiny_backbone()
    modes = {name: i % 2 == 0 for i, (name, _) in enumerate(backbone.named_modules())}
    for name, module in backbone.named_modules():
        module.training = modes[name]
    weight = backbone.embeddings.get_parameter("weight")
    weight.grad = torch.ones_like(weight)
    torch.manual_seed(3)
    FLAT.attach(backbone)
    after = torch.rand(1)
    torch.manual_seed(3)
    for _ in range(2):
        torch.randn(1, 2, 2, 3, 16)  # the draws of two layers, and no more
    assert torch.equal(torch.rand(1), after)
    assert {name: m.training for name, m in backbone.named_modules() if name in modes} == modes
    assert torch.equal(weight.grad, torch.ones_like(weight)) and all(w.grad is None for w in trained(backbone).values())


@pytest.mark.parametrize("fault", ["dropped", "detached", "leaks"])
def test_a_model_that_it_does_not_reach_is_refused_and_left_as_it_was(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def front(self: Prefix, rows: int) -> attention_route.Front:
        keys, values = (x.expand(rows, -1, -1, -1) for x in self()[0])
        if fault == "dropped":
            keys, values = keys[:, :, :0], values[:, :, :0]
        if fault == "detached":
            keys, values = keys.detach(), values.detach()
        unseen = torch.zeros(rows, keys.shape[2], dtype=torch.bool) if self.hidden and fault != "leaks" else None
        return attention_route.Front(keys, values, unseen)

    monkeypatch.setattr(Prefix, "front", front)
    backbone = tiny_backbone()
    own, before = backbone.config._attn_implementation, states(backbone)
    why = {"dropped": "leaves the output as it is", "detached": "no gradient comes back", "leaks": "out of sight it still"}[fault]
    with pytest.raises(ModelError, match=f"prefix_tuning cannot serve tiny-bert.*{why}.*use lora"):
        FLAT.attach(backbone)
    assert torch.equal(states(backbone), before) and backbone.config._attn_implementation == own
    assert not [m for m in backbone.modules() if isinstance(m, Added) or m._forward_pre_hooks]


def test_it_goes_with_lora_and_adapters_in_either_order_and_comes_off_alone() -> None:
    parts = (LoRA(r=2), FLAT, Houlsby(m=4, layer_norm=False))
    one, other = attached(Together(parts)), attached(Together(parts[::-1]))
    assert set(trained(one)) == set(trained(other))
    other.load_state_dict(one.state_dict())
    assert torch.equal(states(one), states(other))
    one_step(one)
    assert all(w.grad is not None and w.grad.any() for n, w in trained(one).items() if not n.endswith("lora.A"))
    remove(one)
    plain = attached(Together(parts[::2]))
    plain.load_state_dict(one.state_dict())
    torch.testing.assert_close(states(one), states(plain))


@pytest.mark.parametrize("tuning", [MLP, Together((LoRA(r=2), MLP)), PrefixTuning(p=3, m=None, prefix_dropout=0.1)])
def test_what_is_saved_is_flat_and_comes_back(tuning: Any, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"max_steps": 3, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2}
    source = save_tiny("bert", tmp_path / "base")
    learner = fit(Recipe("test", (Train(tuning=tuning, **quick),)), tiny_task(24), str(source))
    before = logits(learner, dev())
    learner.save_pretrained(tmp_path / "out")
    assert torch.equal(logits(tempering.load(tmp_path / "out"), dev()), before) and torch.equal(logits(learner, dev()), before)
    stored = load_file(tmp_path / "out" / "delta.safetensors")
    mine = {name: tuple(t.shape) for name, t in stored.items() if "prefix" in name}
    assert mine == {f"encoder.layer.{i}.attention.self.prefix.weight": (1, 2, 2, 3, 16) for i in range(2)}
    assert loads_with(learner) == ["tempering"]


def test_another_length_than_that_of_an_earlier_stage_is_refused() -> None:
    with pytest.raises(ModelError, match="already carries a prefix"):
        PrefixTuning(p=4, m=None).attach(attached(FLAT))
