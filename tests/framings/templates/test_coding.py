"""Pieces to ids: as in running text for every kind of tokenizer, with special tokens by id and none from the user's text."""

from __future__ import annotations

from typing import Any

import pytest

from tempering.framings.templates.coding import PieceCoder
from tempering.framings.wrapping import Wrapping
from tests.framings.templates.trained import KINDS, byte_level, word_piece
from tests.tiny import FAMILIES, tiny_tokenizer

PIECES: list[tuple[str, bool | None]] = [
    ("The film was great", None),
    ("It was", True),
    ("terrible", True),
    (".", False),
    ("they are all words", True),
    ("!", False),
]


def running(pieces: list[tuple[str, bool | None]]) -> str:
    return "".join(" " * bool(space) + text for text, space in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_one_after_the_other_are_the_text_they_make(kind: str) -> None:
    """The ids of pieces that meet at a space or at punctuation are those of the joined string."""
    tokenizer = KINDS[kind]()
    found = PieceCoder(tokenizer).encode([t for t, _ in PIECES], [s for _, s in PIECES])
    assert [i for ids in found for i in ids] == tokenizer(running(PIECES), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("kind", "habit"), [("bytes", "space"), ("wordpiece", "none"), ("unigram", "always"), ("prepended", "always")])
def test_the_habit_is_seen(kind: str, habit: str) -> None:
    assert PieceCoder(KINDS[kind]()).habit == habit


@pytest.mark.parametrize("kind", ["bytes", "unigram", "prepended"])
def test_a_space_makes_another_token(kind: str) -> None:
    coder = PieceCoder(KINDS[kind]())
    bare, after = coder.encode(["great", "great"], [False, True])
    first = [str(coder.tokenizer.convert_ids_to_tokens(ids)[0]) for ids in (bare, after)]
    assert not first[0].startswith(("\u0120", "\u2581")) and first[1].startswith(("\u0120", "\u2581"))


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_are_plain_text(kind: str) -> None:
    coder = PieceCoder(KINDS[kind]())
    for space in (False, True):
        (ids,) = coder.encode(["a <mask> and </s> <s> <pad>"], [space])
        assert not set(ids) & (set(coder.tokenizer.all_special_ids) - {coder.tokenizer.unk_token_id})
    plain = coder.tokenizer("<mask>", add_special_tokens=False)["input_ids"]
    assert plain == [coder.tokenizer.mask_token_id]  # the tokenizer itself goes on reading them


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_has_no_tokens(kind: str) -> None:
    assert PieceCoder(KINDS[kind]()).encode(["", "the", ""], [True, False, False])[::2] == [[], []]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_wrapping_of_every_family(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    wrapping = Wrapping.of(tokenizer)
    inner = tokenizer("good film", add_special_tokens=False)["input_ids"]
    assert [*wrapping.before, *inner, *wrapping.after] == tokenizer("good film")["input_ids"]


def test_special_tokens_by_what_they_are_for() -> None:
    coder = PieceCoder(word_piece())
    named: Any = {"cls": "<s>", "sep": "</s>", "sep+": "</s>", "bos": "<s>", "eos": "</s>"}
    for name, token in named.items():
        assert coder.special(name) == [coder.tokenizer.convert_tokens_to_ids(token)]
    assert PieceCoder(tiny_tokenizer("gpt2")).special("cls") == []


def test_a_mask_by_id_brings_no_stray_space() -> None:
    """As text, a mask that does not take the space on its left leaves a lone space token before it."""
    tokenizer = byte_level()
    stray = tokenizer("It was <mask> .", add_special_tokens=False)["input_ids"]
    coder = PieceCoder(tokenizer)
    before, after = coder.encode(["It was", "."], [False, False])
    placed = [*before, tokenizer.mask_token_id, *after]
    assert len(placed) < len(stray) and placed[-2] == tokenizer.mask_token_id
