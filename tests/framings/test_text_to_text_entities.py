"""Text-to-text from one end to the other for entities and for questions, trained, predicted and scored; and numbers it cannot write."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tempering.contracts import Example, Seeds
from tempering.errors import RecipeError
from tempering.framings.text_to_text import TextToText
from tempering.learner import Learner
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tags import joined
from tempering.tasks.metrics import compute
from tempering.tasks.task import Split, Task
from tempering.tunings.full import Full
from tests.tiny import NEGATIVE, POSITIVE, tiny_speaker, tiny_task

QUICK: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "warmup_steps": 0.1, "eval_strategy": "no"}
NAMES = {"PER": POSITIVE[:3], "LOC": NEGATIVE[:3]}


def trained(framing: TextToText, family: str, task: Task, steps: int, rate: float) -> Learner:
    stage = Train(framing=framing, tuning=Full(), max_steps=steps, learning_rate=rate, load_best_model_at_end=False, **QUICK)
    return stage.run(tiny_speaker(family), task, Seeds.of(0))


def sentence(rng: random.Random, row: int) -> Example:
    """Four words, of which one names a person, a place or nothing."""
    kind = rng.choice([*NAMES, "O"])
    words = ["the", "film", "was", rng.choice(NAMES[kind]) if kind in NAMES else "very"]
    text, places = joined(words)
    return Example((text,), ("O", "O", "O", f"B-{kind}" if kind in NAMES else "O"), row, places)


def test_entities_are_learned_and_predicted_with_their_places() -> None:
    """With byte pairs: the colon of ``PER: good`` is a token."""
    rng = random.Random(0)
    rows = [sentence(rng, i) for i in range(160)]
    task = Task.from_examples(rows[:140], dev=rows[140:], kind="tagging")
    found = trained(TextToText(max_target_length=8), "qwen2", task, 150, 3e-3)
    predictions = found.predictions(rows[140:])
    assert all(len(p.label) == 4 for p in predictions)
    score = compute("tagging", task.labels, [e.label for e in rows[140:]], [p.label for p in predictions])
    assert score["f1"] > 0.9
    told = [(e.texts[0][s.start : s.end], s.label) for e, p in zip(rows[140:], predictions, strict=True) for s in p.spans]
    named = sum(any(tag != "O" for tag in e.label) for e in rows[140:])
    assert len(told) >= 0.75 * named > 6 and all(word in NAMES[kind] for word, kind in told)
    unseen = found.predict(["the film was good", "the film was very"])
    assert [p.label if hasattr(p, "label") else p for p in unseen] == [("O", "O", "O", "B-PER"), ("O",) * 4]


def questions(rows: int, before: int = 1) -> Task:
    """The answer is the last word of a context that has so many others before it."""
    rng, made = random.Random(0), []
    opening = " ".join(["the film was"] * before)
    for i in range(rows):
        word = rng.choice((*POSITIVE[:3], *NEGATIVE[:3]))
        made.append(Example(("which word?", f"{opening} {word}"), ((len(opening) + 1, word),), i))
    most = rows * 7 // 8
    return Task("qa", "question_answering", (), Split("train", tuple(made[:most])), Split("dev", tuple(made[most:])))


@pytest.mark.parametrize(("family", "rate"), [("t5", 1.5e-2), ("qwen2", 3e-3)])
def test_questions_are_learned_and_answered_freely_or_in_the_words_of_the_context(family: str, rate: float) -> None:
    task = questions(160)
    found = trained(TextToText(max_target_length=4), family, task, 150, rate)
    rows = list(task.dev.examples)  # type: ignore[union-attr]
    for bound in (False, True):
        found.framing.bound = bound
        predictions = found.predictions(rows)
        score = compute("question_answering", (), [e.label for e in rows], [p.label for p in predictions])
        assert score["exact_match"] > 0.7
        assert all(e.texts[1][p.spans[0].start : p.spans[0].end] == p.label for e, p in zip(rows, predictions, strict=True) if p.spans)


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2", "qwen2"])
def test_an_answer_may_stand_anywhere_in_a_context_longer_than_a_target(family: str) -> None:
    """Within the context every stretch may be written, also behind the tokens that a target has room for, and after what it begins with."""
    task = questions(8, before=3)
    module = Use(TextToText(answers="trie", max_target_length=4)).run(tiny_speaker(family), task, Seeds.of(0)).framing
    limits = module._limits(task.train.examples)
    for tree, example in zip(limits.tries, task.train.examples, strict=True):
        target = module.ids(example.label[0][1])
        assert all(token in tree.after(target[:i]) for i, token in enumerate(target)) and tree.after(target) == []


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_numbers_that_a_vocabulary_cannot_tell_apart_are_refused_with_what_may_help(family: str) -> None:
    """A vocabulary of whole words: all numbers are the unknown word."""
    task = tiny_task(24, "regression")
    with pytest.raises(RecipeError, match=r"same tokens to this model's tokenizer; give a larger step, or answers: free") as told:
        Use(TextToText()).run(tiny_speaker(family), task, Seeds.of(0))
    assert "words" not in str(told.value)
    Use(TextToText(answers="free")).run(tiny_speaker(family), task, Seeds.of(0))  # what it says may be done
