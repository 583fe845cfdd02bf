"""Prompts as strings: slots, answers, words, and the published formats."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.errors import RecipeError
from tempering.framings.asked.prompt_text import FORMATS, Pattern, label_words, paired, unnamed


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
    assert FORMATS["dbpedia"].words[3] == (("athlete", "3"), ("Ath",))
    assert label_words((), ["joy", "sad_ness"], FORMATS["sst2"]) == [("joy",), ("sad ness",)]  # labels it does not know: their names


@pytest.mark.parametrize(
    "given_",
    [{"a": "x", "b": ["y", "z"]}, [["a", "x"], ["b", ["y", "z"]]], (("a", ("x",)), ("b", ("y", "z")))],
)
def test_words_are_pairs_however_they_are_written(given_: Any) -> None:
    assert paired(given_) == (("a", ("x",)), ("b", ("y", "z")))
    assert paired(paired(given_)) == paired(given_) and hash(paired(given_)) is not None
    assert label_words(paired(given_), ["b", "a"], None) == [("y", "z"), ("x",)]


def test_words_in_the_order_of_the_labels() -> None:
    assert paired(["No", "Yes"]) == ("No", "Yes") and paired(None) == ()
    assert label_words(("No", "Yes"), [0, 1], None) == [("No",), ("Yes",)]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"a": "x"}, "no word for label 'b'"),
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
