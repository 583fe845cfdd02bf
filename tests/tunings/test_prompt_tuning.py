"""Soft prompts: where they stand, what callers see, what they start from, and the room they take."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Batch
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.tunings.attach import Added
from tempering.tunings.lora import LoRA
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.prompt_tuning import PromptTuning, SoftPrompt
from tempering.tunings.together import Together
from tests.laws.bench import dev, logits, run, stage_of
from tests.tiny import FAMILIES, save_tiny, tiny_backbone, tiny_task
from tests.tunings.shared import attached, inputs, loss_of, one_step, states, trained

P4 = PromptTuning(p=4, init="random")
QUICK: dict[str, Any] = {"max_steps": 3, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-1}


def weight_of(backbone: Backbone) -> Tensor:
    found: Tensor = backbone.reader.prompt.weight
    return found.detach()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "bart"])  # whose decoder reads the text again, without the prompt
def test_the_embeddings_of_a_text_as_prompt_say_what_the_text_says(family: str) -> None:
    """States of all layers and the pooler: tokens keep the places they have behind the text, and the caller sees his own."""
    backbone, plain = attached(P4, family).eval(), tiny_backbone(family).eval()
    ids = torch.tensor([[5, 9, 17, 30, 41, 52, 63], [5, 9, 17, 30, 7, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]])
    backbone.model.prompt.weight.data.copy_(plain.embeddings(ids[0, :4]))
    with torch.no_grad():
        whole = plain.encode({"input_ids": ids, "attention_mask": mask}, layers=True)
        mine = backbone.encode({"input_ids": ids[:, 4:], "attention_mask": mask[:, 4:]}, layers=True)
        unpadded = backbone.encode({"input_ids": ids[:1, 4:]}).last
    real = mask[:, 4:].bool()
    assert mine.layers is not None and whole.layers is not None and len(mine.layers) == len(whole.layers)
    for theirs, ours in zip((*whole.layers, whole.last), (*mine.layers, mine.last), strict=True):
        torch.testing.assert_close(ours[real], theirs[:, 4:][real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unpadded, mine.last[:1], rtol=1e-4, atol=1e-5)
    assert (mine.pooled is None) == (whole.pooled is None)
    if mine.pooled is not None:
        body: Any = plain.model
        first = mine.last[:, 0] @ (dense := body.pooler if isinstance(body.pooler, nn.Linear) else body.pooler.dense).weight.T + dense.bias
        torch.testing.assert_close(mine.pooled, first.tanh())  # the text's first token, not the prompt's


@pytest.mark.parametrize("family", FAMILIES)
def test_it_trains_its_vectors_alone(family: str) -> None:
    backbone = attached(P4, family)
    where = "model.encoder.prompt.weight" if backbone.opened else "model.prompt.weight"
    assert set(trained(backbone)) == {where} and weight_of(backbone).numel() == P4.count(backbone)
    loss_of(backbone).backward()
    assert all((w.grad is not None) == w.requires_grad for w in backbone.parameters())
    assert backbone.reader.prompt.weight.grad.abs().sum(1).min() > 0  # every vector gets one
    assert backbone.depth(f"backbone.{where}") == 0


def test_token_types_of_a_pair_and_positional_arguments() -> None:
    backbone = attached(P4).eval()
    given = dict(backbone.tokenizer("good film", "bad day", return_tensors="pt"))
    assert given["token_type_ids"].any()
    with torch.no_grad():
        paired = backbone.encode(given).last
        single = backbone.encode({**given, "token_type_ids": torch.zeros_like(given["token_type_ids"])}).last
        assert not torch.allclose(paired, single)
        vectors = torch.cat([weight_of(backbone)[None], backbone.embeddings(given["input_ids"])], 1)
        types = torch.cat([torch.zeros(1, 4, dtype=torch.int64), given["token_type_ids"]], 1)
        expected = tiny_backbone().model(inputs_embeds=vectors, token_type_ids=types).last_hidden_state[:, 4:]
        torch.testing.assert_close(paired, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(backbone.model(given["input_ids"]).last_hidden_state, single)


@pytest.mark.parametrize("pool", ["auto", "first", "mean", "max", "last"])
def test_heads_pool_the_text_and_not_the_prompt(pool: Any) -> None:
    """What the head read is what it makes of the states of the text alone."""
    learner = run(stage_of(P4, framing=Head(pool=pool)))
    learner.eval()
    prompts = [found[0] for found in learner.framing.render(dev(), (), np.random.default_rng(0))][:3]
    batch = learner.framing.collate(prompts, np.random.default_rng(0))
    given = {**batch.inputs, "attention_mask": batch.inputs.get("attention_mask", torch.ones_like(batch.inputs["input_ids"]))}
    with torch.no_grad():
        read, last = learner.framing.trunk(learner.backbone, batch), learner.backbone.encode(given).last
    for row, (vector, state) in enumerate(zip(read, last, strict=True)):
        real = state[given["attention_mask"][row].bool()]
        assert len(real) == len(prompts[row].input_ids)
        body: Any = learner.backbone.model
        first = body.pooler(state[None])[0] if pool == "auto" else real[0]
        expected = {"mean": real.mean(0), "max": real.amax(0), "last": real[-1]}.get(pool, first)
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_masked_words_are_filled_at_their_own_places(family: str) -> None:
    """With the embeddings of a text as prompt, the states at the masks are those behind that text."""
    plain, backbone = tiny_backbone(family).eval(), attached(P4, family).eval()
    module = MaskedLM().build(None, backbone)
    ids = torch.tensor([[5, 9, 17, 30, 41, 52, 63, 20]])
    backbone.model.prompt.weight.data.copy_(plain.embeddings(ids[0, :4]))
    with torch.no_grad():
        read = module.trunk(backbone, Batch({"input_ids": ids[:, 4:]}, extra={"positions": torch.tensor([1, 3])}))
        torch.testing.assert_close(read, plain.encode({"input_ids": ids}).last[0, [5, 7]], rtol=1e-4, atol=1e-5)


def test_random_is_uniform_around_zero_and_of_the_stream_around_attach() -> None:
    with torch_stream(0):
        drawn = SoftPrompt(2000, "", 20).weight.detach()
    assert float(drawn.abs().max()) <= 0.5 and abs(float(drawn.mean())) < 0.01
    assert float(drawn.std()) == pytest.approx(12**-0.5, rel=0.01)
    assert torch.equal(weight_of(attached(P4, seed=1)), weight_of(attached(P4, seed=1)))
    assert not torch.equal(weight_of(attached(P4, seed=1)), weight_of(attached(P4, seed=2)))


def _tokens(backbone: Backbone) -> list[str]:
    """The token whose embedding each vector of the prompt is."""
    table = backbone.embeddings.get_parameter("weight").detach()
    rows = [int((table == vector).all(1).nonzero()[0]) for vector in weight_of(backbone)]
    return list(backbone.tokenizer.convert_ids_to_tokens(rows))


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen2"])
def test_from_the_vocabulary_come_different_words_and_nothing_special(family: str) -> None:
    backbone = attached(PromptTuning(p=20), family)
    found = _tokens(backbone)
    assert len(set(found)) == 20 and not set(found) & set(backbone.tokenizer.all_special_tokens)
    assert all(token.lstrip("\u0120").isalpha() and len(token.lstrip("\u0120")) > 1 for token in found)
    assert _tokens(attached(PromptTuning(p=20), family, seed=1)) != found


def test_from_a_text_come_its_pieces_in_order_then_words() -> None:
    assert _tokens(attached(PromptTuning(p=3, init="text", text="bad good film and day")))[:3] == ["bad", "good", "film"]
    more = _tokens(attached(PromptTuning(p=5, init="text", text="bad film")))
    assert more[:2] == ["bad", "film"] and len(more) == 5


def test_from_the_labels_come_the_means_of_their_pieces_before_the_first_step() -> None:
    tuning = PromptTuning(p=4, init="labels")
    learner = run(stage_of(tuning))  # labels bad and good; the run trains on from there
    backbone = attached(tuning)
    vocab = weight_of(backbone).clone()
    learner.backbone, learner.framing.labels = backbone, ("bad film", "good")
    tuning.prepare(learner, None)  # type: ignore[arg-type]
    table, now = backbone.embeddings.get_parameter("weight"), weight_of(backbone).clone()
    bad, film, good = backbone.tokenizer("bad film good", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(now[:2], torch.stack([(table[bad] + table[film]) / 2, table[good]]).detach())
    assert torch.equal(now[2:], vocab[2:])
    tuning.attach(backbone)  # a later stage trains it on and does not begin anew
    backbone.model.prompt.weight.data += 1
    tuning.prepare(learner, None)  # type: ignore[arg-type]
    assert torch.equal(weight_of(backbone), now + 1)


@pytest.mark.parametrize("given", [{"init": "text"}, {"text": "good", "init": "vocab"}, {"p": 0}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PromptTuning(**given)


@pytest.mark.parametrize(("family", "positions"), [("bert", 64), ("roberta", 64), ("gpt2", 64), ("t5", 0)])
def test_texts_are_cut_to_the_positions_that_are_left(family: str, positions: int) -> None:
    backbone = attached(PromptTuning(p=20), family)
    assert backbone.max_length == (positions - 20 if positions else 64)
    longest = torch.full((1, backbone.max_length), 7)
    with torch.no_grad():
        assert backbone.encode({"input_ids": longest}).last.shape[1] == backbone.max_length
    if positions:
        too_long = PromptTuning(p=62)
        for call in (too_long.count, too_long.attach):
            with pytest.raises(ModelError, match=rf"p = 62 leaves no room.*64 positions.*{family}.*at most 61"):
                call(tiny_backbone(family))


def test_counts_at_real_shapes() -> None:
    for config, p, published in (
        (transformers.BertConfig(), 20, 15_360),
        (transformers.BertConfig(hidden_size=1024, num_attention_heads=16), 20, 20_480),
    ):
        with torch.device("meta"):
            backbone = Backbone(transformers.AutoModel.from_config(config), None, "shape")
        tuning = PromptTuning(p=p)
        tuning.attach(backbone)
        assert tuning.count(backbone) == published == sum(w.numel() for w in trained(backbone).values())
    assert PromptTuning(p=4).count(tiny_backbone("albert")) == 4 * 16  # as wide as token embeddings are there


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_copies_swapped_weights_and_recomputation(family: str) -> None:
    backbone = attached(P4, family).eval()
    before, other = states(backbone), copy.deepcopy(backbone)
    other.model.prompt.weight.data += 0.5
    assert torch.equal(states(backbone), before) and not torch.equal(states(other), before)
    with torch.no_grad():
        swapped = {"prompt.weight": weight_of(other)}
        called = torch.func.functional_call(backbone.model, swapped, kwargs=inputs(backbone)).last_hidden_state
    assert torch.equal(called, states(other))
    grads = []
    for on in (False, True):
        backbone.train().recompute(on)
        backbone.zero_grad()
        with torch_stream("same"):
            loss_of(backbone).backward()
        grads.append(backbone.model.prompt.weight.grad.clone())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-4)


def test_a_body_that_ignores_it_is_refused_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    before = states(backbone)
    monkeypatch.setattr(SoftPrompt, "forward", lambda self: torch.zeros_like(self.weight))
    with pytest.raises(ModelError, match="prompt_tuning cannot serve tiny-bert.*leaves the output|prompt_tuning.*gradient"):
        P4.attach(backbone)
    monkeypatch.undo()
    assert torch.equal(states(backbone), before) and backbone.max_length == 64
    assert not [m for m in backbone.modules() if isinstance(m, Added) or m._forward_pre_hooks or m._forward_hooks]


def test_it_goes_with_prefixes_and_lora_and_is_saved_small(tmp_path: Path) -> None:
    parts = (P4, PrefixTuning(p=2, m=None), LoRA(r=2))
    one, other = attached(Together(parts)), attached(Together(parts[::-1]))
    other.load_state_dict(one.state_dict())
    assert set(trained(one)) == set(trained(other)) and torch.equal(states(one), states(other))
    one_step(one)
    source = save_tiny("bert", tmp_path / "base")
    learner = fit(Recipe("test", (Train(tuning=PromptTuning(p=4, init="labels"), **QUICK),)), tiny_task(24), str(source))
    before = logits(learner, dev())
    learner.save_pretrained(tmp_path / "out")
    assert torch.equal(logits(tempering.load(tmp_path / "out"), dev()), before)
    assert {n: tuple(t.shape) for n, t in load_file(tmp_path / "out" / "delta.safetensors").items()} == {"prompt.weight": (4, 32)}
