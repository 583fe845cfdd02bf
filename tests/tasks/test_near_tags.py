"""Tags that are nearly those of entities are refused with the place and the way out; other plain tags never are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tempering.contracts import Example
from tempering.errors import DataError
from tempering.tags import joined
from tempering.tasks import Task, default_metric

GOOD = (["O", "B-PER", "I-PER", "O", "B-LOC"], ["O", "B-PER", "O"]) * 4


def load(rows: Sequence[Sequence[Any]]) -> Task:
    return Task.from_frame({"tokens": [[f"w{i}" for i in range(len(tags))] for tags in rows], "tags": list(rows)}, dev_fraction=0)


def each(change: Callable[[str], str]) -> list[list[str]]:
    return [[change(tag) for tag in tags] for tags in GOOD]


@pytest.mark.parametrize(
    ("odd", "advice"),
    [
        ("PER", "write B-PER, or I-PER within an entity"),
        ("B-", "write O, or B- or I- and a type, such as B-PER"),
        ("b-PER", "write B-PER"),
        ("B_PER", "write B-PER"),
        ("0", "write O"),
        ("o", "write O"),
        ("MISC", "write O, or B- or I- and a type, such as B-PER"),
    ],
)
def test_one_wrong_tag_is_named(odd: str, advice: str) -> None:
    with pytest.raises(DataError) as error:
        load([*GOOD, ["O", "O", odd]])
    said = str(error.value)
    assert f"row 9, column 'tags': expected O, B-PER, I-PER or the like for word 3 'w2', found '{odd}'; {advice}." in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (str.lower, "word 1 'w0', found 'o' (and 'b-per', 'i-per', 'b-loc'); write O"),
        (lambda tag: tag.replace("-", "_"), "word 2 'w1', found 'B_PER' (and 'I_PER', 'B_LOC'); write B-PER"),
        (lambda tag: tag.replace("O", "0") if tag == "O" else tag, "word 1 'w0', found '0'; write O"),
        (lambda tag: "_" if tag == "O" else tag, "word 1 'w0', found '_'; write O"),
        (lambda tag: tag if tag == "O" else f"{tag[2:]}-{tag[0]}", "word 2 'w1', found 'PER-B' (and 'PER-I', 'LOC-B'); write B-PER"),
        (lambda tag: tag.replace("B-", "I-").replace("I-LOC", "L"), "word 5 'w4', found 'L'; write O, or B- or I- and a type"),
    ],
)
def test_another_way_to_write_entities_is_named(change: Callable[[str], str], said: str) -> None:
    with pytest.raises(DataError) as error:
        load(each(change))
    assert said in str(error.value) and "row 1, column 'tags'" in str(error.value)


def test_the_way_out_is_one() -> None:
    with pytest.raises(DataError, match=r"If the tags name no entities, write another sign than - and _ beside the letters: B\.PER"):
        load([*GOOD, ["PER"]])
    task = load([*each(lambda tag: tag.replace("-", ".")), ["PER"]])
    assert default_metric("tagging", task.labels) == "accuracy" and "PER" in task.labels


@pytest.mark.parametrize(
    "rows",
    [
        [["DET", "NN", "VB-D", "PRP$", "X", "O", "."]],
        [["B", "I", "O", "B"], ["O", "B"]],  # bare letters
        [["S-PRO", "V", "S", "PR", "A-PRO", "S-PRO", "O"]],  # the Russian National Corpus
        [["B-PRO", "NN", "VB", "O", "NN", "VB"]],
        [["l-s---mn-", "n-s---mn-", "v3spia---", "u--------", "i--------", "O"]],  # positional tags
        [["-s---mn--i", "3spia----i", "---------n", "-s---mn--b", "O"]],
        [["2024-01-01", "O", "12-S", "2-1-B", "NN"], ["VB-S", "NN", "VB-B", "NN", "VB"]],
        [["O-NOUN", "O-VERB", "B-NOUN", "I-NOUN", "O-DET", "O-NOUN"]],
        [["U-COMMA", "L-NONE", "M-NONE", "L-PERIOD"]],
        [["SYM", "B-X", "SYM"]],
        [["lang1", "lang2", "ne", "other", "O"]],
        [[0, 1, 2], [1, 0]],
    ],
)
def test_plain_tags_are_taken(rows: list[list[Any]]) -> None:
    task = load(rows)
    assert default_metric("tagging", task.labels) == "accuracy"
    assert any(note.startswith(("the tags follow no scheme of entities", "the tags are numbers")) for note in task.notes)


def test_examples_in_memory_are_refused_alike() -> None:
    text, words = joined(["Ada", "met", "Bo"])
    rows = [Example((text,), tags, words=words) for tags in (("B-PER", "O", "B-PER"), ("B-PER", "O", "PER"))]
    with pytest.raises(DataError, match=r"for word 3 'Bo', found 'PER'; write B-PER"):
        Task.from_examples(rows)
