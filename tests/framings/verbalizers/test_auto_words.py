"""Label words chosen by the model: on the tiny model, through the framing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.verbalizers.auto_words import AutoWords, frequent_words
from tempering.framings.verbalizers.base import token_logits, unlabeled
from tempering.framings.verbalizers.calibrated import Calibrated
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.word_search import accuracy_of, likeliest
from tempering.framings.verbalizers.words import WordCoder
from tempering.streams import numpy_stream
from tests.framings.verbalizers.shared import Blank, learner_of, ready, scores_of
from tests.tiny import tiny_backbone, tiny_task

ROWS = 16


@pytest.mark.parametrize("value", [AutoWords(k=6), AutoWords("petal", k=30, words=3), AutoWords("autoprompt", k=2)])
def test_the_chosen_words_are_read_as_by_hand(value: AutoWords) -> None:
    learner, examples = ready(value, rows=ROWS)
    module = learner.framing.verbalizer
    words = {label: tuple(found) for label, found in module.words.items()}
    assert all(words.values()) and not set(words["bad"]) & set(words["good"])
    by_hand = learner_of(Manual(), words, rows=ROWS)
    torch.testing.assert_close(scores_of(learner, examples), scores_of(by_hand, examples), atol=1e-5, rtol=1e-5)


def test_lm_bff_takes_the_best_and_a_study_may_take_another() -> None:
    learner, examples = ready(AutoWords(k=6, n=10), rows=ROWS)
    module = learner.framing.verbalizer
    right = [("bad", "good")[i] == e.label for i, e in zip(scores_of(learner, examples).argmax(-1).tolist(), examples, strict=True)]
    assert sum(right) / ROWS == pytest.approx(module.found[0].score)
    logits = token_logits(learner, unlabeled(examples), numpy_stream(0))
    targets = torch.tensor([int(e.label == "good") for e in examples])
    lists = likeliest(logits, targets, 2, WordCoder.of(learner.backbone).initial, 6)
    best = max(float(accuracy_of(logits, targets)(torch.tensor([[a, b]]))) for a in lists[0] for b in lists[1])
    assert module.found[0].score == pytest.approx(best)
    assert len(module.found) == 10
    third, _ = ready(AutoWords(k=6, n=10, rank=2), rows=ROWS)
    assert third.framing.verbalizer.ids == module.found[2].ids
    assert third.framing.verbalizer.keep()["best"][2]["words"] == [w[0] for w in third.framing.verbalizer.words.values()]


def test_neighbors_narrow_the_candidates_to_the_given_words() -> None:
    learner, _ = ready(AutoWords(k=60, neighbors=3), rows=ROWS)
    table = learner.backbone.embeddings.weight.detach()
    vocab = learner.backbone.tokenizer.vocab
    for at, given in enumerate(("awful", "great")):
        near = torch.nn.functional.cosine_similarity(table, table[vocab[given]].unsqueeze(0))
        ranks = [float(near[a.ids[at]]) for a in learner.framing.verbalizer.found]
        assert len({a.ids[at] for a in learner.framing.verbalizer.found}) <= 3 and min(ranks) > float(near.median())


def test_values_get_a_word_for_each_pole() -> None:
    task = tiny_task(ROWS, "regression")
    backbone = tiny_backbone()
    module = AutoWords(k=8).build(task, backbone, {"low": ("awful",), "high": ("great",)})
    learner = learner_of(Manual(), backbone=backbone)
    learner.framing = Blank(module, task, backbone)
    learner.eval()
    module.prepare(learner, task.train.examples, numpy_stream(0))
    scores = scores_of(learner, task.train.examples)
    p, y = scores.softmax(-1)[:, 1], torch.tensor([e.label for e in task.train])
    assert module.labels == ("low", "high") and module.chosen
    assert module.found[0].score == pytest.approx(float(torch.corrcoef(torch.stack([p, y]))[0, 1]), abs=1e-4)


def test_a_calibration_around_it_follows_the_choice() -> None:
    learner, examples = ready(Calibrated(AutoWords(k=6), by="support"), rows=ROWS)
    module = learner.framing.verbalizer
    assert module.ids == module.inner.ids == module.inner.found[0].ids
    assert scores_of(learner, examples).softmax(-1).mean() == pytest.approx(0.5)


def test_the_choice_follows_the_rows_and_the_stream_alone() -> None:
    a, b = (ready(AutoWords("autoprompt", k=3), rows=ROWS)[0].framing.verbalizer.keep() for _ in range(2))
    assert a == b
    assert a != ready(AutoWords("autoprompt", k=3), rows=6)[0].framing.verbalizer.keep()


def test_frequent_words_of_the_texts() -> None:
    coder = WordCoder.of(tiny_backbone())
    examples = [Example(("Dull dull film",)), Example(("film", "film a a a a"))]
    assert [coder.word(i) for i in frequent_words(coder, examples, 2)] == ["film", "dull"]


@pytest.mark.parametrize(
    ("value", "task", "complaint"),
    [
        (AutoWords(rank=100), "classification", "rank=100 lies beyond the n=100 assignments"),
        (AutoWords("petal"), "regression", "method=petal tells classes apart, and this task has values"),
    ],
)
def test_settings_that_cannot_work(value: AutoWords, task: str, complaint: str) -> None:
    words: Any = {"low": ("awful",), "high": ("great",)} if task == "regression" else {"bad": ("awful",), "good": ("great",)}
    with pytest.raises(RecipeError, match=complaint):
        value.build(tiny_task(8, task), tiny_backbone(), words)


def test_a_class_without_rows_is_refused() -> None:
    learner = learner_of(AutoWords())
    with pytest.raises(DataError, match="'good' has no training row to choose words from"):
        learner.framing.verbalizer.prepare(learner, [Example(("a",), "bad")], numpy_stream(0))
