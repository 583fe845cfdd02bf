"""Tag schemes: recognized, read as seqeval reads them, repaired; words of raw text."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from tempering.tags import (
    Entity,
    as_bioes,
    detect,
    entities,
    joined,
    learned,
    may_follow,
    places_of,
    repaired,
    scheme_of,
    spans,
    split_words,
    tag_set,
    types_of,
    written,
)
from tempering.tasks.metrics import compute
from tempering.values import Span

TYPES = ("PER", "LOC")
LENIENT = st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIES" for t in TYPES)]), max_size=12)
SCHEMES = ("IOB2", "BIOES", "BILOU", "IO")
FOUND = st.lists(st.tuples(st.sampled_from(TYPES), st.integers(1, 3), st.integers(0, 2)), max_size=5)


def laid(found: Sequence[tuple[str, int, int]], apart: int) -> tuple[list[Entity], int]:
    """Entities of given lengths one after the other, each after a gap of at least ``apart``; and how many words that takes."""
    made, at = [], 0
    for type_, length, gap in found:
        first = at + max(gap, apart)
        made.append(Entity(type_, first, first + length))
        at = first + length
    return made, at + 1


@pytest.mark.parametrize(
    ("rows", "scheme"),
    [
        ([["B-PER", "I-PER", "O"], ["O", "B-LOC"]], "IOB2"),
        ([["B-PER", "B-PER", "O"]], "IOB2"),
        ([["I-PER", "I-PER", "O"], ["I-LOC", "B-LOC"]], "IOB1"),
        ([["I-PER", "O"], ["B-LOC", "I-LOC"]], "IOB2"),  # a B that IOB1 would not write
        ([["I-PER", "I-PER", "O"]], "IO"),
        ([["B-PER", "E-PER", "S-LOC"]], "BIOES"),
        ([["B-PER", "L-PER", "U-LOC"]], "BILOU"),
        ([["B-PER", "M-PER", "E-PER", "S-LOC", "O"]], "BMES"),
        ([["B-PER", "E-PER"], ["W-LOC"]], "BMES"),
        ([["B-PER", "M-PER", "O"]], "plain"),  # nothing ends
        ([["B-PER", "M-PER", "I-PER", "E-PER"]], "plain"),
        ([["O", 1]], "plain"),
        ([[1, 0], [0]], "plain"),
        ([["NOUN", "O"]], "plain"),
        ([["B-PER", "NOUN"]], "plain"),
        ([["O", "O"]], "plain"),
        ([["B-", "O"]], "plain"),
        ([["B_PER", "O"]], "plain"),
        ([["B-NP", "I-NP"]], "IOB2"),
    ],
)
def test_the_scheme_is_recognized(rows: list[list[Any]], scheme: str) -> None:
    assert detect(rows) == scheme


@pytest.mark.parametrize(
    ("scheme", "broken", "good"),
    [
        ("IOB2", "O I-PER I-PER", "O B-PER I-PER"),
        ("IOB2", "I-PER", "B-PER"),
        ("IOB2", "B-PER I-LOC O", "B-PER B-LOC O"),
        ("IOB2", "B-PER I-PER B-PER", "B-PER I-PER B-PER"),
        ("BIOES", "B-PER O", "S-PER O"),
        ("BIOES", "B-PER I-PER O", "B-PER E-PER O"),
        ("BIOES", "E-PER", "S-PER"),
        ("BIOES", "S-PER I-PER E-PER", "S-PER B-PER E-PER"),
        ("BIOES", "B-PER E-LOC", "S-PER S-LOC"),
        ("BILOU", "B-PER O I-LOC", "U-PER O U-LOC"),
        ("IO", "I-PER O", "I-PER O"),
        ("plain", "NOUN I-PER", "NOUN I-PER"),
    ],
)
def test_broken_tags_are_read_as_conlleval_reads_them(scheme: str, broken: str, good: str) -> None:
    assert " ".join(repaired(broken.split(), scheme)) == good  # type: ignore[arg-type]


@given(LENIENT)
def test_entities_are_those_of_seqeval(tags: list[str]) -> None:
    assert [(e.type, e.first, e.last - 1) for e in entities(tags)] == get_entities(tags)


@given(LENIENT, st.sampled_from(["IOB2", "BIOES"]))
def test_a_repair_keeps_the_entities_and_breaks_nothing(tags: list[str], scheme: str) -> None:
    good = repaired(tags, scheme)  # type: ignore[arg-type]
    assert entities(good) == entities(tags)
    assert repaired(good, scheme) == good  # type: ignore[arg-type]
    assert all(may_follow(a, b, scheme) for a, b in zip([None, *good], [*good, None], strict=True))  # type: ignore[arg-type]


@given(FOUND, st.sampled_from(SCHEMES))
def test_what_is_written_is_read_back(found: list[tuple[str, int, int]], scheme: str) -> None:
    made, length = laid(found, apart=1 if scheme == "IO" else 0)
    tags = written(made, length, scheme)  # type: ignore[arg-type]
    assert entities(tags) == made
    assert set(tags) <= set(tag_set(TYPES, scheme))  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_tags_of_a_scheme_tell_which_it_is(scheme: str) -> None:
    tags = tag_set(TYPES, scheme)  # type: ignore[arg-type]
    assert scheme_of(tags) == scheme and types_of(tags) == ("LOC", "PER") and tags[0] == "O"


def test_bmes_is_learned_as_bioes() -> None:
    assert learned("BMES") == "BIOES" and tag_set(TYPES, "BMES") == tag_set(TYPES, "BIOES")
    assert as_bioes(("O", "B-MW-x", "M-MW-x", "E-MW-x", "W-M", "S-M")) == ("O", "B-MW-x", "I-MW-x", "E-MW-x", "S-M", "S-M")


@pytest.mark.parametrize(
    ("before", "tag", "scheme", "legal"),
    [
        (None, "I-PER", "IOB2", False),
        ("O", "I-PER", "IOB2", False),
        ("B-LOC", "I-PER", "IOB2", False),
        ("I-PER", "I-PER", "IOB2", True),
        ("B-PER", None, "IOB2", True),
        ("B-PER", None, "BIOES", False),
        ("B-PER", "O", "BIOES", False),
        ("B-PER", "E-PER", "BIOES", True),
        ("E-PER", "I-PER", "BIOES", False),
        ("S-PER", "B-PER", "BIOES", True),
        ("B-PER", "U-PER", "BILOU", False),
        ("I-PER", "L-PER", "BILOU", True),
        ("O", "I-PER", "IO", True),
    ],
)
def test_which_tag_may_follow(before: str | None, tag: str | None, scheme: str, legal: bool) -> None:
    assert may_follow(before, tag, scheme) is legal  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_seqeval(seed: int) -> None:
    rng = random.Random(seed)
    tags = ["O", "O", *(f"{p}-{t}" for p in "BI" for t in ("PER", "LOC", "ORG"))]
    gold, said = ([[rng.choice(tags) for _ in range(5)] for _ in range(12)] for _ in range(2))
    found = compute("tagging", tag_set(("LOC", "ORG", "PER"), "IOB2"), gold, said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found["f1"] == pytest.approx(f1_score(gold, said))
        assert found["precision"] == pytest.approx(precision_score(gold, said))
        assert found["recall"] == pytest.approx(recall_score(gold, said))
        assert found["macro_f1"] == pytest.approx(f1_score(gold, said, average="macro"))
    assert found["accuracy"] == pytest.approx(sum(a == b for x, y in zip(gold, said, strict=True) for a, b in zip(x, y, strict=True)) / 60)


def test_spans_stand_in_characters_of_the_text() -> None:
    text, words = joined(["Ada", "Lovelace", "met", "Mr.", "Babbage"])
    found = spans(words, ("B-PER", "I-PER", "O", "O", "B-PER"), (0.5, 1.0, 1.0, 1.0, 0.25))
    assert found == (Span(0, 12, "PER", 0.75), Span(21, 28, "PER", 0.25))
    assert [text[s.start : s.end] for s in found] == ["Ada Lovelace", "Babbage"]


@pytest.mark.parametrize(
    ("text", "tokens", "places"),
    [
        ('"A good,  film".', ["A", "good", ",", "film", "."], [(1, 2), (3, 7), (7, 8), (10, 14), (15, 16)]),
        ("don't", ["do", "n't"], [(0, 2), (2, 5)]),
        ("good good", ["good", "good"], [(0, 4), (5, 9)]),
        ("a\u00a0b", ["a", "\u00a0", "b"], [(0, 1), (1, 2), (2, 3)]),
        ("New York is", ["New York", "is"], [(0, 8), (9, 11)]),
        ("* a *", ["a"], [(2, 3)]),
        ("good film", ["film"], None),  # a word that is no token is not passed over
        ("a b a", ["a", "b"], None),
        ("a b", ["a", "b", "c"], None),
        ('say "x"', ["say", "``", "x", "''"], None),
        ("", ["a"], None),
        ("", [], []),
    ],
)
def test_where_tokens_stand_in_a_text(text: str, tokens: list[str], places: list[tuple[int, int]] | None) -> None:
    assert places_of(tokens, text) == (None if places is None else tuple(places))


@given(st.lists(st.text("ab,\u00a0", min_size=1, max_size=3), max_size=6))
def test_tokens_stand_where_they_were_joined(tokens: list[str]) -> None:
    text, _ = joined(tokens)
    places = places_of(tokens, text)
    assert places is not None and [text[a:b] for a, b in places] == tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada's cat, no?", ["Ada", "'", "s", "cat", ",", "no", "?"]),
        ("  \n ", []),
        ("naïve café", ["naïve", "café"]),
        ("e\u0301clair", ["e\u0301clair"]),
        ("हिन्दी है", ["हिन्दी", "है"]),
        ("日本", ["日本"]),
        ("a_b 3.5", ["a_b", "3", ".", "5"]),
        ("👩\u200d💻!", ["👩\u200d", "💻", "!"]),
    ],
)
def test_words_of_raw_text(text: str, words: list[str]) -> None:
    assert [text[a:b] for a, b in split_words(text)] == words


@given(st.text(max_size=40), st.sets(st.integers(0, 40), max_size=4))
def test_words_cover_all_but_white_space_and_no_border_lies_inside_one(text: str, borders: set[int]) -> None:
    words = split_words(text, borders)
    covered = {i for start, end in words for i in range(start, end)}
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)
    assert all(a[1] <= b[0] for a, b in pairwise(words))
    assert not any(start < border < end for start, end in words for border in borders)
