"""Parts of a text between marks: what is read, what is taken out, what is refused; and the recipes that live on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import tempering
from tempering.contracts import Example, Seeds
from tempering.errors import DataError, RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.templates.marks import normal_marks, read_marks
from tempering.framings.verbalizers.calibrated import Calibrated
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stages.use import Use
from tempering.tasks import Task
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import NEGATIVE, POSITIVE, tiny_backbone, tiny_speaker, tiny_task

TWO = normal_marks({"subject": ["<<", ">>"], "object": ["[[", "]]"]})
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("text", "bare", "subject", "object_"),
    [
        ("the << Ang II >>-induced increase; [[ valsartan ]], 51%", "the Ang II-induced increase; valsartan, 51%", "Ang II", "valsartan"),
        ("[[b]] then <<a>>", "b then a", "a", "b"),
        ("<< a [[ b ]] c >> d", "a b c d", "a b c", "b"),
        ("<<a>> [[b]] and <<c>>", "a b and <<c>>", "a", "b"),
    ],
)
def test_what_stands_between_marks_is_a_field(text: str, bare: str, subject: str, object_: str) -> None:
    found = read_marks([text], TWO, 1)
    assert found.texts == (bare,) and found.values == {"subject": subject, "object": object_}


@given(*[st.text("ab .", max_size=9)] * 3, *[st.text("ab ", min_size=1, max_size=6).filter(str.strip)] * 2)
def test_a_text_is_what_it_is_without_its_marks(before: str, between: str, after: str, a: str, b: str) -> None:
    a, b = a.strip(), b.strip()
    found = read_marks(["other", f"{before}<< {a}>>{between}[[{b} ]]{after}"], TWO, 1)
    assert found.texts == ("other", f"{before}{a}{between}{b}{after}") and found.values == {"subject": a, "object": b}


@pytest.mark.parametrize("text", ["a b", "<<a>> b", "<<a [[b]]", ">>a<< [[b]]", "<< >> [[b]]", ""])
def test_a_mark_that_is_not_there_is_told_with_the_row(text: str) -> None:
    with pytest.raises(DataError, match=r"row 7: expected (subject|object) between .* in its text, found .*; mark it there, or say how"):
        read_marks([text], TWO, 7)


@pytest.mark.parametrize(
    "given", ["<e1>", {"subject": "<e1>"}, {"subject": ["<e1>"]}, {"subject": ["<e1>", " "]}, {"a b": ["<", ">"]}, {"text": ["<", ">"]}]
)
def test_marks_that_mean_nothing_are_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="marks"):
        Cloze(marks=given)


def test_a_template_reads_marked_parts_and_the_bare_text() -> None:
    backbone = tiny_backbone("bert")
    value = Cloze("{text} but {subject:keep} is {mask}", words=("bad", "good"), marks={"subject": ["<<", ">>"]})
    built = value.build(tiny_task(8), backbone)
    ((prompt,),) = built.render([Example(("the << very good >> film",), None, 1)], (), RNG)
    assert backbone.tokenizer.decode(prompt.input_ids) == "[CLS] the very good film but very good is [MASK] [SEP]"
    assert "subject" in built.trunk_key()
    recipe = Recipe("r", (tempering.Train(framing=value),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe and "subject:" in recipe.to_yaml()
    with pytest.raises(RecipeError, match="unknown field 'object'; did you mean 'subject'"):
        Cloze("{text} {object} {mask}", words=("bad", "good"), marks={"subject": ["<<", ">>"]}).build(tiny_task(8), backbone)


# --- PTR: a relation of two marked entities ------------------------------------------------------------------------------------------

RELATIONS = {
    "likes": ("film", "is", "a", "good", "book"),
    "hates": ("film", "is", "a", "bad", "meal"),
    "none": ("day", "was", "it", "not", "day"),
}
SETTINGS = {"framing.words": RELATIONS, "learning_rate": 3e-3, "max_steps": 40, "eval_strategy": "no", "load_best_model_at_end": False}


def related(n: int) -> list[Example]:
    """The word between the two entities says how they are related."""
    found = []
    for i in range(n):
        tone = ("likes", "hates", "none")[i % 3]
        word = {"likes": POSITIVE[i % 8], "hates": NEGATIVE[i % 8], "none": "but"}[tone]
        found.append(Example((f"the <e1> w{i % 20} </e1> {word} <e2> w{40 + i % 30} </e2> and this",), tone, i + 1))
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    save_masked_lm("bert", folder)
    return str(folder)


@pytest.fixture(scope="module")
def ptr(base: str) -> Learner:
    task = Task.from_examples(related(36), dev=related(6), kind="classification")
    return tempering.fit(Recipe.load("ptr").override(SETTINGS), task, model=base)


def test_ptr_asks_of_both_entities_and_of_what_joins_them(ptr: Learner) -> None:
    ((prompt,),) = ptr.framing.render(related(1), (), RNG)
    said = ptr.backbone.tokenizer.decode([t for i, t in enumerate(prompt.input_ids) if i not in prompt.extra.soft])
    assert said == "[CLS] the w0 good w40 and this [MASK] w0 [MASK] [MASK] [MASK] [MASK] w40 [SEP]"
    assert len(prompt.extra.masks) == 5 and len(prompt.extra.soft) == 2 and ptr.framing.soft.table.shape == (2, 32)


def test_ptr_learns_relations_and_loads_again(ptr: Learner, tmp_path: Path) -> None:
    rows = related(36)
    assert np.mean([p.label == e.label for p, e in zip(ptr.predictions(rows), rows, strict=True)]) > 0.8
    ptr.save_pretrained(tmp_path / "out")
    back = tempering.load(tmp_path / "out")
    assert back.predictions(rows) == ptr.predictions(rows)
    with pytest.raises(DataError, match="row 3: expected object between '<e2>' and '</e2>'"):
        back.predictions([Example(("the <e1> film </e1> was good",), None, 3)])


def test_ptr_without_words_says_how_many(base: str) -> None:
    task = Task.from_examples(related(9), kind="classification")
    with pytest.raises(RecipeError, match=r"has 5 masks, and no words are given; give each class its 5 words.*\{hates: \[word1, word2"):
        tempering.fit(Recipe.load("ptr"), task, model=base)


def test_ptr_refuses_rows_without_two_entities(base: str) -> None:
    task = Task.from_examples([Example(("good film",), label, 1 + i) for i, label in enumerate(RELATIONS)], kind="classification")
    with pytest.raises(DataError, match="row 1: expected subject between '<e1>' and '</e1>' in its text, found 'good film'"):
        tempering.fit(Recipe.load("ptr").override(SETTINGS), task, model=base)


@pytest.mark.parametrize("demonstrations", [False, True])
def test_calibration_puts_its_inputs_into_marked_fields_too(demonstrations: bool) -> None:
    cloze = Cloze(
        "{text} {subject} is {mask} not {object}",
        Calibrated(inputs=("film", "")),
        words=dict(zip(RELATIONS, ("bad", "good", "sad"), strict=True)),
        marks={"subject": ["<e1>", "</e1>"], "object": ["<e2>", "</e2>"]},
    )
    task = Task.from_examples(related(12), kind="classification")
    framing = Demonstrations(cloze, filter=None, contexts=1) if demonstrations else cloze
    learner = Use(framing).run(tiny_speaker("bert"), task, Seeds.of(0))
    module = learner.framing.cloze if demonstrations else learner.framing
    verbalizer = module.verbalizer
    assert bool(verbalizer.log_prior.any())
    asked = [module.text.coder.tokenizer.decode(laid.ids) for laid in module.text.encode(verbalizer._asked(task.train.examples, RNG))]
    assert asked == ["[CLS] film film is [MASK] not film [SEP]", "[CLS] is [MASK] not [SEP]"]


# --- the type of a mention -----------------------------------------------------------------------------------------------------------


def test_entity_typing_reads_the_mention_from_a_second_column(base: str, tmp_path: Path) -> None:
    lines = ["context,mention,type"]
    for i in range(24):
        tone, mention = (("tone_good", POSITIVE[i % 8]), ("bad", NEGATIVE[i % 8]))[i % 2]
        lines.append(f"the {mention} film and the w{i} story was this,{mention},{tone}")
    (tmp_path / "typing.csv").write_text("\n".join(lines))
    task = Task.from_file(tmp_path / "typing.csv", text="context", text_pair="mention", label="type")
    settings = {"framing.words": {"tone_good": "very fine"}} | {
        "learning_rate": 3e-3,
        "min_steps": 40,
        "num_train_epochs": 1,
        "eval_strategy": "no",
    }
    with pytest.raises(RecipeError, match="class 'bad' has no label word"):
        tempering.fit(Recipe.load("entity-typing").override(settings), task, model=base)
    settings["framing.words"] = {"tone_good": "very fine", "bad": "bad"}
    learner = tempering.fit(Recipe.load("entity-typing").override(settings), task, model=base)
    ((prompt,),) = learner.framing.render(task.train.examples[:1], (), RNG)
    said = learner.backbone.tokenizer.decode(prompt.input_ids)
    assert said.endswith(f"{task.train[0].texts[1]} is a [MASK] [UNK] [SEP]")  # the tiny vocabulary has no full stop
    rows = task.train.examples
    assert np.mean([p.label == e.label for p, e in zip(learner.predictions(rows), rows, strict=True)]) > 0.8
    long = Example((" ".join(["film"] * 200), "very good day"), None, 1)
    ((cut,),) = learner.framing.render([long], (), RNG)
    assert len(cut.input_ids) == 64 and "very good day is a [MASK]" in learner.backbone.tokenizer.decode(cut.input_ids)
