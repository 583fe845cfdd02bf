"""AdapterDrop: which layers go without, where the backward pass ends, one draw a pass, and dropping when used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tempering
from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.streams import torch_stream
from tempering.tunings.adapter_drop import lowest, without_lowest
from tempering.tunings.compacter import Compacter
from tempering.tunings.fusion import Fusion
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.madx import MADX
from tempering.tunings.parallel import Parallel
from tempering.tunings.pfeiffer import Pfeiffer
from tests.laws.bench import dev, logits
from tests.tiny import save_tiny, tiny_backbone, tiny_tokenizer
from tests.tunings.adapters import counted, outline, trained
from tests.tunings.shared import disturb, inputs, loss_of, states
from tests.tunings.shared import trained as weights

EACH: dict[str, Any] = {
    "houlsby": Houlsby(m=4, drop_layers=2),
    "pfeiffer": Pfeiffer(m=4, drop_layers=2),
    "parallel": Parallel(m=4, drop_layers=2),
    "compacter": Compacter(m=4, drop_layers=2, layer_norm=False),
    "fusion": Fusion(new=2, m=4, drop_layers=2),
}
ROBUST: dict[str, Any] = {
    "houlsby": Houlsby(m=4, robust=True, layer_norm=False),
    "pfeiffer": Pfeiffer(m=4, robust=True),
    "parallel": Parallel(m=4, robust=True),
    "compacter": Compacter(m=4, robust=True, layer_norm=False),
    "fusion": Fusion(new=2, m=4, robust=True),
    "madx": MADX(m=4, language_m=4, robust=True, invertible=False),
}


def four_blocks(tuning: Any, dropout: float = 0.0) -> Backbone:
    """A disturbed body of four blocks that carries ``tuning``."""
    sizes = {"vocab_size": 192, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with torch_stream("four"):
        model = transformers.BertModel(transformers.BertConfig(**sizes, **rates, max_position_embeddings=64))
        backbone = Backbone(model, tiny_tokenizer("bert"), "four")
        tuning.attach(backbone)
    disturb(backbone)
    return backbone


def _blocks(names: Any) -> set[int]:
    return {int(name.split("encoder.layer.")[1].split(".")[0]) for name in names if "encoder.layer." in name}


def _layers(backbone: Backbone) -> tuple[torch.Tensor, ...]:
    return backbone.encode(inputs(backbone), layers=True).layers or ()


def test_counts_fall_with_the_layers() -> None:
    assert counted(Pfeiffer(drop_layers=5)) == 894_528 * 7 // 12
    assert counted(Houlsby(drop_layers=11, layer_norm=False)) == 2_379_264 // 12
    assert counted(Houlsby(drop_layers=11)) == 2_379_264 // 12 + 4 * 768
    assert Fusion(new=2, drop_layers=6).count(outline()) == (21_252_096 + 2 * 894_528) // 2
    assert counted(MADX(language="x", drop_layers=6)) == 894_528 // 2  # the task's adapters alone


@pytest.mark.parametrize("name", EACH)
def test_below_the_lowest_adapter_nothing_is_trained_and_no_gradient_flows(name: str) -> None:
    backbone = four_blocks(EACH[name])
    assert _blocks(weights(backbone)) == {2, 3}
    backbone.train()
    assert [h.requires_grad for h in _layers(backbone)] == [False, False, False, True, True]
    loss_of(backbone).backward()
    assert all(w.grad is not None for w in weights(backbone).values())


def test_houlsbys_norms_below_the_lowest_adapter_are_frozen_too() -> None:
    backbone = four_blocks(Houlsby(m=4, drop_layers=2))
    assert _blocks(weights(backbone)) == {2, 3}
    assert [h.requires_grad for h in _layers(backbone.train())][:3] == [False, False, False]


def test_tasks_share_what_lies_below_the_lowest_adapter() -> None:
    """The states at layer n are the backbone's, whatever the task; above they are not."""
    one, other = (four_blocks(t).eval() for t in (Pfeiffer(m=4, drop_layers=2), Parallel(m=8, drop_layers=2)))
    with torch.no_grad():
        mine, theirs = _layers(one), _layers(other)
    assert all(torch.equal(mine[i], theirs[i]) for i in range(3))
    assert not torch.equal(mine[3], theirs[3])


