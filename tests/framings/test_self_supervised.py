"""Tasks that texts carry in themselves: the order of sentences, and the spans that matter."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch

from tempering.contracts import Example, Seeds
from tempering.fitting import fit
from tempering.framings.salient_spans import SalientSpans, names, recurring, spans_of
from tempering.framings.sentence_order import ORDERS, SentenceOrder, sentences
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.tasks.task import Task
from tests.tiny import NEGATIVE, POSITIVE, WORDS, tiny_backbone, tiny_task

LOOP: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "learning_rate": 3e-3, "warmup_steps": 0}


def test_sentences() -> None:
    assert sentences('He came. "Did he?" Yes!\nAnd left') == ["He came.", '"Did he?', "Yes!", "And left"]
    assert sentences("one 3.5 two") == ["one 3.5 two"]
    assert sentences("\u4f60\u597d\u3002\u518d\u89c1\u3002") == ["\u4f60\u597d\u3002", "\u518d\u89c1\u3002"]
    assert sentences(" \n ") == []


def test_pairs_are_neighbors_swapped_half_the_time() -> None:
    module = SentenceOrder().build(None, tiny_backbone())
    example = Example(("the film was good. the book was bad. a room is warm.",), None, 1)
    tokenizer, rng = tiny_backbone().tokenizer, np.random.default_rng(0)
    orders: list[int] = []
    for _ in range(200):
        ((prompt,),) = module.render([example], (), rng)
        first, second = tokenizer.decode(prompt.input_ids).split("[SEP]")[:2]
        parts = [p.replace("[CLS]", "").replace(" .", ".").strip().rstrip(".").replace("[UNK]", "").strip() for p in (first, second)]
        known = ["the film was good", "the book was bad", "a room is warm"]
        at = [known.index(p) for p in parts]
        assert at[1] - at[0] == (1 if prompt.target == 0 else -1)
        orders.append(prompt.target)
    assert 70 < sum(orders) < 130


def test_texts_with_one_sentence_or_one_word() -> None:
    module = SentenceOrder().build(None, tiny_backbone())
    rendered = module.render([Example(("good film very fine",)), Example(("good",)), Example(("",))], (), np.random.default_rng(0))
    assert all(found[0].target in (0, 1) for found in rendered)
    batch = module.collate([found[0] for found in rendered], np.random.default_rng(0))
    assert torch.isfinite(module.loss(module.scores(tiny_backbone(), batch), batch))


def test_the_order_can_be_learned_and_the_body_crosses() -> None:
    """A text whose first sentence is good and second bad: the order is plain to see."""
    rng = random.Random(0)
    texts = [f"{rng.choice(WORDS)} {rng.choice(POSITIVE)} . {rng.choice(WORDS)} {rng.choice(NEGATIVE)} ." for _ in range(96)]
    task = Task.from_examples([Example((t,)) for t in texts])
    told: list[dict[str, Any]] = []
    stage = Train(framing=SentenceOrder(dropout=0.0), text="unlabeled", max_steps=60, **LOOP)
    stage.run(tiny_backbone(), task, Seeds.of(0), around=Surroundings(listener=told.append))
    losses = [e["loss"] for e in told if e["event"] == "step"]
    assert np.mean(losses[-10:]) < 0.35 < np.mean(losses[:5])
    recipe = Recipe("r", (Train(framing="sentence_order", text="unlabeled", max_steps=2, **LOOP), Train(max_steps=2, **LOOP)))
    assert recipe.check() == [] and fit(recipe, tiny_task(), tiny_backbone()).record["metrics"]["dev"]


def test_names_and_numbers() -> None:
    text = "The mayor of New York met Anna on 12/05/2021. Yesterday he paid 3,500 dollars. Paul McCartney sang"
    found = [text[a:b] for a, b in names(text)]
    assert found == ["New York", "Anna", "12/05/2021", "3,500", "Paul McCartney"]
    assert names("it was dull") == []


def test_recurring_spans_are_the_longest_and_do_not_overlap() -> None:
    text = "the old film house burned, and the old film house was rebuilt; a film of the house"
    groups = [[text[a:b] for a, b in group] for group in recurring(text)]
    assert groups[0] == ["the old film house"] * 2
    flat = sorted(span for group in recurring(text) for span in group)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(flat))
    assert recurring("to be or to be") == [] and recurring("") == []
    both = spans_of("Anna Berg left. Anna Berg came with Paul", "both")
    assert [len(group) for group in both] == [2, 1]


def _hidden(module: Any, text: str, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    ((prompt,),) = module.render([Example((text,))], (), rng)
    batch = module.collate([prompt], rng)
    assert bool((batch.inputs["input_ids"].flatten()[batch.extra["positions"]] == module.masked.masking.mask_id).all())
    assert torch.equal(torch.tensor(prompt.input_ids)[batch.extra["positions"]], batch.targets)
    return module.masked.text.tokenizer.convert_ids_to_tokens(batch.targets.tolist())  # type: ignore[no-any-return]


def test_spans_are_hidden_whole_and_one_occurrence_stays() -> None:
    module = SalientSpans("recurring", 0.5).build(None, tiny_backbone())
    for seed in range(20):
        assert _hidden(module, "the lovely story was dull and the lovely story is a book", seed) == ["the", "lovely", "story"]
    named = SalientSpans("names", 0.9).build(None, tiny_backbone())
    assert set(_hidden(named, "a room of Good Great and a meal of Happy", 0)) == {"good", "great", "happy"}
    small = SalientSpans("names", 0.01).build(None, tiny_backbone())
    assert {tuple(_hidden(small, "a room of Good Great and a meal of Happy", s)) for s in range(20)} == {("good", "great"), ("happy",)}


def test_a_text_without_such_a_span_has_one_word_hidden() -> None:
    module = SalientSpans("names").build(None, tiny_backbone())
    assert {len(_hidden(module, "the film was very dull", seed)) for seed in range(10)} == {1}
    batch = module.collate([module.render([Example(("",))], (), np.random.default_rng(0))[0][0]], np.random.default_rng(0))
    assert len(batch.targets) == 1


def test_spans_in_pairs_and_in_texts_that_are_cut() -> None:
    module = SalientSpans("names", 0.9, max_length=12).build(None, tiny_backbone())
    ((prompt,),) = module.render(
        [Example(("was it Good Great", "it was Happy but " + "the film " * 20 + "Silly Sad"))], (), np.random.default_rng(0)
    )
    groups, _ = prompt.extra
    tokens = module.masked.text.tokenizer.convert_ids_to_tokens(prompt.input_ids)
    assert len(prompt.input_ids) == 12
    assert [tokens[a:b] for group in groups for a, b in group] == [["good", "great"], ["happy"]]


@pytest.mark.parametrize("which", ["names", "recurring", "both"])
def test_it_trains_and_the_body_crosses(which: Any) -> None:
    first = Train(framing=SalientSpans(which), text="unlabeled", max_steps=3, **LOOP)
    learner = fit(Recipe("r", (first, Train(max_steps=2, **LOOP))), tiny_task(), tiny_backbone())
    assert learner.record["earlier"][0]["history"][-1]["loss"] > 0.0


def test_one_of_several_tasks_on_its_own_texts(tmp_path: Any) -> None:
    from tempering.stages.multi_task import MultiTask, TaskSource

    path = tmp_path / "other.csv"
    path.write_text(
        "text,label\n"
        + "\n".join(f"the film was {w}. it is {other} too.,{i % 2}" for i, w in enumerate(POSITIVE + NEGATIVE) for other in POSITIVE[:3])
    )
    tasks = (TaskSource(), TaskSource(str(path), SentenceOrder()), TaskSource(str(path), SalientSpans()))
    stage = MultiTask(tasks=tasks, max_steps=4, **LOOP)
    learner = fit(Recipe("r", (stage,)), tiny_task(), tiny_backbone())
    assert {"other/loss", "other-2/loss", "task/accuracy"} <= set(learner.record["stage"]["history"][-1])
    assert len(ORDERS) == 2
