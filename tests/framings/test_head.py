"""Kinds, several heads, losses, decoding and the cached trunk of `Head`, on one tiny encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from tempering.contracts import Batch, Example, Prompt, Scores
from tempering.errors import DataError, RecipeError
from tempering.framings.head import Head, HeadModule
from tests.tiny import tiny_backbone, tiny_task

TaskOf = Callable[..., Any]
BatchOf = Callable[[Any, list[Example]], Batch]


def built(task: Any, head: Head | None = None, family: str = "bert") -> tuple[HeadModule, Any]:
    torch.manual_seed(0)
    backbone = tiny_backbone(family).eval()
    module = (head or Head()).build(task, backbone).eval()
    with torch.no_grad():
        module.final.weight.mul_(30)
    return module, backbone


def labelled(examples: list[Example], labels: list[Any]) -> list[Example]:
    return [Example(e.texts, label, e.row) for e, label in zip(examples, labels, strict=True)]


def test_one_head_is_plain_cross_entropy_to_the_bit(task_of: TaskOf, batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built(task_of())
    batch = batch_of(module, labelled(examples, ["good", "bad", "so so", "good"]))
    assert batch.targets is not None and batch.targets.tolist() == [1, 0, 2, 1]
    scores = module.scores(backbone, batch)
    loss = module.loss(scores, batch)
    plain = F.cross_entropy(F.linear(module.trunk(backbone, batch), module.final.weight, module.final.bias), batch.targets)
    assert torch.equal(loss, plain)
    (ours,) = torch.autograd.grad(loss, [module.final.weight])
    (theirs,) = torch.autograd.grad(plain, [module.final.weight])
    assert torch.equal(ours, theirs)


def test_several_heads_average_losses_in_training_and_logits_in_prediction(
    task_of: TaskOf, batch_of: BatchOf, examples: list[Example]
) -> None:
    module, backbone = built(task_of(), Head(heads=4))
    batch = batch_of(module, labelled(examples, ["good", "bad", "so so", "good"]))
    scores = module.scores(backbone, batch)
    slab = scores.only
    assert slab.logits.shape == (4, 4, 3) and slab.features is not None and slab.features.shape == (4, 32)
    assert module.final.weight.shape == (12, 32)
    assert not torch.equal(slab.logits[0], slab.logits[1])  # drawn independently
    each = [F.cross_entropy(logits, batch.targets) for logits in slab.logits]
    assert torch.allclose(module.loss(scores, batch), torch.stack(each).mean(), atol=1e-6)
    weight, bias = module.fold()
    assert bias is not None
    assert torch.allclose(F.linear(slab.features, weight, bias), slab.logits.mean(0), atol=1e-6)
    expected = slab.logits.mean(0).softmax(-1)[0].tolist()
    assert list(module.decode(scores)[0].probabilities.values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("labels", [(0, 1, 2), (False, True), ("é", "好", "no"), (1.5, 2.5, 3.5)])
def test_labels_come_back_as_given(labels: tuple[Any, ...], task_of: TaskOf, batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built(task_of(labels=labels))
    scores = module.scores(backbone, batch_of(module, examples))
    predictions = module.decode(scores)
    best = scores.only.logits[0].argmax(-1).tolist()
    assert [(type(p.label), p.label) for p in predictions] == [(type(labels[i]), labels[i]) for i in best]
    for p in predictions:
        assert tuple(p.probabilities) == labels and sum(p.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert p.probabilities[p.label] == max(p.probabilities.values())


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_row_weights(kind: str, task_of: TaskOf, batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built(task_of(kind), Head(heads=2))
    labels: dict[str, list[Any]] = {"classification": ["good", "bad", "bad", "so so"], "regression": [1.0, 2.0, 3.0, 4.0]}
    labels["multilabel"] = [("good",), (), ("bad", "so so"), ("bad",)]
    rows = labelled(examples, labels[kind])
    single = [module.loss(module.scores(backbone, b), b) for b in (batch_of(module, [r]) for r in rows)]
    batch = batch_of(module, rows)
    assert batch.weights is None
    assert torch.allclose(module.loss(module.scores(backbone, batch), batch), torch.stack(single).mean(), atol=1e-5)
    batch.weights = torch.tensor([1.0, 0.0, 3.0, 2.0])
    expected = (single[0] + 3 * single[2] + 2 * single[3]) / 6
    assert torch.allclose(module.loss(module.scores(backbone, batch), batch), expected, atol=1e-5)


def test_weights_of_prompts_reach_the_batch(task_of: TaskOf, rng: np.random.Generator) -> None:
    module, _ = built(task_of())
    batch = module.collate([Prompt([2, 6, 3], target=1, weight=0.5), Prompt([2, 6, 3], target=0)], rng)
    assert batch.weights is not None and batch.weights.tolist() == [0.5, 1.0]


def test_multilabel_thresholds_decide(task_of: TaskOf, batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built(task_of("multilabel"))
    batch = batch_of(module, labelled(examples, [("good",), (), ("bad", "so so"), ("bad",)]))
    assert batch.targets is not None and batch.targets.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0]]
    scores = module.scores(backbone, batch)
    chances = scores.only.logits[0].sigmoid()
    expected = F.binary_cross_entropy(chances, batch.targets)
    assert torch.allclose(module.loss(scores, batch), expected, atol=1e-5)
    near = Scores((scores.only._replace(logits=torch.tensor([[[-0.1, 0.0, 0.1], [0.3, -0.3, -9.0]]])),))
    assert [p.label for p in module.decode(near)] == [("good", "so so"), ("bad",)]
    assert module.decode(near)[0].probabilities == pytest.approx({"bad": 0.475021, "good": 0.5, "so so": 0.524979}, abs=1e-6)
    module.get_buffer("thresholds").copy_(torch.tensor([0.0, 1.1, 0.0]))
    assert [p.label for p in module.decode(scores)] == [("bad", "so so")] * 4


def test_regression_learns_standardized_values_and_answers_on_the_users_scale(
    task_of: TaskOf, batch_of: BatchOf, examples: list[Example]
) -> None:
    values = [1.0, 2.0, 6.0, 11.0]
    module, backbone = built(task_of("regression", values=tuple(values)))
    assert module.get_buffer("target_mean").item() == pytest.approx(np.mean(values))
    assert module.get_buffer("target_std").item() == pytest.approx(np.std(values))
    batch = batch_of(module, labelled(examples, values))
    slab = module.scores(backbone, batch).only
    assert batch.targets is not None and batch.targets.tolist() == values
    assert slab.logits.shape == (1, 4, 1) and slab.targets is not None
    assert slab.targets.numpy() == pytest.approx((np.array(values) - np.mean(values)) / np.std(values), abs=1e-6)
    scores = module.scores(backbone, batch)
    assert torch.allclose(module.loss(scores, batch), (slab.logits[0, :, 0] - slab.targets).square().mean())
    expected = slab.logits[0, :, 0].detach().numpy() * np.std(values) + np.mean(values)
    assert [p.label for p in module.decode(scores)] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(("values", "mean", "std"), [((), 0.0, 1.0), ((3.0, 3.0), 3.0, 1.0)])
def test_regression_without_spread(values: tuple[float, ...], mean: float, std: float, task_of: TaskOf) -> None:
    module, _ = built(task_of("regression", values=values))
    assert (module.get_buffer("target_mean").item(), module.get_buffer("target_std").item()) == (mean, std)


def test_a_head_without_bias_divides_values_by_their_root_mean_square(task_of: TaskOf) -> None:
    module, _ = built(task_of("regression", values=(3.0, 4.0)), family="llama")
    assert module.final.bias is None
    assert (module.get_buffer("target_mean").item(), module.get_buffer("target_std").item()) == (0.0, pytest.approx(12.5**0.5))


def test_cached_features_stand_for_the_trunk(task_of: TaskOf, batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built(task_of(), family="roberta")
    batch = batch_of(module, labelled(examples, ["good", "bad", "so so", "good"]))
    features = module.trunk(backbone, batch)
    cached = Batch({"features": features}, batch.targets)
    calls = backbone.model.register_forward_pre_hook(lambda *_: pytest.fail("the body ran"))
    try:
        ours = module.scores(backbone, cached).only
    finally:
        calls.remove()
    assert len(cached) == 4
    assert torch.equal(ours.logits, module.scores(backbone, batch).only.logits)


def test_the_trunk_key_tells_apart_what_changes_the_trunk(task_of: TaskOf) -> None:
    backbone = tiny_backbone("bert")
    changes: list[dict[str, Any]] = [{}, {"pool": "mean"}, {"pool": "max"}, {"layers": (1,)}, {"layers": (1, 2)}, {"max_length": 12}]
    changes += [{"truncation": "tail"}, {"layers": (1, 2), "combine": "mean"}]
    keys = [Head(**change).build(task_of(), backbone).trunk_key() for change in changes]
    assert len(set(keys)) == len(keys)
    same = Head(heads=5, dropout=0.5, layers=(2,), max_length=500).build(task_of(), backbone).trunk_key()
    assert same == keys[0]


def test_state_round_trip_without_training_data(task_of: TaskOf, batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built(task_of("regression"), family="roberta")
    again = Head().build(task_of("regression", values=()), backbone).eval()
    again.load_state_dict(module.state_dict())
    batch = batch_of(module, examples)
    assert again.decode(again.scores(backbone, batch)) == module.decode(module.scores(backbone, batch))
    names = {"dense.weight", "dense.bias", "final.weight", "final.bias", "target_mean", "target_std"}
    assert set(module.state_dict()) == names


def test_a_real_task_and_pairs(batch_of: BatchOf) -> None:
    task = tiny_task(8)
    module, backbone = built(task)
    batch = batch_of(module, list(task.train))
    assert batch.targets is not None and set(batch.targets.tolist()) == {0, 1}
    pairs = batch_of(module, [Example(("good film", "bad")), Example(("a day",))])
    ids, types = pairs.inputs["input_ids"], pairs.inputs["token_type_ids"]
    assert types[0].tolist() == [0, 0, 0, 0, 1, 1] and types[1].sum() == 0 and ids.shape == (2, 6)
    swapped = batch_of(module, [Example(("bad", "good film"))])
    assert not torch.allclose(module.scores(backbone, pairs).only.logits[0, 0], module.scores(backbone, swapped).only.logits[0, 0])


def test_refusals(task_of: TaskOf, batch_of: BatchOf, examples: list[Example]) -> None:
    module, backbone = built(task_of())
    batch = batch_of(module, labelled(examples, ["good", None, "bad", "bad"]))
    assert batch.targets is None
    with pytest.raises(DataError, match="needs a label in every row"):
        module.loss(module.scores(backbone, batch), batch)
    with pytest.raises(RecipeError, match="cannot serve a task of kind 'text'"):
        Head().build(task_of("text"), backbone)
    with pytest.raises(ValidationError, match="heads"):
        Head(heads=0)
    with pytest.raises(ValidationError, match="dropout"):
        Head(dropout=1.0)
    assert Head(2, (-1, -2)) == Head(heads=2, layers=(-1, -2)) and len({Head(), Head(1), Head(2)}) == 2
