"""`CausalLM`: equality with transformers in every decoder, chunks that change nothing, ends of texts, perplexity, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example, Prompt, Seeds
from tempering.errors import ModelError, RecipeError
from tempering.framings import causal_lm
from tempering.framings.causal_lm import CausalLM, log_likelihoods
from tempering.framings.output_head import OutputHead, ensure_output_head
from tempering.pretrained import quiet
from tempering.recipe import Recipe
from tempering.saving import load, loads_with
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.neftune import NEFTune
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.self_distillation import SelfDistillation
from tempering.stages.train import Train
from tempering.tunings.lora import LoRA
from tests.tiny import tiny_backbone, tiny_model, tiny_task, tiny_tokenizer

BatchOf = Callable[[Any, list[Example]], Batch]
DECODERS = ("gpt2", "llama", "qwen2")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_the_loss_is_that_of_the_transformers_class(
    family: str, packed: bool, tmp_path: Path, batch_of: BatchOf, examples: list[Example]
) -> None:
    from transformers import AutoModelForCausalLM

    tiny_model(family, loader="AutoModelForCausalLM").save_pretrained(tmp_path)
    tiny_tokenizer(family).save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path)).eval()
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(ensure_output_head(backbone), OutputHead) and not ensure_output_head(backbone).fresh
    module = CausalLM(packed=packed).build(None, backbone)
    batch = batch_of(module, examples)
    mine = module.loss(module.scores(backbone, batch), batch)
    rows = [prompts[0].input_ids for prompts in module.render(examples, (), np.random.default_rng(0))]
    losses = [(theirs(input_ids=torch.tensor([row]), labels=torch.tensor([row])).loss, len(row) - 1) for row in rows if len(row) > 1]
    expected = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    assert float(mine) == pytest.approx(float(expected), abs=1e-5)
    eos = backbone.tokenizer.eos_token_id
    assert all(row[-1] == eos for row in rows) and batch.targets is not None and (batch.targets == eos).sum() == len(rows)


@pytest.mark.parametrize("bias", [False, True])
def test_chunks_change_neither_values_nor_gradients(bias: bool) -> None:
    torch.manual_seed(0)
    features, matrix = torch.randn(23, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    offset = torch.randn(50, requires_grad=True) if bias else None
    targets = torch.randint(50, (23,))
    leaves = [features, matrix, *([offset] if offset is not None else [])]
    found = []
    for held in (10_000, 250, 1):  # at once, five tokens at a time, one at a time
        told = log_likelihoods(features, matrix, offset, targets, held)
        found.append((told.detach(), torch.autograd.grad((told * torch.tensor([1.0, 0.3])).sum(), leaves)))
    logits = features @ matrix.T + (0 if offset is None else offset)
    expected = logits.log_softmax(-1)
    assert torch.allclose(found[0][0][:, 0], expected[torch.arange(23), targets], atol=1e-6)
    assert torch.allclose(found[0][0][:, 1], expected.mean(-1), atol=1e-5)
    for told, grads in found[1:]:
        assert torch.allclose(told, found[0][0], atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(grads, found[0][1], strict=True))


def test_chunks_under_other_weights_have_the_gradients_of_those_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixout swaps weights for the length of a pass; what is computed again afterwards must still read the swapped ones."""
    stage = Train(
        framing=CausalLM(), text="unlabeled", stabilizers=(Mixout(0.5), NEFTune(1.0)), max_steps=3, learning_rate=1e-2, warmup_steps=0
    )
    whole = stage.run(tiny_backbone("gpt2"), tiny_task(24), Seeds.of(0))
    monkeypatch.setattr(causal_lm, "HELD", 192 * 3)
    monkeypatch.setattr(log_likelihoods, "__defaults__", (192 * 3,))
    cut = stage.run(tiny_backbone("gpt2"), tiny_task(24), Seeds.of(0))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(whole.state_dict().values(), cut.state_dict().values(), strict=True))


@torch.no_grad()
def test_smoothing_spreads_over_the_vocabulary(batch_of: BatchOf, examples: list[Example]) -> None:
    backbone = tiny_backbone("gpt2")
    module = CausalLM().build(None, backbone)
    batch = batch_of(module, examples)
    states = backbone.encode(batch.inputs).last.flatten(0, 1)[batch.extra["positions"]]
    logits = states @ backbone.embeddings.weight.T  # type: ignore[union-attr, operator]
    scores = module.scores(backbone, batch)
    for share, mode in ((0.0, True), (0.2, True), (0.2, False)):
        module.smoothing = share
        module.train(mode)
        expected = torch.nn.functional.cross_entropy(logits, batch.targets, label_smoothing=share if mode else 0.0)  # type: ignore[arg-type]
        assert float(module.loss(scores, batch)) == pytest.approx(float(expected), abs=1e-5)


def test_predictions_are_perplexities(examples: list[Example], tmp_path: Path) -> None:
    learner = Train(framing=CausalLM(max_length=16, packed=True), text="unlabeled", max_steps=2).run(
        tiny_backbone("llama"), tiny_task(24), Seeds.of(0)
    )
    found = learner.predictions(examples)
    for example, prediction in zip(examples, found, strict=True):
        (prompt,) = learner.framing.render([example], (), np.random.default_rng(0))[0]
        batch = learner.framing.collate([prompt], np.random.default_rng(0))
        loss = learner.framing.loss(learner(batch), batch).detach()
        assert prediction.label == pytest.approx(math.exp(float(loss)), rel=1e-4)
    learner.save_pretrained(tmp_path)
    assert loads_with(learner) == ["transformers", "tempering"]
    assert [p.label for p in load(tmp_path).predictions(examples)] == pytest.approx([p.label for p in found])


def test_texts_of_one_token() -> None:
    backbone = tiny_backbone("gpt2")
    module = CausalLM(packed=True).build(None, backbone)
    batch = module.collate([Prompt([7], extra=(1,)), Prompt([7, 8, 9, 10], extra=(1, 3))], np.random.default_rng(0))
    assert batch.targets is not None and batch.targets.tolist() == [9, 10] and batch.extra["counts"].tolist() == [0, 2]
    lone = module.collate([Prompt([7])], np.random.default_rng(0))
    assert torch.isfinite(module.loss(module.scores(backbone, lone), lone))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_model_that_sees_what_follows_is_refused(family: str) -> None:
    with pytest.raises(ModelError, match=rf"causal_lm cannot serve tiny-{family} \({family}\).*take framing masked_lm"):
        CausalLM().build(None, tiny_backbone(family))


@pytest.mark.parametrize("steady", [RDrop(1.0), SelfDistillation(1.0)])
def test_methods_that_compare_whole_distributions_are_refused(steady: Any) -> None:
    stage = Train(framing=CausalLM(), text="unlabeled", stabilizers=(steady,))
    with pytest.raises(RecipeError, match="compares the distributions over all classes"):
        Recipe("r", (stage,)).check()
    Recipe("r", (Train(framing=CausalLM(), text="unlabeled", stabilizers=(Mixout(0.1),)),)).check()


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(RecipeError, match=r"causal_lm has no weights of its own here, and tuning frozen trains none of tiny-gpt2"):
        Train(framing=CausalLM(), tuning="frozen", text="unlabeled").run(tiny_backbone("gpt2"), tiny_task(24), Seeds.of(0))
    Train(framing=CausalLM(), tuning=LoRA(r=2), text="unlabeled", max_steps=1).run(tiny_backbone("gpt2"), tiny_task(24), Seeds.of(0))
