"""Tokenizing, truncation and padding."""

from __future__ import annotations

import numpy as np
import pytest

from tempering.contracts import Example, Prompt
from tempering.errors import DataError, RecipeError
from tempering.framings.text import TextEncoder, pad
from tests.tiny import tiny_backbone

LONG = " ".join(f"w{i}" for i in range(40))


def words(encoder: TextEncoder, text: str) -> str:
    (encoding,) = encoder.encode([Example((text,))])
    return str(encoder.tokenizer.decode(encoding.ids))


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [
        ("head", "[CLS] w0 w1 w2 w3 w4 w5 [SEP]"),
        ("tail", "[CLS] w34 w35 w36 w37 w38 w39 [SEP]"),
        ("head+tail", "[CLS] w0 w1 w2 w37 w38 w39 [SEP]"),
    ],
)
def test_truncation_keeps_special_tokens_and_the_asked_part(truncation: str, expected: str) -> None:
    encoder = TextEncoder.of(tiny_backbone("bert"), 8, truncation)  # type: ignore[arg-type]
    assert words(encoder, LONG) == expected
    assert words(encoder, "w1 w2") == "[CLS] w1 w2 [SEP]"
    assert words(encoder, " ".join(LONG.split()[:6])) == "[CLS] w0 w1 w2 w3 w4 w5 [SEP]"


@pytest.mark.parametrize("family", ["gpt2", "t5", "roberta"])
def test_tail_in_families_with_other_special_tokens(family: str) -> None:
    encoder = TextEncoder.of(tiny_backbone(family), 8, "tail")
    full, cut = (TextEncoder(encoder.tokenizer, n, "tail").encode([Example((LONG,))])[0].ids for n in (10_000, 8))
    after = {"gpt2": 0, "t5": 1, "roberta": 1}[family]
    before = 1 if family == "roberta" else 0
    assert len(cut) == 8
    assert (
        cut[before:] == full[len(full) - 8 + before :] and cut[:before] == full[:before] and cut[8 - after :] == full[len(full) - after :]
    )


def test_the_first_128_and_the_rest_from_the_end() -> None:
    encoder = TextEncoder(tiny_backbone("bert").tokenizer, 302, "head+tail")
    full = encoder.tokenizer(" ".join([LONG] * 10), verbose=False)["input_ids"]
    (encoding,) = encoder.encode([Example((" ".join([LONG] * 10),))])
    assert encoding.ids == full[:129] + full[-173:]


def test_of_a_pair_the_longer_loses_first_and_singles_may_stand_among_pairs() -> None:
    encoder = TextEncoder.of(tiny_backbone("bert"), 9, "tail")
    pair, single, other = encoder.encode([Example(("w1 w2", LONG)), Example(("w5",)), Example((LONG, "w3"))])
    decode = encoder.tokenizer.decode
    assert decode(pair.ids) == "[CLS] w1 w2 [SEP] w0 w1 w2 w3 [SEP]" and pair.types == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert decode(single.ids) == "[CLS] w5 [SEP]" and single.types is None
    assert decode(other.ids) == "[CLS] w0 w1 w2 w3 w4 [SEP] w3 [SEP]"


@pytest.mark.parametrize("family", ["roberta", "distilbert", "gpt2", "modernbert"])
def test_no_token_types_where_the_body_has_no_two(family: str) -> None:
    backbone = tiny_backbone(family)
    backbone.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # even if the tokenizer would give them
    (pair,) = TextEncoder.of(backbone, None).encode([Example(("w1", "w2"))])
    assert pair.types is None


def test_length_is_capped_by_the_model_and_an_empty_text_is_not_an_empty_row() -> None:
    backbone = tiny_backbone("gpt2")
    encoder = TextEncoder.of(backbone, 10_000)
    assert encoder.length == backbone.max_length
    assert [e.ids for e in encoder.encode([Example(("",)), Example(("",))])] == [[backbone.tokenizer.eos_token_id]] * 2


def test_words_are_numbered_over_both_texts() -> None:
    encoder = TextEncoder.of(tiny_backbone("bert"), None, words=True)
    single, pair = encoder.encode([Example(("good day",)), Example(("good", "bad day"))])
    assert single.words == [-1, 0, 1, -1] and pair.words == [-1, 0, -1, 1, 2, -1]


def test_refusals() -> None:
    backbone = tiny_backbone("bert")
    with pytest.raises(DataError, match="row 7: expected one text or a pair of texts, found 3"):
        TextEncoder.of(backbone, None).encode([Example(("a", "b", "c"), None, 7)])
    with pytest.raises(RecipeError, match="leaves no room"):
        TextEncoder.of(backbone, 2)
    with pytest.raises(RecipeError, match="whole words"):
        TextEncoder.of(backbone, None, "tail", words=True)


def test_padding() -> None:
    arrays = pad([Prompt([5, 6, 7]), Prompt([8], token_type_ids=[1])], 9)
    assert arrays["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert arrays["token_type_ids"].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert all(a.dtype == np.int64 for a in arrays.values())
    assert set(pad([Prompt([5, 6]), Prompt([9, 9])], 9)) == {"input_ids"}  # a real token may equal the padding id
