"""`Demonstrations`: which examples stand beside a query, that no label word is parted from its text, and the mean over contexts."""

from __future__ import annotations

import dataclasses
import math
import random
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
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
from tempering.contracts import Example, Seeds
from tempering.errors import DataError, ModelError, RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.gaps import draws
from tempering.framings.gaps.demonstrations_module import DemonstrationsModule
from tempering.framings.gaps.draws import Pool, kept, likenesses
from tempering.framings.gaps.sentence_vectors import sentence_vectors
from tempering.framings.head import Head
from tempering.framings.verbalizers.auto_words import AutoWords, AutoWordsModule
from tempering.framings.verbalizers.calibrated import Calibrated
from tempering.framings.verbalizers.composed import Composed
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.proto_verb import ProtoVerb
from tempering.framings.verbalizers.soft import Soft
from tempering.framings.verbalizers.warp import WARP
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tunings.frozen import Frozen
from tests.tiny import NEGATIVE, POSITIVE, ROLE, VOCAB, WORDS, save_tiny, tiny_backbone, tiny_speaker, tiny_task

CLOZE = Cloze("{text} it was {mask}", words=("bad", "good"))
RNG = np.random.default_rng


def prepared(value: Demonstrations, task: Any = None, family: str = "bert") -> Learner:
    """The learner of the stage ``use``."""
    return Use(value).run(tiny_speaker(family), task or tiny_task(), Seeds.of(0))


def texts(ids: Any) -> list[str]:
    """The stretches between separators, without the query's [CLS]."""
    words = [VOCAB[i] for i in ids]
    return [part.strip() for part in " ".join(words).removeprefix("[CLS]").split("[SEP]") if part.strip()]


def split(shown: str) -> tuple[str, str]:
    """(text, label word) of an answered example."""
    text, _, word = shown.rpartition(" it was ")
    return text, word


@pytest.mark.parametrize("classes", [2, 3, 5, 6])
def test_golden_value_g10(classes: int) -> None:
    """K = 16, rate 0.5: 7 of each class in training, where the query is no candidate, and 8 at test."""
    rows = [Example((f"{c} {i}",), c) for c in range(classes) for i in range(16)]
    pool = Pool(rows, [e.label for e in rows], classes)
    like = torch.from_numpy(RNG(0).standard_normal(len(rows)).astype("float32"))
    assert kept(16 * classes - 1, classes, 0.5) == 7 and kept(16 * classes, classes, 0.5) == 8
    training, test = pool.alike(rows[3], like, 0.5), pool.alike(Example(("new",)), like, 0.5)
    assert [len(found) for found in training] == [7] * classes and [len(found) for found in test] == [8] * classes
    for c, found in enumerate(test):
        mine = sorted(range(16 * c, 16 * c + 16), key=lambda i: -float(like[i]))
        assert sorted(found.tolist()) == sorted(mine[:8])
    assert 3 not in training[0] and all(rows[i].label == c for c, found in enumerate(training) for i in found)


def test_one_of_each_class_in_their_order_and_never_the_query() -> None:
    learner, task = prepared(Demonstrations(CLOZE, filter=None)), tiny_task()
    rows = task.train.examples
    labels = {e.texts[0]: e.label for e in rows}
    for (prompt,), query in zip(learner.framing.render(rows, rows, RNG(1)), rows, strict=True):
        first, *shown = texts(prompt.input_ids)
        assert first == f"{query.texts[0]} it was [MASK]" and prompt.extra.masks == (len(first.split()),)
        assert [split(s)[1] for s in shown] == ["bad", "good"] == [labels[split(s)[0]] for s in shown]
        assert query.texts[0] not in {split(s)[0] for s in shown}
        assert list(prompt.input_ids).count(ROLE["mask"]) == 1 and prompt.target == task.label_index(query.label)
        assert prompt.token_type_ids == [0] * (len(first.split()) + 2) + [1] * (len(prompt.input_ids) - len(first.split()) - 2)


def test_draws_differ_between_epochs_and_repeat_under_a_seed() -> None:
    rows = tiny_task().train.examples
    framing = prepared(Demonstrations(CLOZE, filter=None)).framing
    assert framing.renders_anew and not framing.deterministic
    ids = [[tuple(p.input_ids) for (p,) in framing.render(rows, rows, RNG(seed))] for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]
    shown = Counter(split(s)[0] for seed in range(40) for s in texts(framing.render(rows[:1], rows, RNG(seed))[0][0].input_ids)[1:])
    assert len(shown) == len(rows) - 1  # all others come up


