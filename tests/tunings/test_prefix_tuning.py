"""Prefixes: against transformers' own cache, the MLP and its end, and counts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache

from tempering.backbone import Backbone
from tempering.streams import torch_stream
from tempering.tunings.deep_prefix import Prefix
from tempering.tunings.prefix_tuning import PrefixTuning
from tests.tiny import FAMILIES, tiny_backbone
from tests.tunings.shared import attached, inputs, loss_of, states, trained

SERVED = [family for family in FAMILIES if family not in ("mpnet", "deberta-v2")]
FLAT, MLP = PrefixTuning(p=3, m=None), PrefixTuning(p=3, m=8)


def prefixes(backbone: Backbone) -> list[Any]:
    return [module for module in backbone.modules() if isinstance(module, Prefix)]


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "qwen2"])
def test_it_is_what_a_cache_of_these_keys_gives_where_tokens_keep_their_positions(family: str) -> None:
    backbone = tiny_backbone(family).eval()
    given, start = inputs(backbone), {"roberta": 2}.get(family, 0)
    with torch_stream(0):
        FLAT.attach(other := copy.deepcopy(backbone))
    cache = DynamicCache(config=backbone.config)
    for i, prefix in enumerate(prefixes(other)):
        cache.update(*(x.expand(2, -1, -1, -1) for x in prefix.weight.detach()[0]), i)
    places = torch.arange(given["input_ids"].shape[1]).expand_as(given["input_ids"]) + start
    mask = torch.cat([torch.ones(2, 3, dtype=torch.int64), given["attention_mask"]], 1)
    with torch.no_grad():
        real = given["attention_mask"].bool()
        expected = backbone.model(**given | {"attention_mask": mask}, past_key_values=cache, position_ids=places).last_hidden_state
    torch.testing.assert_close(states(other)[real], expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", SERVED)
@pytest.mark.parametrize("tuning", [FLAT, MLP], ids=["flat", "mlp"])
def test_every_weight_gets_a_gradient_and_no_other(family: str, tuning: PrefixTuning) -> None:
    backbone = attached(tuning, family)
    assert sum(w.numel() for w in trained(backbone).values()) == tuning.count(backbone)
    loss_of(backbone).backward()
    for name, weight in backbone.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad == (".prefix." in f".{name}"), name
        assert weight.grad is None or weight.grad.any(), name


@pytest.mark.parametrize("family", SERVED)
def test_each_layer_has_its_own_prefix_and_each_text_its_own_answer(family: str) -> None:
    """Also where blocks share one layer; a mask of ones is no mask; padding and neighbors change nothing."""
    backbone = attached(FLAT, family).eval()
    sites = 3 if backbone.opened else 1  # encoder, decoder, and between them
    assert sum(prefix.shape.calls for prefix in prefixes(backbone)) == sites * backbone.config.num_hidden_layers
    given, together = inputs(backbone), states(backbone)
    with torch.no_grad():
        for row in range(2):
            real = given["attention_mask"][row].bool()
            alone = {name: x[row : row + 1, real] for name, x in given.items() if name != "attention_mask"}
            torch.testing.assert_close(backbone.encode(alone).last[0], together[row, real], rtol=1e-4, atol=1e-5)
    for prefix in prefixes(backbone):
        for call in range(prefix.shape.calls):
            changed = copy.deepcopy(prefix.weight.data)
            prefix.weight.data[call] += 1
            assert not torch.equal(states(backbone), together)
            prefix.weight.data.copy_(changed)
    assert torch.equal(states(backbone), together)


def test_a_prefix_of_zeros_is_not_the_backbone_and_one_out_of_sight_is() -> None:
    backbone, plain = attached(FLAT), states(tiny_backbone())
    for prefix in prefixes(backbone):
        prefix.weight.data.zero_()
    assert float((states(backbone) - plain).abs().max()) > 0.01  # zero keys still take a share of the softmax
    for prefix in prefixes(backbone):
        prefix.hidden = True
    torch.testing.assert_close(states(backbone), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "albert", "qwen2"])
def test_the_mlp_makes_keys_and_values_by_its_formula(family: str) -> None:
    """tanh(E W' + b) U' + c, where U holds two key heads' widths for each call."""
    backbone = attached(MLP, family)
    trunk, prefix = backbone.model.prefix, prefixes(backbone)[-1]
    flat = torch.tanh(trunk.E @ trunk.down.weight.T + trunk.down.bias) @ prefix.up.weight.T + prefix.up.bias
    calls, heads, p, wide = prefix.shape
    assert (calls, heads, p, wide) == ({"albert": 2}.get(family, 1), {"qwen2": 1}.get(family, 2), 3, 16)
    torch.testing.assert_close(prefix(), torch.stack(flat.split(wide, -1)).view(calls, 2, heads, p, wide))


@pytest.mark.parametrize("family", SERVED)
def test_dropping_the_mlp_keeps_every_score(family: str) -> None:
    backbone = attached(MLP, family)
    before = states(backbone)
    MLP.eject(backbone)
    assert torch.equal(states(backbone), before)
    assert MLP.count(backbone) == FLAT.count(tiny_backbone(family)) == sum(w.numel() for w in trained(backbone).values())
    assert {name.rpartition(".")[2] for name in trained(backbone)} == {"weight"}
    MLP.eject(backbone)  # once is enough
    MLP.attach(backbone)  # a later stage trains the flat one on
    assert torch.equal(states(backbone), before) and MLP.count(backbone) == len(trained(backbone)) * trained(backbone).popitem()[1].numel()


def shaped(config: Any) -> Backbone:
    with torch.device("meta"):
        return Backbone(transformers.AutoModel.from_config(config), None, "shape")


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
GROUPED = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 64}
PUBLISHED = [
    (transformers.BertConfig(), PrefixTuning(p=30, m=None), 552_960),
    (transformers.BertConfig(), PrefixTuning(p=30), 9_872_384),
    (transformers.BertConfig(), PrefixTuning(p=30, m=768), 14_787_840),
    (transformers.BertConfig(**LARGE), PrefixTuning(p=30, m=None), 1_474_560),
    (transformers.BertConfig(**LARGE), PrefixTuning(p=10, m=None), 491_520),
    (transformers.BertConfig(**LARGE), PrefixTuning(p=10, m=512), 25_750_016),
    (transformers.LlamaConfig(**GROUPED), PrefixTuning(p=5, m=None), 2 * 4 * 5 * 2 * 64),
    (transformers.AlbertConfig(hidden_size=768, num_attention_heads=12), PrefixTuning(p=30, m=None), 552_960),
]


@pytest.mark.parametrize(("config", "tuning", "published"), PUBLISHED)
def test_count_is_the_published_figure(config: Any, tuning: PrefixTuning, published: int) -> None:
    backbone = shaped(config)
    assert tuning.count(backbone) == published
    tuning.attach(backbone)
    assert sum(w.numel() for w in trained(backbone).values()) == published and all(w.is_meta for w in backbone.parameters())
