"""`ClozeNER`: which stretches are asked about, by which prompts, what is drawn to train on, how answers become tags, what is refused."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Example, Prompt, Rendered, Scores, Seeds, Slab
from tempering.errors import DataError, ModelError, RecipeError
from tempering.framings.cloze_ner import ClozeNER, words_for
from tempering.framings.gaps.candidates import Sentence, SpanWalk, Stretch, apart, disjoint, how_many, speaks_for, stretches
from tempering.framings.gaps.ner_module import ClozeNERModule
from tempering.framings.verbalizers.multi_mask import MultiMask
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tags import entities, joined, spans
from tempering.tasks import Task
from tempering.train.feed import Feed
from tempering.train.settings import Loop
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import tiny_backbone, tiny_task

RNG = np.random.default_rng(0)
VALUE = ClozeNER("{text} but {span} is {mask}", words={"O": "the", "good": "great"}, max_span=3)
QUICK = Train(max_steps=3, num_train_epochs=1, per_device_train_batch_size=4, warmup_steps=0, load_best_model_at_end=False)


def tagged(text: str, tags: str = "", row: int = 1) -> Example:
    said, places = joined(text.split())
    return Example((said,), tuple(tags.split()) or None, row, places)


ROWS = [
    tagged("the very good film was bad", "O B-good I-good O O B-bad", 1),
    tagged("a great day", "O B-good O", 2),
    tagged("it was", "O O", 3),
]
TASK = Task.from_examples(ROWS, dev=ROWS, kind="tagging")


def module(value: ClozeNER = VALUE, family: str = "bert", task: Task = TASK) -> tuple[ClozeNERModule, Backbone]:
    backbone = tiny_backbone(family).eval()
    torch.manual_seed(0)
    return value.build(task, backbone).eval(), backbone


# --- stretches -----------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(1, 9))
def test_every_stretch_up_to_a_length_is_asked_about_once(words: int, most: int) -> None:
    found = stretches(words, most)
    assert set(found) == {(i, j) for i in range(words) for j in range(words + 1) if 0 < j - i <= most}
    assert len(found) == len(set(found)) == how_many(words, most)


def sentence(words: int, known: dict[Stretch, int]) -> Sentence:
    places = tuple((2 * i, 2 * i + 1) for i in range(words))
    return Sentence("w " * words, places, tuple((i, i + 1) for i in range(words)), words, 1, known)


def walk_of(texts: list[Sentence], most: int, share: float) -> SpanWalk:
    return SpanWalk(texts, lambda _s, _x: Prompt(()), lambda _s, _x: 1, most, share)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=5), st.floats(0.1, 4), st.integers(1, 3))
def test_an_epoch_has_every_entity_and_its_share_of_other_stretches(shape: list[tuple[int, int]], share: float, most: int) -> None:
    """``shape``: words and entities of one word of each text."""
    texts = [sentence(n, {(i, i + 1): 1 for i in range(min(n, k))}) for n, k in shape]
    walk = walk_of(texts, most, share)
    true = sum(len(s.entities or {}) for s in texts)
    others = sum(how_many(len(s.words), most) for s in texts) - true
    walk.draw(np.random.default_rng(3))
    seen = [walk.at(i) for i in range(len(walk))]
    named = [(id(s), x) for s, x in seen]
    assert len(set(named)) == len(named) == true + min(others, round(share * true))
    assert [x in (s.entities or {}) for s, x in seen] == [True] * true + [False] * (len(walk) - true)


def test_other_stretches_are_drawn_anew_and_each_as_likely() -> None:
    texts = [sentence(4, {(0, 1): 1, (1, 3): 2}), sentence(3, {})]  # 8 of 10 and 6 of 6 stretches are none
    walk = walk_of(texts, 9, 1.5)
    draws: Counter[Any] = Counter()
    for epoch in range(400):
        walk.draw(np.random.default_rng(epoch))
        assert len(walk) == 5
        draws.update((texts.index(s), x) for s, x in (walk.at(i) for i in range(2, 5)))
    assert len(draws) == 14 and sum(draws.values()) == 1200
    assert max(abs(n - 1200 / 14) for n in draws.values()) < 4.5 * (1200 / 14) ** 0.5
    a, b = (walk_of(texts, 9, 1.5) for _ in range(2))
    for walk in (a, b):
        walk.draw(np.random.default_rng(7))
    assert [a.at(i)[1] for i in range(5)] == [b.at(i)[1] for i in range(5)]


def test_the_surest_of_stretches_that_overlap_is_kept() -> None:
    found = [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)]
    chances = np.array([[0.3, 0.7, 0.0], [0.2, 0.0, 0.8], [0.1, 0.9, 0.0], [0.6, 0.2, 0.2], [0.5, 0.5, 0.0]])
    assert apart(found, chances) == [0, 2]  # (1, 2) first; it keeps (0, 2) out, and (0, 1) then is free; a tie with O is no entity
    assert speaks_for(4, found, chances, [0, 2]) == [0, 2, 3, 4]
    assert speaks_for(4, found, chances, [1]) == [1, 1, 3, 4]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**31))
def test_what_is_kept_overlaps_nothing_and_what_is_not_is_beaten(words: int, most: int, seed: int) -> None:
    found = stretches(words, most)
    chances = np.random.default_rng(seed).dirichlet([1.0, 1.0, 1.0], len(found))
    taken = apart(found, chances)
    assert all(disjoint(found[i], found[j]) for i, j in itertools.combinations(taken, 2)) and taken == sorted(taken, key=lambda i: found[i])
    for i in range(len(found)):
        if chances[i].argmax() == 0:
            assert i not in taken
        elif i not in taken:
            assert any(not disjoint(found[i], found[j]) and chances[j].max() >= chances[i].max() for j in taken)
    for word, i in enumerate(speaks_for(words, found, chances, taken)):
        assert found[i][0] <= word < found[i][1]
        assert i in taken or chances[i].argmax() == 0  # a word of no entity is said to be none


# --- prompts -------------------------------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_text_and_the_stretch_in_the_template() -> None:
    built, backbone = module()
    (prompts,) = built.render(ROWS[:1], (), RNG)
    said = [backbone.tokenizer.decode(p.input_ids) for p in prompts]
    text = ROWS[0].texts[0]
    words = text.split()
    assert said == [f"[CLS] {text} but {' '.join(words[i:j])} is [MASK] [SEP]" for i, j in stretches(6, 3)]
    known = {"very good": 2, "bad": 1}  # classes O, bad, good
    assert [p.target for p in prompts] == [known.get(" ".join(words[i:j]), 0) for i, j in stretches(6, 3)]
    bare = built.render([Example(("great film!",)), Example(("",), (), 2, ())], (), RNG)
    assert [len(found) for found in bare] == [6, 1] and bare[0][0].target is None and bare[1][0].weight == 0.0


@torch.no_grad()
def test_scores_are_the_whole_models_at_the_mask(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    save_masked_lm("bert", tmp_path)
    backbone = Backbone.load(str(tmp_path)).eval()
    built = VALUE.build(TASK, backbone).eval()
    batch = built.collate(built.render(ROWS[:1], (), RNG)[0], RNG)
    places = (batch.inputs["input_ids"] == backbone.tokenizer.mask_token_id).nonzero()
    whole = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()(**batch.inputs).logits
    expected = whole[places[:, 0], places[:, 1]][:, backbone.tokenizer.convert_tokens_to_ids(["the", "bad", "great"])]
    scores = built.scores(backbone, batch)
    assert torch.allclose(scores.only.logits[0], expected, atol=1e-5)
    assert batch.targets is not None and torch.allclose(built.loss(scores, batch), F.cross_entropy(expected, batch.targets), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "qwen2"])
def test_a_long_text_is_shown_around_the_stretch(family: str) -> None:
    built, _ = module(dataclasses.replace(VALUE, max_length=20, max_span=2), family)
    words = [f"w{i}" for i in range(60)] if family != "qwen2" else ["film", "good"] * 30
    example = tagged(" ".join(words))
    (prompts,) = built.render([example], (), RNG)
    (known,) = built.sentences([example])
    for prompt, stretch in zip(prompts, stretches(60, 2), strict=True):
        assert len(prompt.input_ids) <= 20 and len(prompt.extra.masks) == 1
        text, span = built.shown(known, stretch).texts
        first, last = stretch
        shown = text.split()
        assert span.split() == words[first:last] and len(shown) < 20
        if family != "qwen2":
            at = words.index(shown[0])
            assert shown == words[at : at + len(shown)] and at <= first and last <= at + len(shown)
            assert abs((first - at) - (at + len(shown) - last)) <= 1 or at == 0 or at + len(shown) == 60
            assert not prompt.extra.cut  # nothing is left for the template to cut


def test_the_words_of_types_are_their_own_or_the_usual_ones() -> None:
    assert words_for(("LOC", "EVENT", "creative-work"), ()) == {
        "O": ("non",), "LOC": ("location",), "EVENT": ("event",), "creative-work": ("creative work",)
    }  # fmt: skip
    assert words_for(("LOC",), (("O", ("no", "not")), ("LOC", ("place",)))) == {"O": ("no", "not"), "LOC": ("place",)}


def test_two_statements_of_unequal_length_as_in_the_paper() -> None:
    words = {"O": "not a good", "good": "a great", "bad": "a bad"}
    built, backbone = module(ClozeNER("{text} {span} is {mask} meal", MultiMask(order="parallel"), words, max_span=1))
    prompts = built.render(ROWS[:1], (), RNG)[0]
    assert all(len(p.extra.masks) == 3 for p in prompts)
    assert torch.isfinite(built.scores(backbone, built.collate(prompts, RNG)).only.logits).all()


# --- from answers to tags ------------------------------------------------------------------------------------------------------------


def said(built: ClozeNERModule, examples: list[Example], logits: torch.Tensor) -> list[Any]:
    scores = Scores((Slab(logits.unsqueeze(0), None, None, None, "classification"),))
    return built.combine(Rendered.of(examples, built.render(examples, (), RNG)), scores)


@pytest.mark.parametrize("tags", ["B-good I-good O B-bad B-bad O", "B-good E-good O S-bad S-bad O", "B-good L-good O U-bad U-bad O"])
def test_the_right_classes_give_the_right_tags(tags: str) -> None:
    row = tagged("great film was bad awful day", tags)
    task = Task.from_examples([row, tagged("so", "O")], kind="tagging")
    built, _ = module(task=task)
    targets = torch.tensor([p.target for p in built.render([row], (), RNG)[0]])
    (found,) = said(built, [row], F.one_hot(targets, 3).double() * 5)
    assert found.label == row.label
    assert [(s.start, s.end, s.label) for s in found.spans] == [(s.start, s.end, s.label) for s in spans(row.words, row.label)]
    assert all(s.probability == pytest.approx(np.exp(5) / (np.exp(5) + 2)) for s in found.spans)
    for tag, chances in zip(found.label, found.each, strict=True):
        assert set(chances) == set(task.labels) and sum(chances.values()) == pytest.approx(1.0)
        assert max(chances, key=lambda t: chances[t]) == tag


def test_texts_without_words_and_without_entities() -> None:
    built, _ = module()
    rows = [Example(("",)), tagged("it was")]
    logits = torch.tensor([[0.0, 9.0, 0.0], *[[1.0, 0.0, 0.0]] * 3])
    empty, none = said(built, rows, logits)
    assert (empty.label, empty.spans, empty.each) == ((), (), ()) and (none.label, none.spans) == (("O", "O"), ())


# --- training, prediction, folders ---------------------------------------------------------------------------------------------------


def test_it_learns_what_words_are_entities() -> None:
    value = ClozeNER("{span} is {mask}", words={"O": "the"}, max_span=2)
    stage = Train(framing=value, learning_rate=1e-2, max_steps=50, per_device_train_batch_size=16, warmup_steps=0, eval_strategy="no")
    task = tiny_task(60, "tagging")
    learner = stage.run(tiny_backbone(), task, Seeds.of(0))
    found = learner.predictions(task.dev.examples[:12])
    gold = [set(spans(e.words, e.label)) for e in task.dev.examples[:12]]
    short = [{s[:3] for s in some if s.end - s.start < 16} for some in gold]  # of at most two words
    hits = [len(a & {s[:3] for s in p.spans}) for a, p in zip(short, found, strict=True)]
    assert sum(hits) / sum(map(len, short)) > 0.4
    for row, prediction in zip(task.dev.examples, found, strict=False):
        assert [(row.words[e.first][0], e.type) for e in entities(prediction.label)] == [(s.start, s.label) for s in prediction.spans]
    assert [len(tags) for tags in learner.predict(["a great day", ["so", "bad"]])] == [3, 2]


def test_steps_and_costs_are_foretold() -> None:
    """3 entities of ROWS (of 2, 1 and 1 words) and round(4.5) = 4 others: 7 prompts an epoch, 2 steps of 4."""
    stage = dataclasses.replace(QUICK, framing=VALUE, max_steps=-1, num_train_epochs=3)
    plan = explain(Recipe("r", (stage,)), tiny_backbone(), TASK).stages[0]
    learner = stage.run(tiny_backbone(), TASK, Seeds.of(0))
    assert plan.steps == learner.record["stage"]["steps"] == 3 * 2
    assert plan.costs.startswith("7 an epoch, of 3 entities and 4 other stretches of words; a prediction makes one of every stretch")
    assert plan.costs.endswith("up to 3 words, 8 a text on average and 15 at most")  # 15, 6 and 3
    bare = Recipe("r", (Train(framing=ClozeNER("{span} is {mask}", words={"PER": "day", "O": "the"})),))
    assert "8 n - 28 for a text of n >= 8 words" in explain(bare, tiny_backbone()).stages[0].costs


def test_stretches_of_texts_of_like_length_go_together() -> None:
    """An epoch has every number once, drawn by its seeds alone, and next to nothing is computed for padding."""
    words = ["very", "good", "film", "was", "bad"] * 8
    rows = [tagged(" ".join(words[:n]), " ".join(["O", "B-good", *["O"] * (n - 2)]), n) for n in range(2, 34, 2)]
    built, _ = module(task=Task.from_examples(rows, kind="tagging"))

    def epoch(number: int, **changes: Any) -> list[torch.Tensor]:
        feed = Feed(built, rows, Loop(per_device_train_batch_size=4, **changes), Seeds.of(0))
        assert feed.rows == 16 + 24  # an entity a text, and 1.5 others
        assert sorted(i for batch in (feed._enter(number), feed._plan)[1] for i in batch.tolist()) == list(range(40))
        steps = range(number * feed.steps_per_epoch, (number + 1) * feed.steps_per_epoch)
        return [b.inputs["attention_mask"] for step in steps for b in feed.micro(step)]

    def waste(masks: list[torch.Tensor]) -> float:
        return sum(m.numel() for m in masks) / sum(int(m.sum()) for m in masks)

    assert waste(epoch(0)) < 1.1 and waste(epoch(1)) < 1.1 < 1.2 < waste(epoch(0, group_by_length=False))
    assert all(map(torch.equal, epoch(1), epoch(1))) and not all(a.equal(b) for a, b in zip(epoch(0), epoch(1), strict=True))


def test_the_foretold_length_is_that_of_the_text() -> None:
    for length in (None, 20):
        built, _ = module(dataclasses.replace(VALUE, max_length=length))
        rows = [*ROWS, tagged("the very good film was bad " * 6, "O B-good I-good O O B-bad " * 6, 4)]
        walk = built.walk([p for found in built.render(rows, rows, RNG) for p in found])
        for prompt, foretold, (text, stretch) in zip(walk, walk.lengths, map(walk.at, range(len(walk))), strict=True):
            assert len(prompt.input_ids) == foretold + text.size(stretch) + 5  # [CLS] but is [MASK] [SEP]
    assert set(module(ClozeNER("{span} is {mask}", words={"O": "the"}))[0].walk([Prompt((), extra=text)]).lengths) == {0}


def test_it_works_untrained_and_loads_again(tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path / "base")
    learner = Use(framing=VALUE).run(Backbone.load(str(tmp_path / "base")), TASK, Seeds.of(0))
    learner.save_pretrained(tmp_path / "out")
    assert tempering.load(tmp_path / "out").predictions(ROWS) == learner.predictions(ROWS)


def test_entities_that_are_too_long_are_told() -> None:
    told: list[str] = []
    stage = dataclasses.replace(QUICK, framing=dataclasses.replace(VALUE, max_span=1))
    stage.run(tiny_backbone(), TASK, Seeds.of(0), around=Surroundings(listener=lambda e: told.append(str(e.get("text")))))
    assert any("1 of 3 training entities have more than max_span=1 words" in text for text in told)
    assert any(text.startswith("prompts: 5 an epoch, of 2 entities") for text in told)


# --- refusals ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"template": "{text} is {mask}"}, r"expected a template with \{span\}"),
        ({"template": "{text} {span is {mask}"}, "is not closed"),
        ({"words": ["person", "place"]}, "words must map entity types to their words"),
        ({"verbalizer": 3}, "expected a verbalizer"),
        ({"max_span": 0}, "greater than or equal to 1"),
        ({"negatives": 0.0}, "greater than 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        ClozeNER(**given)


@pytest.mark.parametrize(
    ("value", "labels", "family", "expected"),
    [
        (VALUE, ("ADJ", "NOUN"), "bert", "cloze_ner needs entity tags.*the tags here are ADJ, NOUN; use framing token_head"),
        (dataclasses.replace(VALUE, words={"PER": "day"}), None, "bert", "words are given for 'PER', which is no class of this task"),
        (dataclasses.replace(VALUE, template="{text} {span} {title} {mask}"), None, "bert", "unknown field 'title'"),
        (dataclasses.replace(VALUE, max_length=2), None, "bert", r"cloze_ner: max_length=2 leaves no room"),
        (VALUE, None, "t5", "cloze_ner cannot serve tiny-t5"),
        (dataclasses.replace(VALUE, template="{span} is {mask} : {text}"), None, "gpt2", "reads from left to right"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(value: ClozeNER, labels: Any, family: str, expected: str) -> None:
    task = TASK if labels is None else dataclasses.replace(TASK, labels=labels)
    with pytest.raises((RecipeError, ModelError), match=expected):
        value.build(task, tiny_backbone(family))


def test_other_refusals() -> None:
    with pytest.raises(RecipeError, match="cannot serve a task of kind 'classification'.*use framing cloze"):
        VALUE.build(tiny_task(8), tiny_backbone())
    bare = TASK.with_train([2])
    with pytest.raises(DataError, match="entities of at most 3 words, found none in 1 rows; give rows with entities"):
        dataclasses.replace(QUICK, framing=VALUE).run(tiny_backbone(), bare, Seeds.of(0))
    built, _ = module()
    with pytest.raises(DataError, match="row 4: expected one text to find entities in, found 2"):
        built.render([Example(("a", "b"), None, 4)], (), RNG)
