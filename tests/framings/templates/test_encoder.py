"""Examples to prompts: pieces as ids in their order, segments, limits, and what is refused before anything is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.templates.checking import boundaries, check_causal, check_fields, check_labels, check_masks
from tempering.framings.templates.encoder import TemplateEncoder
from tempering.framings.templates.laying import Places
from tempering.framings.templates.reading import parse
from tests.tiny import ROLE, tiny_backbone

PAIR = Example(("The film was good .", "It was bad"), "x", 7)


def encoder(template: str, length: int | None = None, family: str = "bert", **options: Any) -> TemplateEncoder:
    return TemplateEncoder.of(parse(template), tiny_backbone(family), length, **options)


def shown(template: str, example: Example = PAIR, family: str = "bert", length: int | None = None, **options: Any) -> str:
    found = encoder(template, length, family, **options)
    (laid,) = found.encode([example])
    assert [laid.ids[i] for i in laid.places.masks] == [found.coder.tokenizer.mask_token_id] * len(laid.places.masks)
    return str(found.coder.tokenizer.decode(laid.ids))


def test_the_strings_of_lm_bff() -> None:
    """[CLS] S0 " It was" MASK "." [SEP], and [CLS] S0-without-last-character "?" MASK "," " "+s1-lowered [SEP]."""
    assert shown("*cls**sent_0*_It_was*mask*.*sep+*") == "[CLS] the film was good [UNK] it was [MASK] [UNK] [SEP]"
    assert shown("*cls**sent-_0*?*mask*,*+sentl_1**sep+*") == "[CLS] the film was good [UNK] [MASK] [UNK] it was bad [SEP]"
    assert shown("{text} it was {mask}.") == shown("*cls**sent_0*_it_was*mask*.*sep+*")  # what stands at the ends comes by itself
    assert shown("*cls**mask*:*+sent_0**sep+*") == "[CLS] [MASK] [UNK] the film was good [UNK] [SEP]"


SAID = """
from tests.framings.templates.test_encoder import PAIR, encoder
for template in ("{text}, so {text_pair:lower_first} was {mask}, and {text} is not {mask}.", "lm-bff/snli", "{text} it was {mask}"):
    (laid,) = encoder(template, 14).encode([PAIR])
    print(laid.ids, laid.types, laid.places)
"""


def test_prompts_are_the_same_in_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Strings hash otherwise in each, and so do the sets that texts pass through."""
    exec(compile(SAID, "said", "exec"), {})
    mine, root = capsys.readouterr().out, Path(__file__).parents[3]
    env = os.environ | {"PYTHONHASHSEED": "7" if os.environ.get("PYTHONHASHSEED") != "7" else "8", "PYTHONPATH": str(root)}
    theirs = subprocess.run([sys.executable, "-c", SAID], cwd=root, env=env, capture_output=True, text=True, check=True).stdout
    assert mine == theirs and len(set(mine.splitlines())) == 3


def test_several_masks_vectors_labels_and_segments() -> None:
    found = encoder("{mask*2} {soft:2}{text}{sep+}{text_pair}{label:1}", vectors=((0, 1),), words=((40,), (41, 42)))
    (laid,) = found.encode([PAIR])
    assert laid.places == Places((1, 2), (3, 4), (0, 1))
    assert laid.ids[-3:] == [41, 42, ROLE["sep"]]
    assert laid.types == [0] * 11 + [1] * 6  # [SEP] closes the first segment
    assert encoder("{mask}{text}{sep+}{text_pair}", family="roberta").encode([PAIR])[0].types is None
    answered = encoder("{mask} {text} {mask*2} {mask}").parts([PAIR] * 3, [(41, 42, 43, 44), (41, 42), (41, 42, 43, 44, 45)])
    assert [[p.ids for p in parts if p.role == "label"] for parts in answered] == [
        [[41], [42, 43], [44]],
        [[41], [42], []],
        [[41], [42, 43], [44, 45]],
    ]
    (laid,) = encoder("{text} {mask}", masks=3).encode([PAIR])
    assert len(laid.places.masks) == 3


def test_the_users_text_is_inert_and_the_place_is_the_templates() -> None:
    (laid,) = encoder("{text} it was {mask}").encode([Example(("a [MASK] [SEP] film",))])
    assert laid.ids.count(ROLE["mask"]) == 1 and laid.ids.count(ROLE["sep"]) == 1 and laid.ids[laid.places.masks[0]] == ROLE["mask"]


def test_limits_of_each_text_and_of_a_field() -> None:
    assert shown("{text} {mask} {text_pair}", limits=(2, 1)) == "[CLS] the film [MASK] it [SEP]"
    assert shown("{text} {mask} {text_pair}", limits=(2,)) == "[CLS] the film [MASK] it was [SEP]"
    assert shown("{text:max=1} {mask} {text_pair:max=3}", limits=(2,)) == "[CLS] the [MASK] it was [SEP]"


