"""ProtoVerb: losses, prediction, and when prototypes are learned."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.verbalizers import proto_verb
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.multi_mask import MultiMask
from tempering.framings.verbalizers.proto_verb import ProtoVerb, contrast, ensemble, learned, share
from tempering.streams import numpy_stream
from tempering.tasks import Task
from tests.framings.verbalizers.shared import LONGER, learner_of, ready, scores_of
from tests.tiny import tiny_task


def test_g14() -> None:
    found = ensemble(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[0.9, 0.1, 0.3]]))
    assert found[0].tolist() == pytest.approx([1.06045, -0.90032, -0.16013], abs=1e-5)
    assert ensemble(torch.zeros(1, 3), torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]


def by_hand(rows: torch.Tensor, targets: list[int], prototypes: torch.Tensor) -> float:
    def s(a: torch.Tensor, b: torch.Tensor) -> float:
        return math.exp(float(F.cosine_similarity(a, b, dim=0)))

    n = range(len(rows))
    a = [-math.log(s(rows[i], prototypes[targets[i]]) / sum(s(rows[i], c) for c in prototypes)) for i in n]
    b, c = [], []
    for i in n:
        own = s(rows[i], prototypes[targets[i]])
        b.append(-math.log(own / (own + sum(s(rows[j], prototypes[targets[i]]) for j in n if targets[j] != targets[i]))))
        for k in (k for k in n if k != i and targets[k] == targets[i]):
            near = s(rows[i], rows[k])
            c.append(-math.log(near / (near + sum(s(rows[i], rows[j]) for j in n if targets[j] != targets[i]))))
    return sum(a) / len(a) + sum(b) / len(b) + (sum(c) / len(c) if c else 0.0)


@pytest.mark.parametrize("targets", [[0, 1, 2, 0, 0, 1], [0, 1, 2], [0, 0, 1]])
def test_the_loss_pair_by_pair_whatever_the_class_sizes(targets: list[int]) -> None:
    torch.manual_seed(0)
    rows, prototypes = torch.randn(len(targets), 5), torch.randn(3, 5)
    assert float(contrast(rows, torch.tensor(targets), prototypes)) == pytest.approx(by_hand(rows, targets, prototypes), rel=1e-5)


@pytest.mark.parametrize("numbers", [1, 40, 41 * 5])
def test_blocks_of_rows_make_no_difference(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    targets, prototypes = torch.randint(3, (41,)), torch.randn(3, 8)
    rows, largest = torch.randn(41, 8, dtype=torch.float64, requires_grad=True), []
    whole = contrast(rows, targets, prototypes.double())
    (gradient,) = torch.autograd.grad(whole, rows)

    def spied(mine: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        largest.append(mine.numel())
        return share(mine, rest)

    monkeypatch.setattr(proto_verb, "NUMBERS", numbers)
    monkeypatch.setattr(proto_verb, "share", spied)
    held: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
        found = contrast(rows, targets, prototypes.double())
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(torch.autograd.grad(found, rows)[0], gradient)
    assert max(largest) <= max(numbers, 41 * 3)  # a block, or the rows against the prototypes
    assert max(held) <= 41 * 8  # what is kept for the gradient grows with the rows, not with their pairs


def test_a_single_class_in_the_batch_gives_no_infinite_gradient() -> None:
    rows = torch.randn(3, 5, requires_grad=True)
    loss = contrast(rows, torch.tensor([1, 1, 1]), torch.randn(2, 5))
    loss.backward()
    assert rows.grad is not None and loss.isfinite() and rows.grad.isfinite().all()


def test_prototypes_come_to_lie_by_their_classes() -> None:
    torch.manual_seed(0)
    centers, targets = torch.randn(3, 16), torch.tensor([0] * 9 + [1] * 3 + [2] * 5)
    states = centers[targets] + 0.3 * torch.randn(17, 16)
    projection, prototypes = torch.randn(8, 16) / 4, torch.randn(3, 8)
    weight, points = learned(states, targets, projection, prototypes, ProtoVerb(d=8))
    before = (F.normalize(states @ projection.T, dim=-1) @ F.normalize(prototypes, dim=-1).T).argmax(-1)
    after = (F.normalize(states @ weight.T, dim=-1) @ F.normalize(points, dim=-1).T).argmax(-1)
    assert (after == targets).all() and not (before == targets).all()


THREE = LONGER | {"so so": ("story",)}


def three_classes() -> Task:
    rows = tiny_task(12).train.examples
    return Task.from_examples(train=[replace(e, label="so so") if i % 3 == 0 else e for i, e in enumerate(rows)])


def test_until_learned_and_while_training_it_is_the_verbalizer_inside() -> None:
    task = three_classes()
    examples = task.train.examples
    inner = scores_of(learner_of(Manual(), THREE, task=task), examples)
    learner = learner_of(ProtoVerb(d=8, predict="multi"), THREE, task=task)
    torch.testing.assert_close(scores_of(learner, examples), inner)
    learner.framing.verbalizer.prepare(learner, examples, numpy_stream(0))
    assert not learner.framing.verbalizer.learned
    learner.framing.verbalizer.finish(learner, examples, numpy_stream(0))
    multi = scores_of(learner, examples)
    assert learner.framing.verbalizer.learned and not torch.allclose(multi, inner)
    learner.framing.verbalizer.value = ProtoVerb(d=8, predict="proto")
    torch.testing.assert_close(multi, ensemble(inner, scores_of(learner, examples)), atol=1e-5, rtol=1e-5)
    learner.framing.verbalizer.train()
    hidden = torch.randn(2, 1, 32)
    module = learner.framing.verbalizer
    torch.testing.assert_close(module.scores(learner.backbone, hidden), module.inner.scores(learner.backbone, hidden))


def test_learned_before_training_or_after_it() -> None:
    examples = tiny_task(12).train.examples
    learner = learner_of(ProtoVerb(d=8, when="before"), LONGER)
    body = {n: p.clone() for n, p in learner.backbone.named_parameters()}
    learner.framing.verbalizer.prepare(learner, examples, numpy_stream(0))
    prototypes = learner.framing.verbalizer.prototypes.clone()
    learner.framing.verbalizer.finish(learner, examples, numpy_stream(0))
    assert learner.framing.verbalizer.learned and torch.equal(prototypes, learner.framing.verbalizer.prototypes)
    assert all(torch.equal(p, body[n]) for n, p in learner.backbone.named_parameters())
    assert not list(learner.framing.verbalizer.parameters())


def test_it_tells_the_training_rows_apart_where_the_words_do_not() -> None:
    learner, examples = ready(ProtoVerb(predict="proto", epochs=400), LONGER, rows=16)
    right = [("bad", "good")[i] == e.label for i, e in zip(scores_of(learner, examples).argmax(-1).tolist(), examples, strict=True)]
    assert sum(right) >= 14


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(RecipeError, match="must read one mask in one pass"):
        learner_of(ProtoVerb(MultiMask()))
    with pytest.raises(RecipeError, match="predict: multi needs three classes or more.*set predict: proto"):
        learner_of(ProtoVerb(predict="multi"))
    learner = learner_of(ProtoVerb())
    with pytest.raises(DataError, match="proto_verb needs training rows with a label among bad, good; found none in 1"):
        learner.framing.verbalizer.finish(learner, [Example(("a",))], numpy_stream(0))
    with pytest.raises(RecipeError, match="class 'good' has no training row"):
        learner.framing.verbalizer.finish(learner, [Example(("a",), "bad")], numpy_stream(0))
