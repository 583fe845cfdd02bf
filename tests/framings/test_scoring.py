"""Where an answer's tokens begin, and the scores that answers are compared by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.errors import RecipeError
from tempering.framings.asked.scoring import Lengths, classes_from, common, encoded, lengths_of, normalized, split
from tempering.framings.wrapping import Wrapping
from tests.tiny import tiny_tokenizer

TOTALS = torch.tensor([[-4.0, -3.2]])
UNCONDITIONAL = torch.tensor([-9.0, -3.5])
LENGTHS = lengths_of(["abcdefgh", "äb"], torch.tensor([[4, 2]]))
FAMILIES = ("gpt2", "llama", "qwen2")


def best(how: Any, **options: Any) -> int:
    return int(normalized(TOTALS, LENGTHS, how, **options).argmax())


def test_the_choices_of_length_disagree_as_the_golden_value_says() -> None:
    assert best("sum") == 1
    assert best("mean") == 0
    assert best("pmi", unconditional=UNCONDITIONAL) == 0
    torch.testing.assert_close(normalized(TOTALS, LENGTHS, "pmi", 1.0, UNCONDITIONAL), torch.tensor([[5.0, 0.3]]))


def test_each_divisor() -> None:
    assert normalized(TOTALS, LENGTHS, "mean")[0].tolist() == pytest.approx([-1.0, -1.6])
    assert normalized(TOTALS, LENGTHS, "char")[0].tolist() == pytest.approx([-4 / 8, -3.2 / 2])
    assert normalized(TOTALS, LENGTHS, "byte")[0].tolist() == pytest.approx([-4 / 8, -3.2 / 3])  # ä is two bytes
    assert normalized(TOTALS, LENGTHS, "length_norm", alpha=0.5)[0].tolist() == pytest.approx([-4 / 2, -3.2 / 2**0.5])
    assert torch.equal(normalized(TOTALS, LENGTHS, "length_norm", alpha=0.0), TOTALS)
    assert torch.equal(normalized(TOTALS, LENGTHS, "channel"), TOTALS)


def test_auto_divides_only_where_lengths_differ() -> None:
    single = LENGTHS._replace(tokens=torch.ones(1, 2))
    assert torch.equal(normalized(TOTALS, single, "auto"), TOTALS)
    assert torch.equal(normalized(TOTALS, LENGTHS, "auto"), normalized(TOTALS, LENGTHS, "mean"))
    for how in ("mean", "length_norm"):  # with one token each, they all agree
        assert torch.equal(normalized(TOTALS, single, how), TOTALS)  # type: ignore[arg-type]


def test_a_class_has_the_probability_of_all_its_words() -> None:
    words = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    found = classes_from(words, torch.tensor([0, 1, 0, -1]), 2)
    assert found.exp()[0].tolist() == pytest.approx([0.4 / 0.6, 0.2 / 0.6])
    shifted = classes_from(words + 7.0, torch.tensor([0, 1, 0, -1]), 2)
    torch.testing.assert_close(found, shifted)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_begins_after_the_longest_common_prefix(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    found = split(tokenizer, Wrapping.of(tokenizer), "the film was", [" good", " not bad"])
    whole = encoded(tokenizer, ["the film was good", "the film was not bad"])
    assert [found.context + tail for tail in found.tails] == whole
    assert found.starts == [0, 0]
    assert found.context == encoded(tokenizer, ["the film was"])[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_spaces_before_the_answer_go_with_it(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    wrapping = Wrapping.of(tokenizer)
    assert split(tokenizer, wrapping, "the film was ", ["good"]) == split(tokenizer, wrapping, "the film was", [" good"])


def test_a_token_that_spans_the_join_is_scored_from_the_last_common_one() -> None:
    tokenizer = tiny_tokenizer("qwen2")
    merged = split(tokenizer, Wrapping.of(tokenizer), "a goo", ["d", " bad"])
    assert encoded(tokenizer, ["a good"])[0] == merged.context + merged.tails[0]
    assert len(merged.context) == common(encoded(tokenizer, ["a goo"])[0], encoded(tokenizer, ["a good"])[0])
    assert merged.context + merged.tails[1] == encoded(tokenizer, ["a goo bad"])[0]
    assert merged.starts[1] == len(encoded(tokenizer, ["a goo"])[0]) - len(merged.context)  # the context's own token is not scored
    assert all(len(tail) > start for tail, start in zip(merged.tails, merged.starts, strict=True))


class Swallowing:
    """A tokenizer whose last token takes in what follows: the label would be left without a token of its own."""

    bos_token_id = eos_token_id = pad_token_id = 0
    unk_token_id = None

    def __call__(self, texts: Any, **_: Any) -> dict[str, Any]:
        if isinstance(texts, str):
            return {"input_ids": [7], "special_tokens_mask": [0]}
        return {"input_ids": [[1, 2] if text.startswith("ask") else [9] if "yes" in text else [] for text in texts]}


def test_an_answer_is_never_left_without_a_token() -> None:
    found = split(Swallowing(), Wrapping((), ()), "ask", [" yes"])
    assert found == ([1, 2], [[9]], [0])
    with pytest.raises(RecipeError, match=r"words: ' no' has no token"):
        split(Swallowing(), Wrapping((), ()), "ask", [" no"])
    assert split(Swallowing(), Wrapping((), ()), "ask", [""]).tails == [[]]  # an empty text, which is certain


def test_special_tokens_are_placed_once_and_those_a_user_types_are_text() -> None:
    tokenizer = tiny_tokenizer("bert")
    assert Wrapping.of(tokenizer) == Wrapping((tokenizer.cls_token_id,), (tokenizer.sep_token_id,))
    assert Wrapping.of(tiny_tokenizer("gpt2")) == Wrapping((), ())
    assert tokenizer.mask_token_id not in encoded(tokenizer, ["a [MASK] film [SEP]"])[0]


def test_an_empty_context_still_has_something_to_go_on_from() -> None:
    tokenizer = tiny_tokenizer("gpt2")
    assert split(tokenizer, Wrapping.of(tokenizer), "", ["good"]).context == [tokenizer.eos_token_id]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6))
def test_the_common_prefix_is_common_and_the_longest(a: list[int], b: list[int]) -> None:
    n = common(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_lengths_count_what_they_say() -> None:
    found = lengths_of(["abc", "é"], torch.tensor([[2, 1], [3, 1]]))
    assert isinstance(found, Lengths)
    assert found.chars.tolist() == [3.0, 1.0] and found.bytes.tolist() == [3.0, 2.0] and found.tokens.tolist() == [[2.0, 1.0], [3.0, 1.0]]
