"""Prompts as strings: slots, answers, words, and the published formats."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.errors import RecipeError
from tempering.framings.asked.prompt_text import FORMATS, Pattern, label_words, paired, unnamed
from tempering.framings.gaps.label_words import normal, resolved
from tempering.framings.in_context import InContext
from tempering.framings.knn_prompting import KNNPrompting
from tempering.framings.verbalizers.words import given_words


def test_a_query_is_the_template_cut_before_the_answer() -> None:
    pattern = Pattern.of("Review: {text}\nSentiment: {answer}.")
    assert pattern.filled(("fine",), "Positive") == "Review: fine\nSentiment: Positive."
    assert pattern.asked(("fine",)) == ("Review: fine\nSentiment: ", ".")
    assert (pattern.premise, pattern.opening) == ("\nSentiment: ", "Review: ")


def test_without_a_slot_the_answer_comes_at_the_end() -> None:
    assert Pattern.of("Text: {text}\nLabel:").filled(("a",), "x") == "Text: a\nLabel: x"
    assert Pattern.of("Text: {text}\n").filled(("a",), "x") == "Text: a\nx"


def test_the_channel_scores_everything_from_the_first_text_on() -> None:
    pattern = Pattern.of("Label: {answer}\nOne: {text}\nTwo: {text_pair}!")
    assert pattern.told(("a", "b"), "yes") == ("Label: yes\nOne: ", "a\nTwo: b!")
    assert not pattern.answer_last and pattern.pair


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="{}ab \n\0"), st.text(alphabet="{}ab \n\0"))
def test_what_users_write_is_never_a_slot(a: str, b: str) -> None:
    pattern = Pattern.of("1 {{x}} {text} 2 {text_pair} 3 {answer}")
    assert pattern.filled((a, b), "z") == f"1 {{x}} {a} 2 {b} 3 z"
    before, after = pattern.asked((a, b))
    assert before + "z" + after == pattern.filled((a, b), "z")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [("Label: {answer}", "has no {text}"), ("{text} {text}", "more than once"), ("{text} {label}", r"{label} is no slot")],
)
def test_a_template_that_means_nothing_is_refused(source: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint) as told:
        Pattern.of(source)
    assert source in str(told.value)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_parses_and_its_words_are_its_own(name: str) -> None:
    found = FORMATS[name]
    pattern = Pattern.of(found.template)
    assert pattern.answer_last is not name.startswith("channel")
    labels = [names[0] for names, _ in found.words]
    assert label_words((), labels, found) == [words for _, words in found.words]
    words = [word for _, found_words in found.words for word in found_words]
    assert len(set(words)) == len(words)
    assert not list(unnamed(found.instruction, [list(w) for _, w in found.words], labels))


def test_the_formats_of_zhao_and_others() -> None:
    assert label_words((), ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"], FORMATS["trec"]) == [
        ("Ab",), ("Description",), ("Entity",), ("Person",), ("Location",), ("Number",)
    ]  # fmt: skip
    assert label_words((), ["3", "0"], FORMATS["ag_news"]) == [("Technology", "Science"), ("World",)]
    assert label_words((), ["business", "sci_tech", "sports", "world"], FORMATS["ag_news"])[1] == ("Technology", "Science")
    assert label_words((), ["Athlete", "OfficeHolder", "WrittenWork", "1"], FORMATS["dbpedia"]) == [
        ("Ath",), ("Polit",), ("Book",), ("School",)
    ]  # fmt: skip
    for name, labels in (("sst2", "negative positive"), ("rte", "entailment not_entailment"), ("cb", "contradiction entailment neutral")):
        assert all(shown != (label,) for shown, label in zip(label_words((), labels.split(), FORMATS[name]), labels.split(), strict=True))
    assert label_words((), ["joy", "sad_ness"], FORMATS["sst2"]) == [("joy",), ("sad ness",)]  # labels it does not know: their names


@pytest.mark.parametrize(
    "given_",
    [{"a": "x", "b": ["y", "z"]}, [["a", ["x"]], ["b", ["y", "z"]]], (("a", ("x",)), ("b", ("y", "z")))],
)
def test_words_are_pairs_however_they_are_written(given_: Any) -> None:
    assert paired(given_) == (("a", ("x",)), ("b", ("y", "z")))
    assert paired(paired(given_)) == paired(given_) and hash(paired(given_)) is not None
    assert label_words(paired(given_), ["b", "a"], None) == [("y", "z"), ("x",)]


def test_words_in_the_order_of_the_labels() -> None:
    assert paired(["No", "Yes"]) == ("No", "Yes") and paired(None) == ()
    assert label_words(("No", "Yes"), [0, 1], None) == [("No",), ("Yes",)]
    for several in ([["bad", "dull"], ["good", "great"]], [["bad", "dull", "poor"], ["good", "great"]], [["bad", "dull"], "good"]):
        assert label_words(paired(several), ["b", "a"], None) == [(w,) if isinstance(w, str) else tuple(w) for w in several]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"a": False, "b": True}, "a label word is text; write it in quotes, found False"),
        ({"a": 0, "b": 1}, "a label word is text; write it in quotes, found 0"),
        ([0, 1], "a label word is text; write it in quotes, found 0"),
        ("great", "words must map each label to its word"),
        ([["a", ["x"]], ["y", "z"]], "words name the label of some entries and not of others"),
    ],
)
def test_words_that_are_no_text_are_refused(words: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        paired(words)
    for framing in (InContext, KNNPrompting):
        with pytest.raises(ValueError, match=complaint):
            framing(words=words)


def test_without_data_the_labels_are_those_it_names_words_for() -> None:
    for framing in (InContext, KNNPrompting):
        assert framing(words={"neg": "bad", "pos": ["good"]}).named == ("neg", "pos")
    assert InContext(words=["bad", "so", "good"]).named == ("class 0", "class 1", "class 2") and InContext().named == ()


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ({True: "good", False: "bad"}, ["false", "true"]),
        ({True: "good", False: "bad"}, ["FALSE", "True"]),
        ({True: "good", False: "bad"}, [False, True]),
        ({"true": "good", "false": "bad"}, [False, True]),
        ({1: "good", 0: "bad"}, [0.0, 1.0]),
        ({1: "good", 0: "bad"}, ["0.0", "1.0"]),
        ({"1": "good", "0": "bad"}, [0.0, 1.0]),
        ({1.5: "good", 1: "bad"}, ["1", "1.50"]),
    ],
)
def test_a_key_names_the_class_that_it_means(words: Any, labels: list[Any]) -> None:
    assert label_words(paired(words), labels, None) == [("bad",), ("good",)]
    task = SimpleNamespace(kind="classification", labels=labels)
    found = resolved(normal(words), task, None, ())
    assert list(found.items()) == given_words(task, dict(normal(words))) == list(zip(labels, [("bad",), ("good",)], strict=True))


@pytest.mark.parametrize(
    ("words", "labels", "complaint"),
    [
        ({True: "x", "true": "y"}, ["true", "false"], "True and 'true' both name class 'true'; write it once"),
        ({True: "x", False: "y"}, ["TRUE", "true", "false"], "words are given for True, which is no class"),
        ({"01": "x"}, ["1"], "words are given for '01', which is no class of this task; its classes are '1'"),
    ],
)
def test_a_key_that_may_mean_several_classes_or_none_is_refused(words: Any, labels: list[str], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        label_words(paired(words), labels, None)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"a": "x"}, "class 'b' has no label word"),
        ({"a": "x", "b": "y", "bb": "z"}, "words are given for 'bb', which is no class of this task; its classes are 'a', 'b'"),
        (["x"], "1 words for 2 labels"),
        (["x", "x"], "'x' stands for both 'a' and 'b'"),
        ({"a": "x", "b": " "}, "label 'b' has an empty word"),
    ],
)
def test_words_that_cannot_tell_labels_apart_are_refused(words: Any, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        label_words(paired(words), ["a", "b"], None)


def test_an_instruction_that_names_some_answers_is_told_about() -> None:
    (note,) = unnamed("Say Positive where it is good.", [("Negative",), ("Positive",)], ["neg", "pos"])
    assert "'Negative' (neg)" in note
    assert not list(unnamed("Classify the reviews.", [("Negative",), ("Positive",)], ["neg", "pos"]))