def test_the_number_is_uniform_and_a_function_of_the_passs_seed() -> None:
    def draw(*key: object) -> int:
        with torch_stream(*key):
            first = lowest(12)
            torch.rand(3)
            assert lowest(12) == first  # other draws of the pass do not move it
            return first

    seen = Counter(draw(0, step, 0, 0, 0) for step in range(2400))
    assert set(seen) == set(range(12)) and all(130 < n < 270 for n in seen.values())  # 200 expected, 5 deviations of 13.5
    assert [draw("again", i) for i in range(9)] == [draw("again", i) for i in range(9)]


@pytest.mark.parametrize("name", ROBUST)
def test_a_training_pass_goes_without_the_lowest_n_and_use_with_all(name: str) -> None:
    backbone = four_blocks(ROBUST[name])
    backbone.train()
    for step in range(6):
        backbone.zero_grad(set_to_none=True)
        with torch_stream("pass", step):
            n = lowest(4)
            loss_of(backbone).backward()
        with_gradient = {name for name, w in weights(backbone).items() if w.grad is not None and ".language." not in name}
        assert _blocks(with_gradient) == set(range(n, 4))
    full, fixed = states(backbone), four_blocks(ROBUST[name])
    assert torch.equal(full, states(fixed))


def test_recomputed_blocks_go_without_the_same_adapters() -> None:
    gradients = []
    for recompute in (False, True):
        backbone = four_blocks(Pfeiffer(m=4, robust=True))
        backbone.recompute(recompute)
        backbone.train()
        with torch_stream("one pass"):
            first = loss_of(backbone)
        with torch_stream("another"):
            loss_of(backbone)
            n = lowest(4)
        first.backward()
        gradients.append({name: w.grad for name, w in weights(backbone).items() if w.grad is not None})
    with torch_stream("one pass"):
        assert lowest(4) != n  # a draw that is remembered instead of keyed would be wrong here
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tuning", [Pfeiffer(m=4, robust=True), Parallel(m=4), Houlsby(m=4), MADX(m=4, language_m=4)])
def test_layers_dropped_when_used_stay_dropped_on_disk(tuning: Any, tmp_path: Path) -> None:
    learner = trained(tuning, save_tiny("bert", tmp_path / "base"))
    before = logits(learner, dev())
    without_lowest(learner, 1)
    after = logits(learner, dev())
    task = {n for n in learner.backbone.state_dict() if f".{tuning.method}." in n and ".language." not in n}
    assert not torch.equal(after, before) and _blocks(task) == {1} and learner.tuning.drop_layers == 1
    learner.save_pretrained(tmp_path / "model")
    assert torch.equal(logits(tempering.load(tmp_path / "model"), dev()), after)
    without_lowest(learner, 1)
    assert torch.equal(logits(learner, dev()), after)
    with pytest.raises(ModelError, match="gone already"):
        without_lowest(learner, 0)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pfeiffer: drop_layers = 2 leaves no adapter.*give at most 1"):
        Pfeiffer(m=4, drop_layers=2).attach(tiny_backbone())
    for tuning in (Parallel(m=4, robust=True), Houlsby(m=4, drop_layers=1)):
        with pytest.raises(ModelError, match=r"cannot drop layers of tiny-albert: .*albert family share one adapter"):
            tuning.attach(tiny_backbone("albert"))
    learner = trained(LoRA(r=2), save_tiny("bert", tmp_path))
    with pytest.raises(ModelError, match="LoRA has no adapters to drop; fit with houlsby"):
        without_lowest(learner, 1)
