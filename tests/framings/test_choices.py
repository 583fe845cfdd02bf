"""Label words that come with a template: whose they are is told by names or by the template itself, and never guessed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tempering.errors import RecipeError
from tempering.framings.gaps.label_words import labels_of, resolved
from tempering.framings.templates.checking import check_fields
from tempering.framings.templates.reading import parse

NEWS, NLI = ["business", "sci_tech", "sports", "world"], ["contradiction", "entailment", "neutral"]
BY_NUMBER = "{{text}} ||| {{ answer_choices[label] }}"


def given(labels: list[Any], choices: str, source: str = BY_NUMBER, needed: bool = True, kind: str = "classification") -> list[str]:
    """The word of each label, where ``choices`` come with the template."""
    template = f"jinja: {source!r}\nanswer_choices: {choices!r}"
    found = resolved((), SimpleNamespace(kind=kind, labels=labels), template, parse(template).choices, needed)
    assert kind == "regression" or list(found) == labels
    return [word for (word,) in found.values()]


@pytest.mark.parametrize(
    ("labels", "choices", "expected"),
    [
        (NEWS, "World ||| Sports ||| Business ||| Sci/Tech", ["Business", "Sci/Tech", "Sports", "World"]),
        (NEWS, "World ||| Sports ||| Business ||| Technology", ["Business", "Technology", "Sports", "World"]),  # one is left
        (["entailment", "not_entailment"], "Not entailment ||| Entailment", ["Entailment", "Not entailment"]),
        (["ham", "spam"], "spam ||| not spam", ["not spam", "spam"]),
        (["no", "yes"], "Yes ||| No", ["No", "Yes"]),
        (["false", "true"], "True ||| False", ["False", "True"]),
        ([False, True], "True ||| False", ["False", "True"]),
        ([1, 2, 3], "3 ||| 2 ||| 1", ["1", "2", "3"]),
    ],
)
def test_a_name_says_whose_a_word_is(labels: list[Any], choices: str, expected: list[str]) -> None:
    assert given(labels, choices) == expected


@pytest.mark.parametrize(
    ("labels", "choices", "expected"),
    [
        ([0, 1, 2], "Yes ||| Maybe ||| No", ["Yes", "Maybe", "No"]),
        ([str(n) for n in (0, 1, 10, *range(2, 10))], " ||| ".join("abcdefghijk"), list("abkcdefghij")),
        ([0.0, 1.0], "sad ||| happy", ["sad", "happy"]),
        ([0, 1, 2, 3, 4], "1 ||| 2 ||| 3 ||| 4 ||| 5", ["1", "2", "3", "4", "5"]),
        (["false", "true"], "sad ||| happy", ["sad", "happy"]),
        ([False, True], "No ||| Yes", ["No", "Yes"]),
    ],
)
@pytest.mark.parametrize("source", [BY_NUMBER, "{{text}} {{mask}}"])
def test_numbers_count_the_words_from_0(labels: list[Any], choices: str, expected: list[str], source: str) -> None:
    assert given(labels, choices, source) == expected


@pytest.mark.parametrize(
    ("labels", "answer", "expected"),
    [
        ([1, 2], "answer_choices[label - 1]", ["Yes", "No"]),
        ([0, 1], "answer_choices[1 - label] | lower", ["No", "Yes"]),
        (["entails", "neutral"], "answer_choices[1] if label == 'entails' else answer_choices[0]", ["No", "Yes"]),
        (["f", "t"], "{'t': 'Yes', 'f': 'No'}[label]", ["No", "Yes"]),
    ],
)
def test_the_answer_of_a_template_says_whose_a_word_is(labels: list[Any], answer: str, expected: list[str]) -> None:
    assert given(labels, "Yes ||| No", "{{text}} ||| {{ " + answer + " }}") == expected


@pytest.mark.parametrize(
    ("labels", "choices", "source"),
    [
        (NLI, "Yes ||| Maybe ||| No", BY_NUMBER),
        (NEWS, "World politics ||| Sports ||| Business ||| Science and technology", BY_NUMBER),
        (["negative", "positive"], "sad ||| happy", "{{text}} {{mask}}"),
        ([1, 2, 3], "Yes ||| Maybe ||| No", BY_NUMBER),
        ([0, 2], "Yes ||| No", BY_NUMBER),
        ([0, 1], "Yes ||| No", "{{text}} ||| {{ answer_choices[0] }}"),
        ([0, 1], "Yes ||| No", "{{text}} ||| {{ {1: 0}[label] }}"),
        (["false", "true"], "Yes ||| No", BY_NUMBER),  # by their sense the other way around
        (["a_b", "a b"], "a b ||| c", BY_NUMBER),
    ],
)
def test_what_nothing_says_is_refused(labels: list[Any], choices: str, source: str) -> None:
    with pytest.raises(RecipeError, match="which is whose; give each label its word, as in  framing.words: {") as told:
        given(labels, choices, source)
    assert all(str(name) in str(told.value) for name in (*labels, *choices.split(" ||| ")))


def test_choices_of_the_harness_are_given_alike() -> None:
    source = "doc_to_text: '{{text}}'\ndoc_to_choice: [Entailment, Neither, Contradiction]"
    task = SimpleNamespace(kind="classification", labels=NLI)
    assert resolved((), task, source, parse(source).choices)["neutral"] == ("Neither",)
    task.labels = ["a", "b", "c"]
    with pytest.raises(RecipeError, match="framing.words: {a: ..., b: ..., c: ...}"):
        resolved((), task, source, parse(source).choices)


@pytest.mark.parametrize(
    ("labels", "target", "expected"),
    [
        ([0, 1], "label", ["No", "Yes"]),
        ([0, 1], "'{{ 1 - gold }}'", ["Yes", "No"]),
        (["1", "2"], "'{{ gold - 1 }}'", ["No", "Yes"]),
        (["ok", "bad"], "\"{{ ['bad', 'ok'].index(status) }}\"", ["Yes", "No"]),
        (["ok", "bad"], "\"{{ 'yes' if status == 'ok' else 'no' }}\"", ["Yes", "No"]),
        (["t", "f"], "\"{{ {'t': 'Yes', 'f': 'No'}[status] }}\"", ["Yes", "No"]),
    ],
)
def test_the_target_of_the_harness_says_whose_a_choice_is(labels: list[Any], target: str, expected: list[str]) -> None:
    source = f"doc_to_text: '{{{{text}}}}'\ndoc_to_choice: ['No', 'Yes']\ndoc_to_target: {target}"
    task = SimpleNamespace(kind="classification", labels=labels)
    for written in (source, str(parse(source))):
        found = resolved((), task, written, parse(written).choices)
        assert [words for (words,) in found.values()] == expected


@pytest.mark.parametrize(
    ("labels", "target"),
    [
        ([1, 2], "label"),
        ([0, 1], "0"),
        ([0, 1], "'{{ options.index(answer) }}'"),
        ([0, 1], "!function utils.target"),
        ([0, 1], "'{{ (1 / label) | int }}'"),
        (["a", "b"], "'{{ 1 - label }}'"),
        ([0, 1], "'{{ 0 * label }}'"),
    ],
)
def test_a_target_that_does_not_fit_the_labels_says_nothing(labels: list[Any], target: str) -> None:
    source = f"doc_to_text: '{{{{text}}}}'\ndoc_to_choice: ['No', 'Yes']\ndoc_to_target: {target}"
    with pytest.raises(RecipeError, match="which is whose; give each label its word"):
        resolved((), SimpleNamespace(kind="classification", labels=labels), source, parse(source).choices)


def test_a_target_in_python_is_not_run_and_the_names_of_the_labels_count() -> None:
    source = "doc_to_text: '{{text}}'\ndoc_to_choice: ['No', 'Yes']\ndoc_to_target: !function utils.target"
    task = SimpleNamespace(kind="classification", labels=["yes", "no"])
    assert resolved((), task, source, parse(source).choices) == {"yes": ("Yes",), "no": ("No",)}
    with pytest.raises(RecipeError, match="not valid Jinja"):
        parse("doc_to_text: '{{text}}'\ndoc_to_choice: ['No', 'Yes']\ndoc_to_target: '{{ label'")


def test_words_that_are_not_needed_and_those_of_poles() -> None:
    assert given(NLI, "Yes ||| Maybe ||| No", needed=False) == NLI
    assert given([], "No ||| Yes", kind="regression") == ["No", "Yes"]
    with pytest.raises(RecipeError, match="expected one entry for each of a, b, found 3"):
        given(["a", "b"], "Yes ||| Maybe ||| No")


def test_without_data_the_words_stand_for_the_labels() -> None:
    assert labels_of((), None, ("World", "Sports")) == ("World", "Sports")
    assert labels_of(("x",), None, ("World", "Sports")) == ("class 0",)


def test_an_unknown_field_is_refused_with_all_in_the_order_of_their_use() -> None:
    template = parse("Suppose {{premise}} {% if topic %}On {{topic}}. {% endif %}Is {{hypothesis | lower}} so? ||| x")
    assert template.fields() == ("premise", "topic", "hypothesis")
    with pytest.raises(RecipeError, match=r"in the order of the data: fields: \[premise, topic, hypothesis\]"):
        check_fields(template, ("text", "text_pair"))
