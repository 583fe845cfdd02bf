"""Extractive question answering: positions, windows over long contexts, the best span, no answer, folders that other libraries load."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds, Span
from tempering.errors import RecipeError
from tempering.framings.head import Head
from tempering.framings.span_head import MASKED, SpanHead, SpanHeadModule
from tempering.framings.spans.questions import NOWHERE, Stretch, candidates
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.tasks import Task
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tests.laws.bench import stage_of
from tests.laws.settings import live
from tests.tiny import FAMILIES, NEGATIVE, POSITIVE, WORDS, save_tiny, tiny_backbone, tiny_examples, tiny_task

SEEDS = Seeds.of(0)
RNG = np.random.default_rng(0)
QUICK = Train(max_steps=3, per_device_train_batch_size=8, learning_rate=1e-2, load_best_model_at_end=False)


def module(value: SpanHead, family: str = "bert", task: Any = None) -> tuple[SpanHeadModule, Backbone]:
    backbone = tiny_backbone(family)
    built = value.build(task or tiny_task(8, "question_answering"), backbone)
    return built.eval(), backbone


def asked(context: str, answer: str = "", question: str = "is it good") -> Example:
    return Example((question, context), ((f" {context} ".index(f" {answer} "), answer),) if answer else ())


def silent_task(rows: int = 60) -> Task:
    """Every third context has no word of the tone that is asked for."""
    rng = np.random.default_rng(1)
    made = []
    for i in range(rows):
        words = [str(w) for w in rng.choice(WORDS, 6)]
        tone, at = POSITIVE if i % 2 else NEGATIVE, int(rng.integers(6))
        answer = "" if i % 3 == 0 else str(rng.choice(tone))
        words[at] = answer or words[at]
        made.append(asked(" ".join(words), answer, "good" if i % 2 else "bad"))
    return Task.from_examples(made[: rows * 2 // 3], dev=made[rows * 2 // 3 :])


# --- prompts -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_the_pair_of_the_tokenizer(family: str) -> None:
    built, backbone = module(SpanHead(), family)
    ((prompt,),) = built.render([asked("the film was lovely not dull", "lovely")], (), RNG)
    pair = backbone.tokenizer("is it good", "the film was lovely not dull", return_token_type_ids=family == "bert")
    assert list(prompt.input_ids) == pair["input_ids"]
    if family == "bert":
        assert list(prompt.token_type_ids) == pair["token_type_ids"]
    stretch: Stretch = prompt.extra
    first, last = prompt.target
    found = stretch.offsets[first - stretch.shift][0], stretch.offsets[last - stretch.shift][1]
    assert "the film was lovely not dull"[found[0] : found[1]].strip() == "lovely"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(WORDS[:8]), min_size=1, max_size=70), st.integers(16, 40), st.integers(0, 6), st.data())
def test_every_token_of_the_context_is_in_a_window_and_answers_keep_their_place(
    words: list[str], length: int, stride: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(words) - 1))
    context = " ".join([*words[:at], "lovely", *words[at:]])
    built = _built(length, stride)
    example = Example(("is it good", context), ((context.index("lovely"), "lovely"),))
    (prompts,) = built.render([example], (), RNG)
    assert all(len(p.input_ids) <= length for p in prompts)
    places = {tuple(place) for p in prompts for place in p.extra.offsets.tolist()}
    assert {context[a:b] for a, b in places} == set(context.split()) and len(places) == len(words) + 1
    holding = [p for p in prompts if p.target != (NOWHERE, NOWHERE)]
    assert holding
    for p in holding:
        first, last = (place - p.extra.shift for place in p.target)
        assert context[p.extra.offsets[first][0] : p.extra.offsets[last][1]] == "lovely"
    others = [p for p in prompts if p.target == (NOWHERE, NOWHERE)]
    assert all("lovely" not in {context[a:b] for a, b in p.extra.offsets.tolist()} for p in others)


_MADE: dict[tuple[int, int], SpanHeadModule] = {}


def _built(length: int, stride: int) -> SpanHeadModule:
    if (length, stride) not in _MADE:
        _MADE[length, stride] = module(SpanHead(max_length=length, stride=stride))[0]
    return _MADE[length, stride]


def test_a_long_question_leaves_room_for_the_context() -> None:
    built, _ = module(SpanHead(max_length=20))
    ((prompt, *_),) = built.render([asked("the film was lovely", "lovely", "is it " * 30)], (), RNG)
    assert len(prompt.input_ids) <= 20 and len(prompt.extra.offsets) >= 1


# --- scores --------------------------------------------------------------------------------------------------------------------------


def test_only_the_context_and_the_first_token_can_answer() -> None:
    built, backbone = module(SpanHead(heads=2))
    rows = [asked("the film was lovely", "lovely"), asked("bad", "")]
    batch = built.collate([p for found in built.render(rows, (), RNG) for p in found], RNG)
    slab = built.scores(backbone, batch).only
    assert slab.logits.shape == (2, 4, built.length) and slab.sizes is not None and slab.sizes.tolist() == [2, 2]
    open_ = (slab.logits[0] != MASKED).int().sum(-1).tolist()
    assert open_ == [5, 5, 2, 2]  # [CLS] and the words
    assert batch.targets is not None and batch.targets.tolist()[2:] == [NOWHERE, NOWHERE]
    logs = slab.logits.log_softmax(-1)
    by_hand = -torch.stack([logs[h, i, t] for h in range(2) for i, t in enumerate(batch.targets.tolist())]).mean()
    assert torch.allclose(built.loss(built.scores(backbone, batch), batch), by_hand, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_stretches_are_those_of_trying_all(seed: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = 7
    offsets = np.array([[3 * i, 3 * i + 2] for i in range(tokens)], dtype=np.int32)
    logits = rng.normal(size=(2, 12))
    found = candidates(logits, Stretch(4, offsets), longest, 5)
    tried = [
        (logits[0, 4 + i] + logits[1, 4 + j], 3 * i, 3 * j + 2)
        for i, j in itertools.product(range(tokens), repeat=2)
        if i <= j < i + longest
    ]
    assert [tuple(c) for c in found] == [pytest.approx(t) for t in sorted(tried, reverse=True)[:5]]


def test_without_a_context_there_is_no_answer() -> None:
    built, backbone = module(SpanHead())
    prediction = Learner(backbone, built, Full()).predictions([Example(("is it good", ""))])[0]
    assert prediction.label == "" and prediction.spans == () and prediction.probabilities == {"": 1.0}


def steered(built: SpanHeadModule, monkeypatch: pytest.MonkeyPatch, scores: dict[int, float]) -> None:
    """A body whose hidden states are, in their first entry, what ``scores`` says of each token id."""

    def encode(_self: Any, inputs: dict[str, torch.Tensor]) -> Any:
        said = torch.tensor([[scores.get(int(i), -2.0) for i in row] for row in inputs["input_ids"]])
        return type("E", (), {"last": torch.nn.functional.pad(said.unsqueeze(-1), (0, 31))})()

    monkeypatch.setattr(Backbone, "encode", encode)
    with torch.no_grad():
        built.readout.final.bias.zero_()
        built.readout.final.weight.zero_()[:, 0] = 1.0


def test_the_answer_is_found_in_whatever_window(monkeypatch: pytest.MonkeyPatch) -> None:
    built, backbone = module(SpanHead(max_length=18, stride=3))
    token = backbone.tokenizer.convert_tokens_to_ids
    steered(built, monkeypatch, {token("lovely"): 5.0, token("warm"): 4.0})
    context = " ".join(["the film"] * 6 + ["lovely"] + ["was a"] * 8 + ["warm"])
    (prompts,) = built.render([Example(("is it good", context))], (), RNG)
    (prediction,) = Learner(backbone, built, Full()).predictions([Example(("is it good", context))])
    assert len(prompts) > 2 and prediction.label == "lovely"
    (span,) = prediction.spans
    assert (span.start, span.end, span.label) == (context.index("lovely"), context.index("lovely") + 6, "answer")
    assert list(prediction.probabilities)[:2] == ["lovely", "warm"] and sum(prediction.probabilities.values()) == pytest.approx(1)
    ratio = prediction.probabilities["lovely"] / prediction.probabilities["warm"]
    assert ratio == pytest.approx(np.exp(2 * (5.0 - 4.0)))


@pytest.mark.parametrize("context", ["the film was lovely", "a lovely film", "lovely", "it  is  lovely  but \t dull"])
def test_an_answer_has_no_white_space_around_it_whatever_the_tokens_hold(context: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone("llama", spaced=True)
    built = SpanHead().build(tiny_task(8, "question_answering"), backbone).eval()
    gold = asked(context, "lovely")
    blanks = backbone.tokenizer("a  b", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert blanks == [(0, 1), (1, 2), (2, 4)]
    ((prompt,),) = built.render([gold], (), RNG)
    assert [context[a:b] for a, b in prompt.extra.offsets.tolist() if a < b] == context.split()
    assert prompt.target[0] == prompt.target[1]
    token = backbone.tokenizer.convert_tokens_to_ids
    steered(built, monkeypatch, {token("\u2581lovely"): 5.0, token("[UNK]"): 9.0})
    (prediction,) = Learner(backbone, built, Full()).predictions([gold])
    (span,) = prediction.spans
    assert context[span.start : span.end] == prediction.label == gold.label[0][1]
    assert all(answer == answer.strip() for answer in prediction.probabilities)


@pytest.mark.parametrize(("threshold", "label"), [(float("inf"), "lovely"), (3.9, ""), (4.1, "lovely")])
def test_no_answer_must_exceed_the_best_answer_by_the_threshold(threshold: float, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built, backbone = module(SpanHead(max_length=18, stride=3))
    token = backbone.tokenizer.convert_tokens_to_ids
    steered(built, monkeypatch, {token("lovely"): 1.0, token("[CLS]"): 3.0})
    built.get_buffer("threshold").fill_(threshold)
    (prediction,) = Learner(backbone, built, Full()).predictions([Example(("is it good", "a lovely film"))])
    assert prediction.label == label and bool(prediction.spans) == bool(label)
    assert ("" in prediction.probabilities) == (threshold < float("inf"))


def test_whether_there_may_be_no_answer_is_seen_from_the_rows() -> None:
    assert float(module(SpanHead())[0].get_buffer("threshold")) == float("inf")
    assert float(module(SpanHead(), task=silent_task())[0].get_buffer("threshold")) == 0.0


# --- training and folders ------------------------------------------------------------------------------------------------------------


def test_it_learns_where_answers_are() -> None:
    stage = Train(framing=SpanHead(), learning_rate=2e-3, num_train_epochs=6, per_device_train_batch_size=8)
    learner = stage.run(tiny_backbone(), tiny_task(160, "question_answering"), SEEDS)
    assert learner.record["stage"]["history"][-1]["f1"] > 0.75
    assert learner.predict([("is it good", "the room was not warm")]) == ["warm"]


def test_a_threshold_is_chosen_on_dev_and_comes_back(tmp_path: Path) -> None:
    task = silent_task()
    backbone = Backbone.load(str(save_tiny("bert", tmp_path / "base")))
    learner = tempering.fit(Recipe("r", (dataclasses.replace(QUICK, framing=SpanHead(), max_steps=40),)), task, backbone)
    chosen, rows = float(learner.framing.threshold), task.dev.examples if task.dev is not None else ()
    assert np.isfinite(chosen)
    found = learner.record["metrics"]["dev"]
    evaluator = tempering.fitting.evaluator_of(learner, task, task.dev) if task.dev is not None else None
    assert evaluator is not None and evaluator(learner)[0]["f1"] == found["f1"]  # that of the threshold as it was saved
    learner.framing.threshold.fill_(0.0)
    assert evaluator(learner)[0]["f1"] <= found["f1"]
    learner.framing.threshold.fill_(1.25)
    learner.save_pretrained(tmp_path / "out")
    back = tempering.load(tmp_path / "out")
    assert float(back.framing.threshold) == 1.25 and back.predictions(rows) == learner.predictions(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family_loads_elsewhere(family: str, tmp_path: Path) -> None:
    backbone = Backbone.load(str(save_tiny(family, tmp_path / "base")))
    learner = dataclasses.replace(QUICK, framing=SpanHead(heads=2)).run(backbone, tiny_task(8, "question_answering"), SEEDS)
    learner.save_pretrained(tmp_path / "out")
    rows = tiny_examples(4, "question_answering", seed=3)
    assert tempering.load(tmp_path / "out").predictions(rows) == learner.predictions(rows)
    if backbone.layout.spans is not None:
        from transformers import AutoModelForQuestionAnswering

        assert AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").config.num_labels == 2


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_lora_comes_back(family: str, tmp_path: Path) -> None:
    backbone = Backbone.load(str(save_tiny(family, tmp_path / "base")))
    backbone.base_fingerprint = backbone.fingerprint()
    learner = dataclasses.replace(QUICK, framing=SpanHead(), tuning=LoRA(r=2)).run(backbone, tiny_task(8, "question_answering"), SEEDS)
    learner.save_pretrained(tmp_path / "out")
    kind = None if backbone.layout.spans is not None else "FEATURE_EXTRACTION"
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["task_type"] == kind
    rows = tiny_examples(4, "question_answering", seed=3)
    assert tempering.load(tmp_path / "out").predictions(rows) == learner.predictions(rows)


@pytest.mark.parametrize("name", live("stabilizer"))
def test_every_stabilizer_steadies_it_or_says_why_not(name: str) -> None:
    stage = stage_of(framing=SpanHead(max_length=20, stride=3), stabilizers=(live("stabilizer")[name],), stage=QUICK)
    if name in ("supcon", "mmr"):  # they bring rows of one class together, and positions are no classes
        with pytest.raises(RecipeError, match=f"{name} .*drop it"):
            stage.run(tiny_backbone(), tiny_task(8, "question_answering"), SEEDS)
        return
    loss = stage.run(tiny_backbone(), tiny_task(8, "question_answering"), SEEDS).record["stage"]["history"][-1]["loss"]
    assert np.isfinite(loss) and loss < 100


def test_the_plain_head_stands_for_this_one() -> None:
    stage = dataclasses.replace(QUICK, framing=Head(max_length=30))
    learner = stage.run(tiny_backbone(), tiny_task(8, "question_answering"), SEEDS)
    assert learner.record["framing"] == SpanHead(max_length=30)


def test_refusals() -> None:
    with pytest.raises(RecipeError, match="span_head cannot serve a task of kind 'classification'"):
        SpanHead().build(tiny_task(8), tiny_backbone())
    with pytest.raises(RecipeError, match="max_length=9 leaves no room for a question and its context"):
        module(SpanHead(max_length=9))
    smoothed = dataclasses.replace(QUICK, framing=SpanHead(), label_smoothing_factor=0.1)
    with pytest.raises(RecipeError, match="label_smoothing_factor 0.1 spreads targets over classes, and framing span_head"):
        smoothed.run(tiny_backbone(), tiny_task(8, "question_answering"), SEEDS)


def test_a_span_is_a_plain_value() -> None:
    assert Span(0, 3, "answer")._asdict() == {"start": 0, "end": 3, "label": "answer", "probability": 1.0}
