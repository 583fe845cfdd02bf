"""Next sentences: what is drawn, how it is put to the model, and what is refused."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.errors import DataError, ModelError
from tempering.framings.cloze import Cloze
from tempering.framings.head import Head
from tempering.framings.in_context import InContext
from tempering.framings.neighbors import RELATIONS, Pool, chosen, other_pair, related
from tempering.framings.next_sentence import NextSentence
from tempering.framings.text_to_text import TextToText
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.tasks.task import Task
from tempering.tunings.prompt_tuning import PromptTuning
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import tiny_backbone

TEXTS = ["a1. a2. a3. a4.", "b1. b2. b3.", "c1. c2."]
WORDS = {"no": "bad", "maybe": "dull", "yes": "good"}


def test_pairs_are_next_the_same_text_or_another() -> None:
    rng, pool = np.random.default_rng(0), Pool(TEXTS)
    for text in TEXTS:
        found = [related(text, pool, rng) for _ in range(600)]
        counts = Counter(label for _, label in found)
        assert all(150 < counts[label] < 250 for label in RELATIONS)
        seen: dict[str, Counter[tuple[str, str]]] = {label: Counter() for label in RELATIONS}
        for pair, label in found:
            seen[label][pair] += 1
        own = [f"{text[0]}{i}." for i in range(1, text.count(".") + 1)]
        assert set(seen["yes"]) == set(pairwise(own))
        assert set(seen["maybe"]) == {(a, b) for i, a in enumerate(own) for j, b in enumerate(own) if j not in (i, i + 1)}
        assert all(first in own and second[0] != text[0] for first, second in seen["no"]) and len(seen["no"]) > 3
        assert max(seen["maybe"].values()) < 4 * max(1, min(seen["maybe"].values()))  # all of them, with like chances


@pytest.mark.parametrize("n", [2, 3, 6])
def test_other_pairs_are_all_there_are(n: int) -> None:
    found = [other_pair(k, n) for k in range((n - 1) ** 2)]
    assert sorted(found) == [(i, j) for i in range(n) for j in range(n) if j not in (i, i + 1)]


def test_one_of_the_choices_comes_next() -> None:
    rng, pool = np.random.default_rng(0), Pool([*TEXTS, *(f"{c}1. {c}2." for c in "defg")])
    letters = Counter[str]()
    for _ in range(120):
        (query, *listed), letter = chosen(TEXTS[0], pool, 6, rng)
        letters[letter] += 1
        right = listed["ABCDEF".index(letter)]
        assert len(listed) == 6 and int(right[1]) == int(query[1]) + 1 and right[0] == query[0] == "a"
        same = [s for s in listed if s[0] == "a"]
        others = [s[0] for s in listed if s[0] != "a"]
        assert len(same) == 2 and query not in listed and len(set(others)) == 4  # each of another text
    assert min(letters.values()) > 8 and len(letters) == 6
    (_, *listed), letter = chosen("c1. c2.", Pool(["c1. c2.", "b1. b2."]), 4, rng)  # no third sentence, and one other text
    assert Counter(s[0] for s in listed) == {"c": 1, "b": 3} and listed["ABCD".index(letter)] == "c2."


def test_copies_of_a_text_are_not_another_text() -> None:
    rng = np.random.default_rng(0)
    assert {s[0] for _ in range(30) for s in Pool(["a1. a2."] * 5 + ["b1. b2."]).draw("a1. a2.", 2, rng)} == {"b"}
    assert len(Pool(["a1. a2."] * 3).draw("a1. a2.", 2, rng)) == 2  # nothing else there: they have to do
    assert {related("a1. a2.", Pool(["a1. a2."]), rng)[1] for _ in range(30)} == {"maybe", "yes"}


@pytest.fixture
def masked(tmp_path: Path) -> Backbone:
    save_masked_lm("bert", tmp_path)
    return Backbone.load(str(tmp_path))


def _rows(texts: list[str]) -> list[Example]:
    return [Example((text,), None, i) for i, text in enumerate(texts, start=1)]


STORIES = ["the film was good. the meal was bad.", "a room is warm. a book is dull. it was sad.", "the story was long. great fun."]


def test_a_cloze_asks_in_the_papers_words(masked: Backbone) -> None:
    rows = _rows(STORIES)
    ((prompt,),) = NextSentence(Cloze(words=WORDS)).build(None, masked).render(rows[:1], rows, np.random.default_rng(1))
    pair, label = related(STORIES[0], Pool(STORIES), np.random.default_rng(1))
    cloze = Cloze("{text} {mask}. {text_pair}", words=WORDS)
    ((same,),) = cloze.build(_asked(), masked).render([Example(pair, label)], (), np.random.default_rng(0))
    assert prompt == same and RELATIONS[prompt.target] == label
    assert masked.tokenizer.convert_ids_to_tokens(prompt.input_ids)[prompt.extra.masks[0]] == "[MASK]"
    own = NextSentence(Cloze("{text_pair} after {text} ? {mask}", words=WORDS)).build(None, masked)
    assert str(own.inner.text.template) == "{text_pair} after {text} ? {mask}"
    last = NextSentence(Cloze(words=WORDS)).build(None, tiny_backbone("gpt2"))
    assert str(last.inner.text.template) == "{text} {text_pair} Is it the next one? {mask}"


def _asked() -> Any:
    return SimpleNamespace(kind="classification", labels=RELATIONS, target=RELATIONS.index, train=(Example(("a", "b")),))


def test_choices_are_lettered(masked: Backbone) -> None:
    value = NextSentence(Cloze(words=("bad", "good", "sad")), asks="choice", choices=3)
    module = value.build(None, masked)
    assert value.labels == ("A", "B", "C") and str(module.inner.text.template) == "{text}? A. {a} B. {b} C. {c} Answer is {mask}."
    found = module.render(_rows(STORIES), (), np.random.default_rng(0))
    assert [len(p) for p in found] == [1, 1, 1] and all(0 <= p[0].target < 3 for p in found)
    batch = module.collate([p[0] for p in found], np.random.default_rng(0))
    loss = module.loss(module.scores(masked, batch), batch)
    assert torch.isfinite(loss) and module.decode(module.scores(masked, batch))[0].label in "ABC"
    assert module.length_hint([10, 20], 64) == 64 and module.length_hint([10], 64) == 40


@pytest.mark.parametrize(
    ("framing", "family"),
    [(Head(pool="mean"), "bert"), (TextToText(words={"no": "bad", "maybe": "dull", "yes": "good"}), "bart"), (Cloze(words=WORDS), "gpt2")],
)
def test_it_trains_a_prompt_in_every_form(framing: Any, family: str) -> None:
    """The loss of made questions falls, texts held out are judged by the loss, and the body stands still."""
    stage = Train(framing=NextSentence(framing), tuning=PromptTuning(p=3), text="unlabeled", max_steps=3, num_train_epochs=1,
                  per_device_train_batch_size=8, eval_strategy="steps", eval_steps=3, learning_rate=0.1)  # fmt: skip
    backbone = tiny_backbone(family)
    before = {n: w.clone() for n, w in backbone.model.state_dict().items()}
    task = Task.from_examples(_rows([f"{a} {b} it was part {n}." for a in STORIES for b in STORIES for n in range(5)]))
    learner = stage.run(backbone, task, Seeds.of(0), around=Surroundings())
    (found,) = learner.record["stage"]["history"]
    assert found["loss"] > 0 and learner.framing.predicts_labels is False
    after = learner.backbone.model.state_dict()
    assert all(torch.equal(w, after[n]) for n, w in before.items())


def test_it_can_be_learned() -> None:
    """A bad sentence follows a good one and never the other way around: much of which relation it is can be seen."""
    texts = [f"the {a} was good. the {a} was bad." for a in ("film", "book", "meal", "story")] * 12
    told: list[dict[str, Any]] = []
    stage = Train(framing=NextSentence(Head(pool="mean", dropout=0.0)), text="unlabeled", max_steps=60, num_train_epochs=1,
                  per_device_train_batch_size=16, learning_rate=3e-3, warmup_steps=0, eval_strategy="no")  # fmt: skip
    stage.run(tiny_backbone(), Task.from_examples(_rows(texts)), Seeds.of(0), around=Surroundings(listener=told.append))
    losses = [e["loss"] for e in told if e["event"] == "step"]
    assert np.mean(losses[-10:]) < 1.03 < np.mean(losses[:5])  # by chance: log 3 = 1.099


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected a cloze, text_to_text or a head"):
        NextSentence(InContext())
    with pytest.raises(ValidationError, match="which only a template can"):
        NextSentence(Head(), asks="choice")
    with pytest.raises(ModelError, match="use framing text_to_text"):
        NextSentence(Cloze(words=WORDS)).build(None, tiny_backbone("t5"))
    learner: Any = None
    module = NextSentence(Head()).build(None, tiny_backbone())
    with pytest.raises(DataError, match="there is 1 text to train on; give a corpus of two texts or more"):
        module.prepare(learner, _rows(STORIES)[:1], np.random.default_rng(0))
