"""What every verbalizer keeps to (specification 4.8), over the registry."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tempering.contracts import Example
from tempering.framings.verbalizers.base import Wants, class_scores, reading, vocabulary_logits
from tempering.learner import Learner
from tempering.registry import names
from tempering.streams import numpy_stream
from tempering.tasks import Task
from tests.framings.verbalizers.shared import LONGER, Blank, learner_of, ready, scores_of, words_for
from tests.laws.settings import TABLE, Row, rows
from tests.tiny import tiny_examples, tiny_task

EVERY = rows("verbalizer")


@pytest.mark.parametrize("row", EVERY)
def test_probabilities_sum_to_one(row: Row) -> None:
    learner, examples = ready(row.live, LONGER)
    scores = scores_of(learner, examples)
    assert scores.shape == (len(examples), 2) and scores.isfinite().all()
    torch.testing.assert_close(scores.softmax(-1).sum(-1), torch.ones(len(examples)))


@pytest.mark.parametrize("row", EVERY)
def test_a_row_alone_is_that_row_of_a_batch(row: Row) -> None:
    learner, examples = ready(row.live, LONGER)
    together = scores_of(learner, examples)
    alone = torch.cat([scores_of(learner, [e]) for e in examples])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row", EVERY)
def test_the_classes_stand_in_the_order_of_the_label_list(row: Row) -> None:
    turned = dict(reversed(LONGER.items()))
    assert list(turned) != list(LONGER)
    a, examples = ready(row.live, LONGER)
    b, _ = ready(row.live, turned)
    assert a.framing.verbalizer.labels == b.framing.verbalizer.labels == ("bad", "good")
    torch.testing.assert_close(scores_of(a, examples), scores_of(b, examples))


def renamed(task: Any, names: dict[str, str]) -> Any:
    """The same rows under other label names, which may sort the other way."""
    train = [Example(e.texts, names[e.label], e.row) for e in task.train]
    dev = [Example(e.texts, names[e.label], e.row) for e in task.dev]
    return Task.from_examples(train=train, dev=dev, kind="classification")


@pytest.mark.parametrize("name", [n for n in names("verbalizer") if n not in ("warp", "proto_verb")])
def test_permuting_the_classes_permutes_the_scores(name: str) -> None:
    value = TABLE["verbalizer"][name].live
    learner, examples = ready(value, LONGER)
    turned = renamed(tiny_task(12), {"bad": "z", "good": "a"})
    assert turned.labels == ("a", "z")
    other, _ = ready(value, {"z": LONGER["bad"], "a": LONGER["good"]}, task=turned)
    if name == "auto_words":  # between assignments that tie, the order of the classes decides: let both use the same
        ids = learner.framing.verbalizer.keep()["ids"]
        other.framing.verbalizer.recall({"ids": ids[::-1]})
    torch.testing.assert_close(scores_of(other, examples).flip(-1), scores_of(learner, examples), atol=1e-5, rtol=1e-5)


def test_permuting_drawn_class_vectors_and_prototypes_permutes_the_scores() -> None:
    for name in ("warp", "proto_verb"):
        learner, examples = ready(TABLE["verbalizer"][name].live, LONGER)
        before, module = scores_of(learner, examples), learner.framing.verbalizer
        for place in ("weight", "bias", "prototypes"):
            if getattr(module, place, None) is not None:
                getattr(module, place).data = getattr(module, place).data.flip(0)
        torch.testing.assert_close(scores_of(learner, examples).flip(-1), before)


def shifted_probabilities(learner: Learner, added: float) -> torch.Tensor:
    """Class probabilities after ``added`` has been put on every vocabulary logit."""
    assert learner.backbone.lm_head is not None
    prompts = [p for found in learner.framing.render(tiny_task(12).dev.examples, (), numpy_stream(0)) for p in found]
    learner.backbone.lm_head.bias.data += added
    found = learner.score(prompts).only.logits[0].softmax(-1)
    learner.backbone.lm_head.bias.data -= added
    return found


@pytest.mark.parametrize("row", EVERY)
def test_a_constant_on_all_vocabulary_logits_changes_no_probability(row: Row) -> None:
    learner, _ = ready(row.live, LONGER)
    torch.testing.assert_close(shifted_probabilities(learner, 5.0), shifted_probabilities(learner, 0.0), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("row", EVERY)
def test_what_was_kept_makes_the_same_verbalizer_again(row: Row) -> None:
    learner, examples = ready(row.live, LONGER)
    module = learner.framing.verbalizer
    with torch.no_grad():
        for weight in module.parameters():
            weight += torch.randn_like(weight)
    before = scores_of(learner, examples)
    kept, state = json.loads(json.dumps(module.keep())), {k: v.clone() for k, v in module.state_dict().items()}
    stub = Task("task", "classification", ("bad", "good"), type(tiny_task(4).train)("train", ()))
    again = row.live.build(stub, learner.backbone, words_for(row.live, LONGER))
    if kept:
        again.recall(kept)
    again.load_state_dict(state)
    learner.framing = Blank(again, stub, learner.backbone)
    torch.testing.assert_close(scores_of(learner.eval(), examples), before, atol=0, rtol=0)


@pytest.mark.parametrize("row", EVERY)
def test_what_the_optimizer_moves_is_declared(row: Row) -> None:
    learner, _ = ready(row.live, LONGER)
    assert bool(list(learner.framing.verbalizer.parameters())) is row.live.trains


@pytest.mark.parametrize("row", EVERY)
def test_the_loss_reaches_the_model_and_every_weight_of_the_verbalizer(row: Row) -> None:
    learner, examples = ready(row.live, LONGER)
    learner.backbone.requires_grad_(True)
    learner.train()
    prompts = [p for found in learner.framing.render(examples, (), numpy_stream(0)) for p in found]
    batch = learner.framing.collate(prompts, numpy_stream(0))
    loss = learner.framing.loss(learner(batch), batch)
    loss.backward()
    assert loss.isfinite()
    assert learner.backbone.embeddings.weight.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.framing.verbalizer.parameters())


def test_only_the_rows_that_are_asked_for_are_read() -> None:
    from tempering.framings.verbalizers.manual import Manual

    learner = learner_of(Manual())
    module, hidden = learner.framing.verbalizer, torch.randn(3, 1, 32)
    wants: Wants = module.wants
    assert wants == "logits" and module.ids is not None
    few, all_ = reading(module, learner.backbone, hidden), vocabulary_logits(learner.backbone, hidden)
    assert few.shape == (3, 1, 2)
    torch.testing.assert_close(few, all_[..., list(module.ids)], atol=1e-6, rtol=1e-5)


def test_cached_states_give_the_same_scores() -> None:
    from tempering.framings.verbalizers.soft import Soft

    learner = learner_of(Soft())
    prompts = [p for found in learner.framing.render(tiny_examples(4), (), numpy_stream(0)) for p in found]
    batch = learner.framing.collate(prompts, numpy_stream(0))
    with torch.no_grad():
        direct = class_scores(learner.framing.verbalizer, learner.framing, learner.backbone, batch)
        batch.inputs["features"] = learner.framing.trunk(learner.backbone, batch).flatten(1)
        cached = class_scores(learner.framing.verbalizer, learner.framing, learner.backbone, batch)
    torch.testing.assert_close(cached, direct)