def test_contexts_of_a_prediction_hang_on_the_text_alone() -> None:
    framing, dev = prepared(Demonstrations(CLOZE, contexts=3)).framing, tiny_task().dev.examples
    together = framing.render(dev, (), RNG(0))
    assert [len(found) for found in together] == [3] * len(dev)
    alone = [framing.render([e], (), RNG(7))[0] for e in reversed(dev)][::-1]
    assert [[list(p.input_ids) for p in found] for found in together] == [[list(p.input_ids) for p in found] for found in alone]
    assert len({tuple(p.input_ids) for p in together[0]}) > 1


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_a_prediction_is_the_mean_over_contexts(family: str) -> None:
    dev = tiny_task().dev.examples[:5]
    learner = prepared(Demonstrations(CLOZE, contexts=4), family=family)
    rendered = learner.framing.render(dev, (), RNG(0))
    means = torch.stack([learner.score(found).only.logits[0].mean(0) for found in rendered]).softmax(-1)
    found = torch.tensor([list(p.probabilities.values()) for p in learner.predictions(dev)])
    assert torch.allclose(found, means, atol=1e-6)
    one = prepared(Demonstrations(CLOZE, contexts=1), family=family)
    single = one.score([p for (p,) in one.framing.render(dev, (), RNG(0))]).only.logits[0].softmax(-1)
    assert torch.allclose(torch.tensor([list(p.probabilities.values()) for p in one.predictions(dev)]), single, atol=1e-6)


def test_the_filter_shows_only_what_is_alike() -> None:
    task = tiny_task(16)
    learner = prepared(Demonstrations(CLOZE, filter=0.3, contexts=30), task)
    body, rows, query = learner.backbone, task.train.examples, task.dev.examples[0]
    like = sentence_vectors(body, rows) @ sentence_vectors(body, [query])[0]
    expected = set()
    for label in ("bad", "good"):
        mine = [i for i, e in enumerate(rows) if e.label == label]
        expected |= {rows[i].texts[0] for i in sorted(mine, key=lambda i: -float(like[i]))[: math.floor(8 * 0.3)]}
    shown = {split(s)[0] for p in learner.framing.render([query], (), RNG(0))[0] for s in texts(p.input_ids)[1:]}
    assert shown == expected and len(expected) == 4