@pytest.mark.parametrize(
    ("how", "expected"),
    [("longest", "the film [MASK] it was"), ("tail", "the film was good [MASK]"), ("head", "[UNK] [MASK] it was bad")],
)
def test_a_long_prompt_is_shortened(how: Any, expected: str) -> None:
    found = encoder("{text} {mask} {text_pair}", 7, how=how)
    (laid,) = found.encode([PAIR])
    assert found.coder.tokenizer.decode(laid.ids) == f"[CLS] {expected} [SEP]" and laid.places.cut
    assert not found.with_room(64).encode([PAIR])[0].places.cut


def test_fixed_parts_that_are_too_long() -> None:
    with pytest.raises(RecipeError, match=r"its own tokens are 5, and 5 fit beside special ones in 7; shorten the template"):
        encoder("the film was good {mask} {text}", 7).check()
    encoder("the film was good {mask} {text}", 8).check()
    with pytest.raises(DataError, match=r"row 7: template .* holds 6 tokens that may not be cut, and 5 fit"):
        encoder("{text:keep} {mask} {text_pair}", 7).encode([PAIR])


def test_a_row_without_a_text_that_the_template_reads() -> None:
    with pytest.raises(DataError, match=r"row 3: template .* reads 'text_pair', and the row has 1 text\(s\): text"):
        encoder("{text} {mask} {text_pair}").encode([Example(("a film",), row=3)])
    assert shown("{title} {mask}", names=("title", "body")) == "[CLS] the film was good [UNK] [MASK] [SEP]"


def test_a_decoders_prompt_ends_before_its_mask() -> None:
    found = encoder("{text} it was {mask}", family="gpt2")
    (laid,) = found.encode([Example(("good film",))])
    assert found.coder.tokenizer.decode(laid.ids) == "good film it was" and laid.places.masks == (len(laid.ids) - 1,)


def test_encoding_is_the_same_one_by_one_and_in_bulk() -> None:
    rows = [Example((f"the film {'was good ' * i}", "it was bad")) for i in range(9)]
    found = encoder("{text:strip_last}? {mask}, {text_pair}", 14)
    assert found.encode(rows) == [found.encode([row])[0] for row in rows]


@pytest.mark.parametrize(
    ("template", "check", "expected"),
    [
        ("{txt} {mask}", lambda t: check_fields(t, ("text", "text_pair")), r"unknown field 'txt'; did you mean 'text'\?.*fields: \[txt\]"),
        ("{premise} {mask}", lambda t: check_fields(t, ("text",)), "unknown field 'premise'; known: text"),
        ("it was {mask}", lambda t: check_fields(t, ("text",)), r"reads no text; write \{text\}"),
        ("{text} it was", lambda t: check_masks(t, 1), r"has no mask; write \{mask\}"),
        ("{{ text }} it was", lambda t: check_masks(t, 1), r"has no mask"),
        ("{text} {mask} {mask}", lambda t: check_masks(t, 1), "has 2 masks, and the verbalizer reads 1"),
        ("{text} {mask*2}", lambda t: check_masks(t, 3), "has 2 masks, and the verbalizer reads 3"),
        ("{text} {label:2} {mask}", lambda t: check_labels(t, 2), "label word of class 2; there are 2"),
        ("{text} {labelx:0} {mask}", lambda t: check_labels(t, 2), "let the framing demonstrations add"),
    ],
)
def test_refusals_name_the_template_and_the_fix(template: str, check: Any, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected) as refused:
        check(parse(template))
    assert str(parse(template)) in str(refused.value)


def test_a_mask_takes_as_many_tokens_as_are_needed() -> None:
    assert check_masks(parse("{text} {mask}"), 3) == 3 and check_masks(parse("{text} {mask*2}"), 2) == 1
    assert check_masks(parse("{mask} {text} {mask}"), 2) == 1


@pytest.mark.parametrize("template", ["{text} was {mask}.", "{mask} {text}", "{mask} {text} {mask}"])
def test_a_mask_that_is_not_last_for_a_decoder(template: str) -> None:
    from tempering.errors import ModelError

    with pytest.raises(ModelError, match=r"cloze cannot serve m \(f\).*ends with its one mask, or choose an encoder"):
        check_causal(parse(template), "cloze", "m", "f")
    check_causal(parse("*cls**sent_0*_was*mask**sep+*"), "cloze", "m", "f")


def test_a_note_where_words_touch_a_text() -> None:
    assert "no space between 'a' and a text" in boundaries(parse("a{text} {mask}").skeleton())
    assert "no space between 's' and a text" in boundaries(parse("{text}s {mask}").skeleton())
    for fine in ("a {text}, {mask}", "{text}? {mask}{text_pair}", "{text}{sep}a {mask}"):
        assert boundaries(parse(fine).skeleton()) == ""
