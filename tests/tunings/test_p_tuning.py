"""P-tuning: the network that makes the prompt, its counts, and that nothing is left of it once the model is saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import tempering
from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.tunings.p_tuning import PromptEncoder, PTuning
from tempering.tunings.prompt_tuning import PromptTuning
from tests.laws.bench import dev, logits
from tests.tiny import FAMILIES, save_tiny, tiny_backbone, tiny_task
from tests.tunings.shared import attached, inputs, loss_of, states, trained

BOTH = [PTuning(p=4), PTuning(p=4, encoder="mlp")]


def _lstm(x: Tensor, cell: nn.LSTM, layer: int, backwards: bool) -> Tensor:
    """One direction of one layer, gate by gate: input, forget, cell, output."""
    end = f"_l{layer}" + ("_reverse" if backwards else "")
    w, u, b, c = (getattr(cell, f"{name}{end}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = memory = torch.zeros(cell.hidden_size)
    out = []
    for row in x.flip(0) if backwards else x:
        i, f, g, o = (w @ row + b + u @ h + c).chunk(4)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        h = o.sigmoid() * memory.tanh()
        out.append(h)
    return torch.stack(out[::-1] if backwards else out)


@pytest.mark.parametrize("lstm", [True, False])
def test_the_formula(lstm: bool) -> None:
    """W_2 relu(W_1 h + b_1) + b_2 with h from two layers of a BiLSTM over E, or E itself."""
    with torch_stream(0):
        encoder = PromptEncoder(5, lstm, "", 6)
    h = encoder.E
    for layer in range(2 if lstm else 0):
        assert encoder.lstm is not None and encoder.lstm.hidden_size == 3
        h = torch.cat([_lstm(h, encoder.lstm, layer, backwards) for backwards in (False, True)], -1)
    inner = torch.relu(h @ encoder.inner.weight.T + encoder.inner.bias)
    torch.testing.assert_close(encoder(), inner @ encoder.outer.weight.T + encoder.outer.bias)


def test_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        backbone = Backbone(
            transformers.AutoModel.from_config(transformers.BertConfig(hidden_size=1024, num_attention_heads=16)), None, "shape"
        )
    assert PTuning(p=9, encoder="mlp").count(backbone) == 14_707_712 - 12_599_296
    PTuning(p=9).attach(backbone)
    assert PTuning(p=9).count(backbone) == 14_707_712 == sum(w.numel() for w in trained(backbone).values())
    assert sum(w.numel() for w in backbone.model.prompt.lstm.parameters()) == 12_599_296
    assert all(w.is_meta for w in backbone.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tuning", BOTH, ids=["lstm", "mlp"])
def test_it_trains_the_network_alone_and_dropping_that_keeps_every_score(family: str, tuning: PTuning) -> None:
    backbone = attached(tuning, family)
    assert sum(w.numel() for w in trained(backbone).values()) == tuning.count(backbone)
    loss_of(backbone).backward()
    for name, weight in backbone.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad == (".prompt." in name), name
    before = states(backbone)
    tuning.eject(backbone)
    assert torch.equal(states(backbone), before) and [n.rpartition(".prompt.")[2] for n in trained(backbone)] == ["weight"]
    assert tuning.count(backbone) == PromptTuning(p=4).count(tiny_backbone(family)) == backbone.reader.prompt.weight.numel()
    tuning.eject(backbone)  # once is enough
    tuning.attach(backbone)  # a later stage trains the vectors on
    assert torch.equal(states(backbone), before)


@pytest.mark.parametrize("tuning", BOTH, ids=["lstm", "mlp"])
def test_swapped_weights_and_copies_reach_the_network(tuning: PTuning) -> None:
    """``nn.LSTM`` keeps a list of its weights that a swap does not enter: it must not be read."""
    backbone = attached(tuning)
    before, other = states(backbone), copy.deepcopy(backbone)
    for name in [n for n in trained(backbone) if "lstm" in n] or list(trained(backbone)):
        swapped = {name: trained(backbone)[name].detach() + 1.0}
        other.load_state_dict(backbone.state_dict() | swapped)
        with torch.no_grad():
            given = {name.removeprefix("model."): swapped[name]}
            called = torch.func.functional_call(backbone.model, given, kwargs=inputs(backbone)).last_hidden_state
        assert torch.equal(called, states(other)) and not torch.equal(called, before), name
    assert torch.equal(states(backbone), before)


@pytest.mark.parametrize("tuning", BOTH, ids=["lstm", "mlp"])
def test_the_saved_folder_holds_the_vectors_alone(tuning: PTuning, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"max_steps": 3, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2}
    source = save_tiny("bert", tmp_path / "base")
    learner = fit(Recipe("test", (Train(tuning=tuning, **quick),)), tiny_task(24), str(source))
    before = logits(learner, dev())
    learner.save_pretrained(tmp_path / "out")
    back = tempering.load(tmp_path / "out")
    assert torch.equal(logits(back, dev()), before) and back.backbone.max_length == 60
    assert {n: tuple(t.shape) for n, t in load_file(tmp_path / "out" / "delta.safetensors").items()} == {"prompt.weight": (4, 32)}


def test_one_prompt_at_a_time() -> None:
    with pytest.raises(ModelError, match="already carries a prompt"):
        PromptTuning(p=4).attach(attached(PTuning(p=4)))
    with pytest.raises(ModelError, match="p_tuning: p = 63 leaves no room"):
        PTuning(p=63).count(tiny_backbone())