@pytest.mark.parametrize("share", [None, 0.5])
def test_what_is_alike_is_held_for_one_query_at_a_time(share: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all at once it would be rows times rows numbers."""
    rows, held, chunks = tiny_task(24).train.examples, [], []
    framing = prepared(Demonstrations(CLOZE, filter=share), tiny_task(24)).framing
    whole = [tuple(p.input_ids) for (p,) in framing.render(rows, rows, RNG(1))]
    original = Pool.alike

    def alike(self: Pool, query: Example, likeness: Any, rate: Any) -> Any:
        found = original(self, query, likeness, rate)
        held.extend(weakref.ref(part) for part in found)
        chunks.append(0 if likeness is None else likeness.untyped_storage().size() // 4 // len(rows))
        assert sum(one() is not None for one in held) <= 4
        return found

    monkeypatch.setattr(Pool, "alike", alike)
    monkeypatch.setattr(draws, "CHUNK", 5)
    assert [tuple(p.input_ids) for (p,) in framing.render(rows, rows, RNG(1))] == whole
    assert len(chunks) == 24 and max(chunks) == (0 if share is None else 5)


@pytest.mark.parametrize(
    ("template", "first"), [("{text} {mask} {mask} very {mask}", "{} film was very sad"), ("{text} {mask}", "{} film was sad")]
)
def test_each_mask_of_an_example_holds_its_own_word(template: str, first: str) -> None:
    cloze = Cloze(template, Composed(), words={"bad": ("film", "was", "sad"), "good": ("film", "is", "happy")})
    framing, labels = prepared(Demonstrations(cloze, filter=None)).framing, {e.texts[0]: e.label for e in tiny_task().train.examples}
    for (prompt,) in (found[:1] for found in framing.render(tiny_task().dev.examples, (), RNG(0))):
        query, bad, good = texts(prompt.input_ids)
        assert query.count("[MASK]") == 3
        second = first.replace("was", "is").replace("sad", "happy")
        stems = [shown.removesuffix(said.removeprefix("{}")) for shown, said in ((bad, first), (good, second))]
        assert [labels.get(stem) for stem in stems] == ["bad", "good"]


@pytest.mark.parametrize("verbalizer", [Soft(), WARP(), Manual()], ids=["soft", "warp", "manual"])
def test_examples_show_the_words_of_their_own_class_however_the_words_are_listed(verbalizer: Any) -> None:
    cloze = Cloze("{text} it was {mask}", verbalizer, words={"good": "happy", "bad": "sad"})
    framing, labels = prepared(Demonstrations(cloze, filter=None)).framing, {e.texts[0]: e.label for e in tiny_task().train.examples}
    for shown in texts(framing.render(tiny_task().dev.examples[:1], (), RNG(0))[0][0].input_ids)[1:]:
        text, word = split(shown)
        assert word == {"good": "happy", "bad": "sad"}[labels[text]]


@torch.no_grad()
def test_sentence_vectors_are_mean_states_of_length_one() -> None:
    backbone = tiny_backbone("roberta").eval()
    rows = [Example(("the film was good",)), Example(("a day", "it was very very bad")), Example(("sad",))]
    backbone.train()
    found = sentence_vectors(backbone, rows)
    assert backbone.training
    backbone.eval()
    for vector, row in zip(found, rows, strict=True):
        states = backbone.encode(dict(backbone.tokenizer(" ".join(row.texts), return_tensors="pt"))).last[0]
        assert torch.allclose(vector, F.normalize(states.mean(0), dim=0), atol=1e-5)
    assert torch.allclose(torch.stack([*likenesses(found, found)]), found @ found.T) and sentence_vectors(backbone, []).shape == (0, 32)


def test_a_named_encoder_says_what_is_alike(tmp_path: Path) -> None:
    folder = save_tiny("roberta", tmp_path / "encoder", seed=5)
    value = Demonstrations(CLOZE, filter=0.3, contexts=30, encoder=str(folder))
    learner, rows = prepared(value, tiny_task(16)), tiny_task(16).train.examples
    query = tiny_task(16).dev.examples[1]
    body = Backbone.load(str(folder))
    like = sentence_vectors(body, rows) @ sentence_vectors(body, [query])[0]
    goods = sorted((i for i, e in enumerate(rows) if e.label == "good"), key=lambda i: -float(like[i]))
    shown = {split(s)[0] for p in learner.framing.render([query], (), RNG(0))[0] for s in texts(p.input_ids)[2:]}
    assert shown == {rows[i].texts[0] for i in goods[:2]}


def test_the_vectors_of_a_named_encoder_stay_when_training_is_over(tmp_path: Path) -> None:
    """So that rows are neither embedded nor evaluated again: nothing about what is alike has changed."""
    value = Demonstrations(CLOZE, contexts=2, encoder=str(save_tiny("roberta", tmp_path / "encoder", seed=5)))
    quick = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 1e-2}
    learner = Train(framing=value, **quick).run(tiny_backbone("bert"), tiny_task(), Seeds.of(0))
    assert learner.framing._vectors is not None and learner.record["stage"]["best_kept"] and "finished" not in learner.record["stage"]


def test_while_the_model_is_trained_the_first_one_says_what_is_alike() -> None:
    seen: list[DemonstrationsModule] = []
    stage = Train(framing=Demonstrations(CLOZE, contexts=2), max_steps=6, eval_strategy="steps", eval_steps=3, learning_rate=1e-2)
    original = DemonstrationsModule.finish

    def finish(self: DemonstrationsModule, learner: Learner, *rest: Any) -> None:
        seen.append(self)
        assert self._first and not any(p.requires_grad for p in self._first[0].parameters())
        fresh, trained = tiny_backbone("bert").embeddings.weight, learner.backbone.embeddings.weight
        assert torch.equal(self._first[0].embeddings.weight, fresh) and not torch.equal(trained, fresh)  # type: ignore[arg-type]
        original(self, learner, *rest)

    DemonstrationsModule.finish = finish  # type: ignore[method-assign]
    try:
        learner = stage.run(tiny_backbone("bert"), tiny_task(), Seeds.of(0))
    finally:
        DemonstrationsModule.finish = original  # type: ignore[method-assign]
    assert seen and not seen[0]._first
    assert not any("_first" in name for name in learner.state_dict())


@pytest.mark.parametrize("split_at", [None, 1.0])
def test_values_are_shown_by_their_pole(split_at: float | None) -> None:
    task = tiny_task(kind="regression")
    value = Demonstrations(Cloze("{text} it was {mask}", words={"low": "bad", "high": "good"}), filter=None, split=split_at, contexts=3)
    learner = prepared(value, task)
    cut = split_at if split_at is not None else float(np.median([e.label for e in task.train.examples]))
    values = {e.texts[0]: e.label for e in task.train.examples}
    dev = task.dev.examples
    rendered = learner.framing.render(dev, (), RNG(0))
    for found in rendered:
        for prompt in found:
            low, high = (split(s) for s in texts(prompt.input_ids)[1:])
            assert (low[1], high[1]) == ("bad", "good") and values[low[0]] <= cut < values[high[0]]
    each = [[p.label for p in learner.framing.decode(learner.score(found))] for found in rendered]
    assert np.allclose([p.label for p in learner.predictions(dev)], np.mean(each, 1), atol=1e-5)


def test_a_median_that_is_the_largest_value_still_parts_the_rows() -> None:
    rows = [Example((f"{w} film",), v) for w, v in zip(POSITIVE[:6], (5.0, 5.0, 5.0, 5.0, 1.0, 2.0), strict=True)]
    task = dataclasses.replace(tiny_task(kind="regression"), train=dataclasses.replace(tiny_task().train, examples=tuple(rows)))
    framing = prepared(Demonstrations(Cloze("{text} {mask}", words=("bad", "good")), filter=None), task).framing
    assert framing._pool.classes == [1, 1, 1, 1, 0, 0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=6, max_size=6), st.sampled_from(["longest", "tail", "head", "balanced"]), st.booleans())
def test_however_long_the_texts_are(lengths: list[int], how: Any, before: bool) -> None:
    """Texts up to ten times the limit: one mask, every example whole with its label, nothing longer than the model reads."""
    rng = random.Random(str(lengths))
    rows = [Example((" ".join([f"w{i}", *rng.choices(WORDS[:9], k=n)]),), ("bad", "good")[i % 2], i + 1) for i, n in enumerate(lengths)]
    task = dataclasses.replace(tiny_task(), train=dataclasses.replace(tiny_task().train, examples=tuple(rows)))
    place: Any = "before" if before else "after"
    cloze = dataclasses.replace(CLOZE, truncation=how)
    framing = Demonstrations(cloze, filter=None, place=place, floor=3).build(task, BACKBONE)
    framing._show(rows[:5])
    (prompt,) = framing.render(rows[5:], rows, RNG(0))[0]
    ids = list(prompt.input_ids)
    assert len(ids) <= 64 and ids.count(ROLE["mask"]) == 1 == len(prompt.extra.masks) and ids[prompt.extra.masks[0]] == ROLE["mask"]
    parts = texts(ids)
    shown = [p for p in parts if not p.endswith("[MASK]")]
    assert len(parts) == len(shown) + 1 and all(p.rpartition("it was ")[2] in ("bad", "good") for p in shown)
    if place == "after":
        assert len(shown) in (0, 2)


BACKBONE = tiny_backbone("bert")


def test_so_many_of_any_class_before_the_query() -> None:
    """The in-context form of the paper: untrained, one context, cut at the head."""
    value = Demonstrations(CLOZE, shots=20, contexts=1, filter=None, place="before")
    learner = prepared(value)
    for (prompt,), query in zip(learner.framing.render(tiny_task().dev.examples, (), RNG(0)), tiny_task().dev.examples, strict=True):
        *shown, last = texts(prompt.input_ids)
        assert last == f"{query.texts[0]} it was [MASK]" and 2 <= len(shown) < 20 and prompt.extra.cut
        assert all(split(s)[1] in ("bad", "good") for s in shown)
    few = Demonstrations(CLOZE, shots=3, contexts=1, filter=None)
    (prompt,) = prepared(few).framing.render(tiny_task().dev.examples[:1], (), RNG(0))[0]
    assert len(texts(prompt.input_ids)) == 4


def test_a_reload_shows_the_same_examples(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "base")
    stage = Train(framing=Demonstrations(CLOZE, contexts=2), max_steps=4, eval_strategy="no", learning_rate=1e-3)
    learner = stage.run(Backbone.load(str(folder)), tiny_task(), Seeds.of(0))
    learner.save_pretrained(tmp_path / "model")
    back = tempering.load(tmp_path / "model")
    dev = tiny_task().dev.examples
    assert back.predictions(dev) == learner.predictions(dev)
    theirs, mine = (m.framing.render(dev, (), RNG(0)) for m in (back, learner))
    assert [[list(p.input_ids) for p in found] for found in theirs] == [[list(p.input_ids) for p in found] for found in mine]
    assert [e[1] for e in back.framing.keep()["support"]] == [e.label for e in tiny_task().train.examples]


def test_the_label_words_a_verbalizer_chose_are_shown() -> None:
    framing = prepared(Demonstrations(CLOZE, filter=None)).framing
    framing.cloze.verbalizer.table = (((VOCAB.index("sad"),),), ((VOCAB.index("happy"),),))
    (prompt,) = framing.render(tiny_task().dev.examples[:1], (), RNG(0))[0][:1]
    assert [split(s)[1] for s in texts(prompt.input_ids)[1:]] == ["sad", "happy"]


@pytest.mark.parametrize("around", [lambda v: v, lambda v: Calibrated(v, by="support"), ProtoVerb], ids=["bare", "calibrated", "proto"])
def test_words_are_chosen_by_the_cloze_alone_and_then_shown(around: Any) -> None:
    """A search under prompts that already answer would see the stand-ins; and what is shown is what is read at the mask."""
    cloze, task = dataclasses.replace(CLOZE, verbalizer=around(AutoWords(k=8)), words=()), tiny_task(16)
    alone = Use(cloze).run(tiny_speaker("bert"), task, Seeds.of(0)).framing.verbalizer
    framing = prepared(Demonstrations(cloze, filter=None, contexts=3), task).framing
    theirs, mine = (v if isinstance(v, AutoWordsModule) else v.inner for v in (alone, framing.cloze.verbalizer))
    (bad,), (good,) = mine.words.values()
    assert mine.words == theirs.words and mine.found == theirs.found and (bad, good) != ("bad", "good")
    for prompt in framing.render(task.dev.examples[:1], (), RNG(0))[0]:
        assert [split(s)[1] for s in texts(prompt.input_ids)[1:]] == [bad, good]


def wordy(count: int) -> Any:
    rows = [Example((" ".join([w] * count),), ("bad", "good")[i % 2], i + 1) for i, w in enumerate(WORDS[:12])]
    return dataclasses.replace(tiny_task(), train=dataclasses.replace(tiny_task().train, examples=tuple(rows)))


@pytest.mark.parametrize(
    ("value", "task", "expected"),
    [
        (
            Demonstrations(CLOZE, max_length=14),
            tiny_task(),
            "8 tokens and one example of each class, down to floor 8, takes 19, and 12 fit",
        ),
        (Demonstrations(CLOZE), wordy(41), "44 tokens and one example of each class, down to floor 8, takes 24, and 62 fit"),
        (Demonstrations(CLOZE, place="before", shots=3), wordy(41), "44 tokens and the shortest example takes 45, and 62 fit"),
    ],
)
def test_examples_that_can_never_be_shown_are_refused(value: Demonstrations, task: Any, expected: str) -> None:
    with pytest.raises(RecipeError, match=rf"demonstrations: in template '\{{text\}} it was \{{mask\}}' .*{expected}.*framing.max_length"):
        prepared(value, task)


def test_how_many_queries_lose_examples_is_told() -> None:
    rows = [*tiny_task().train.examples[:18], *wordy(45).train.examples[:6]]
    task = dataclasses.replace(tiny_task(), train=dataclasses.replace(tiny_task().train, examples=tuple(rows)))
    learner = prepared(Demonstrations(CLOZE, filter=None), task)
    (told,) = [note for note in learner.framing.notes if "no room" in note]
    bare = sum(len(texts(p.input_ids)) == 1 for (p,) in learner.framing.render(rows, rows, RNG(0)))
    assert bare == 6 and told.startswith("6 of 24 training rows (25%) have no room for all their examples, 6 of them for a single one")
    assert "shorter (framing.framing.max_length, a smaller framing.floor), or the prompt longer (framing.max_length)" in told
    assert not any("no room" in note for note in prepared(Demonstrations(CLOZE, filter=None)).framing.notes)


@pytest.mark.parametrize(("given", "template", "expected"), [(None, "lm-bff/snli", 4), (None, "lm-bff/sst2", 16), (7, "lm-bff/snli", 7)])
def test_as_many_contexts_as_the_setting_says(given: int | None, template: str, expected: int) -> None:
    named = Demonstrations(Cloze(template, words=("bad", "good")), contexts=given, filter=None)
    assert named.sets == expected and Demonstrations(CLOZE).sets == 16
    more = ("the room",) if template == "lm-bff/snli" else ()
    rows = tuple(dataclasses.replace(e, texts=(*e.texts, *more)) for e in tiny_task().train)
    task = dataclasses.replace(tiny_task(), train=dataclasses.replace(tiny_task().train, examples=rows))
    assert len(prepared(named, task).framing.render([Example(("a day", *more))], (), RNG(0))[0]) == expected


def test_what_cannot_work_is_refused() -> None:
    lone = dataclasses.replace(tiny_task().train, examples=(*tiny_task().train.examples[:8:2], tiny_task().train.examples[1]))
    with pytest.raises(DataError, match=r"class 'good' has 1 training rows, and each query shows 1 others; give more rows"):
        prepared(Demonstrations(CLOZE), dataclasses.replace(tiny_task(), train=lone))
    with pytest.raises(ModelError, match="demonstrations cannot serve tiny-gpt2.*use framing in_context"):
        Demonstrations(CLOZE).build(tiny_task(), tiny_backbone("gpt2"))
    with pytest.raises(RecipeError, match="trained vectors.*add the tuning prompt_tuning"):
        Demonstrations(Cloze("{text} {soft} {mask}")).build(tiny_task(), tiny_backbone("bert"))
    with pytest.raises(RecipeError, match="encoder 'minilm' is for the filter"):
        Demonstrations(CLOZE, filter=None, encoder="minilm").build(tiny_task(), tiny_backbone("bert"))
    with pytest.raises(ValidationError, match="expected a cloze"):
        Demonstrations(Head())
    with pytest.raises(RecipeError, match="its own tokens are 3, and 2 fit"):
        Demonstrations(CLOZE, max_length=4).build(tiny_task(), tiny_backbone("bert"))
    with pytest.raises(RecipeError, match="no examples to show"):
        Demonstrations(CLOZE).build(tiny_task(), tiny_backbone("bert")).render(tiny_task().dev.examples, (), RNG(0))


def test_as_a_recipe() -> None:
    value = Demonstrations(Cloze("lm-bff/sst2", words={"bad": "bad"}), per_class=2, encoder="minilm")
    recipe = Recipe("r", (Train(framing=value),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Train(framing=value).why_not_cached.startswith("tuning full")
    assert "drawn anew" in Train(framing=value, tuning=Frozen()).why_not_cached
    with pytest.raises(RecipeError, match="framing demonstrations has no weights of its own"):
        Recipe("r", (Train(framing=value, tuning=Frozen()),)).check()
    shipped = Recipe.load("lm-bff")
    assert shipped.stages[0].framing == Demonstrations() and shipped.stages[0].max_steps == 1000


def test_several_templates_multiply_the_contexts() -> None:
    both = Cloze(("{text} it was {mask}", "{mask} is {text}"), words=("bad", "good"))
    framing, task = prepared(Demonstrations(both, contexts=3, filter=None)).framing, tiny_task()
    found = framing.render(task.dev.examples, (), RNG(0))
    assert [len(prompts) for prompts in found] == [6] * len(found)
    first = [[texts(p.input_ids)[0].endswith("it was [MASK]") for p in prompts] for prompts in found]
    assert first == [[True] * 3 + [False] * 3] * len(found)
    rows = task.train.examples
    drawn = framing.render(rows, rows, RNG(0))
    assert {len(prompts) for prompts in drawn} == {1} and len({p.extra.masks[0] == 1 for (p,) in drawn}) == 2


def test_smoothing_reaches_the_cloze() -> None:
    stage = Train(framing=Demonstrations(CLOZE, contexts=1, filter=None), label_smoothing_factor=0.2, max_steps=1, eval_strategy="no")
    learner = stage.run(tiny_backbone("bert"), tiny_task(), Seeds.of(0), around=Surroundings())
    assert learner.framing.smoothing == learner.framing.cloze.smoothing == 0.2
    slab = SimpleNamespace(only=learner.score(learner.framing.render(tiny_task().dev.examples, (), RNG(0))[0]).only)
    learner.framing.train()
    smooth = learner.framing.loss(slab, None)
    learner.framing.eval()
    assert abs(float(smooth) - float(learner.framing.loss(slab, None))) > 1e-6


def test_it_learns() -> None:
    assert set(POSITIVE) & set(NEGATIVE) == set()
    stage = Train(framing=Demonstrations(CLOZE, contexts=2, filter=None), learning_rate=3e-3, max_steps=60, eval_strategy="no")
    task = tiny_task(32)
    learner = stage.run(tiny_backbone("modernbert"), task, Seeds.of(0))
    dev = task.dev.examples
    right = [p.label == e.label for p, e in zip(learner.predictions(dev), dev, strict=True)]
    assert np.mean(right) >= 0.8
