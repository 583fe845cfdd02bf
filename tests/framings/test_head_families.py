"""The default head is the family's own: what it exports makes the transformers class give the same logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from tempering.contracts import Batch, Example
from tempering.framings.head import Head, HeadModule
from tests.tiny import FAMILIES, tiny_backbone

OWN = [f for f in FAMILIES if f != "t5"]
PROBLEM = {"classification": "single_label_classification", "regression": "regression", "multilabel": "multi_label_classification"}
BatchOf = Callable[[Any, list[Example]], Batch]


def trained_like(module: HeadModule) -> HeadModule:
    """Every weight moved away from its first value, so that zero biases and unit norms cannot hide a mistake."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return module.eval()


def reference(backbone: Any, module: HeadModule) -> Any:
    """The family's ForSequenceClassification class with our body and our exported head, every weight accounted for."""
    state = module.export_state()
    assert state is not None
    config = backbone.config
    config.num_labels, config.problem_type = module.classes, PROBLEM[module.kind]
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    body = {f"{backbone.layout.head.body}.{name}": w for name, w in backbone.model.state_dict().items()}
    model.load_state_dict(body | state, strict=True)
    return model


@pytest.mark.parametrize("kind", PROBLEM)
@pytest.mark.parametrize("family", OWN)
@torch.no_grad()
def test_exported_weights_give_the_same_logits(
    family: str, kind: str, task_of: Callable[..., Any], batch_of: BatchOf, examples: list[Example]
) -> None:
    backbone = tiny_backbone(family).eval()
    module = trained_like(Head(heads=3).build(task_of(kind), backbone))
    batch = batch_of(module, examples)
    assert "attention_mask" in batch.inputs
    logits = module.scores(backbone, batch).only.logits.mean(0)
    if kind == "regression":
        logits = torch.tensor([[p.label] for p in module.decode(module.scores(backbone, batch))])
    theirs = reference(backbone, module)(**batch.inputs).logits
    assert (theirs - logits).abs().max() < 1e-5
    assert theirs.std(0).min() > 1e-3  # rows differ, so that equality says something


@torch.no_grad()
def test_mean_pooling_of_a_configuration_that_asks_for_it(task_of: Callable[..., Any], batch_of: BatchOf, examples: list[Example]) -> None:
    backbone = tiny_backbone("modernbert").eval()
    backbone.config.classifier_pooling = "mean"
    module = trained_like(Head().build(task_of(), backbone))
    assert module.pooling.how == "mean"
    batch = batch_of(module, examples)
    assert (reference(backbone, module)(**batch.inputs).logits - module.scores(backbone, batch).only.logits[0]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_text_scores_the_same_alone_and_padded(
    family: str, task_of: Callable[..., Any], batch_of: BatchOf, examples: list[Example]
) -> None:
    """The last text ends in the padding token itself: only the attention mask can tell it from padding."""
    backbone = tiny_backbone(family).eval()
    module = trained_like(Head().build(task_of(), backbone))
    rows = [*examples, Example((f"good {backbone.tokenizer.pad_token}",))]
    together = module.scores(backbone, batch_of(module, rows)).only.logits[0]
    for row, logits in zip(rows, together, strict=True):
        alone = batch_of(module, [row])
        assert "attention_mask" not in alone.inputs
        assert (module.scores(backbone, alone).only.logits[0, 0] - logits).abs().max() < 1e-5
    assert batch_of(module, rows[-1:]).inputs["input_ids"][0, -1] == backbone.tokenizer.pad_token_id


@pytest.mark.parametrize("family", OWN)
def test_dropout_rates_are_those_of_the_transformers_class(family: str, task_of: Callable[..., Any]) -> None:
    """Telling rates are put in every field that a head might read; the class must have the same ones in its head."""
    backbone = tiny_backbone(family)
    names = ("hidden_dropout_prob", "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "pooler_dropout", "cls_dropout")
    for i, name in enumerate(names):
        if hasattr(backbone.config, name):
            setattr(backbone.config, name, 0.31 + i / 100)
    module = Head().build(task_of(), backbone)
    model = transformers.AutoModelForSequenceClassification.from_config(backbone.config)
    outside = [m for name, m in model.named_modules() if not name.startswith(f"{backbone.layout.head.body}.")]  # type: ignore[union-attr]
    theirs = {m.p for m in outside if m.__class__.__name__.endswith("Dropout")} or {0.0}
    ours = {m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)}
    assert ours == theirs


def test_a_given_dropout_replaces_every_rate(task_of: Callable[..., Any]) -> None:
    module = Head(dropout=0.25).build(task_of(), tiny_backbone("roberta"))
    assert [m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize("family", OWN)
def test_first_weights_have_the_spread_of_the_family(family: str, task_of: Callable[..., Any]) -> None:
    backbone = tiny_backbone(family)
    module = Head().build(task_of(labels=tuple(range(300))), backbone)
    backbone.config.num_labels = 300
    theirs = transformers.AutoModelForSequenceClassification.from_config(backbone.config).state_dict()
    state = module.export_state()
    assert state is not None
    for name, weight in state.items():
        if weight.dim() == 2:
            assert weight.std().item() == pytest.approx(theirs[name].std().item(), rel=0.1), name
        else:
            assert torch.equal(weight, theirs[name]), name  # zero biases, unit norms


@torch.no_grad()
def test_a_family_without_a_head_of_its_own_gets_ours(task_of: Callable[..., Any], batch_of: BatchOf, examples: list[Example]) -> None:
    backbone = tiny_backbone("t5").eval()
    module = Head().build(task_of(), backbone).eval()
    batch = batch_of(module, examples)
    hidden, mask = backbone.encode(batch.inputs).last, batch.inputs["attention_mask"]
    mean = torch.stack([h[: int(m.sum())].mean(0) for h, m in zip(hidden, mask, strict=True)])
    expected = torch.nn.functional.linear(mean, module.final.weight, module.final.bias)
    assert torch.allclose(module.scores(backbone, batch).only.logits[0], expected, atol=1e-6)
    assert module.export_state() is None
