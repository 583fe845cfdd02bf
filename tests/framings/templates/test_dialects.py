"""Four ways to write a template, one form inside; written out and read again it is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering.errors import RecipeError
from tempering.framings.templates.pieces import TRANSFORMS, Field, Label, Mask, Soft, Special, Template, Text
from tempering.framings.templates.reading import dialect_of, parse, write

CLS, SEP = Special("cls"), Special("sep+")
PLAIN = {
    "{text} It was {mask}.": (Field("text"), Text("It was", True), Mask(space=True), Text(".")),
    "{text:strip_last}? {mask}, {text_pair:lower_first}": (
        Field("text", ("strip_last",)),
        Text("?"),
        Mask(space=True),
        Text(","),
        Field("text_pair", ("lower_first",), True),
    ),
    "{mask*2}{soft:3}{soft:It was}{soft#a:'3'}{sep+}{bos}": (
        Mask(2),
        Soft(3),
        Soft(0, "It was"),
        Soft(0, "3", "a"),
        SEP,
        Special("bos"),
    ),
    r"a \{b\} c\\d {text:keep,max=9,lower}{label:0} {labelx:2}": (
        Text("a {b} c\\d"),
        Field("text", ("lower",), True, False, 9),
        Label(0),
        Label(2, True, True),
    ),
}
LM_BFF = {
    "*cls**sent_0*_It_was*mask*.*sep+*": (CLS, Field("text"), Text("It was", True), Mask(), Text("."), SEP),
    "*cls**sent-_0*?*mask*,*+sentl_1**sep+*": (
        CLS,
        Field("text", ("strip_last",)),
        Text("?"),
        Mask(),
        Text(","),
        Field("text_pair", ("lower_first",), True),
        SEP,
    ),
    "*cls**+sentu_12*_*label_3**labelx_10*": (CLS, Field("text_12", ("upper_first",), True), Label(3, space=True), Label(10, True)),
    "*sentl-_0**sep*": (Field("text", ("strip_last", "lower_first")), Special("sep")),
}
OPENPROMPT = {
    '{"placeholder":"text_a"} It was {"mask"}.': PLAIN["{text} It was {mask}."],
    "{'meta': 'title', 'shortenable': True} {'mask': None, 'duplicate': 2}{'special': '<eos>'}": (
        Field("title"),
        Mask(2, True),
        Special("eos"),
    ),
    '{"soft"} {"soft": "It was", "soft_id": 2}{"soft": None, "duplicate": 3}{"soft_id": 2}': (
        Soft(),
        Soft(0, "It was", "2", True),
        Soft(3),
        Soft(1, "", "2"),
    ),
    '{"placeholder": "text_b", "shortenable": False, "post_processing": lambda s: s.rstrip(string.punctuation)}{"text": "{x}"} {"mask"}': (
        Field("text_pair", ("strip_punct",), False, False),
        Text("{x}"),
        Mask(space=True),
    ),
    '{"meta": "title", "post_processing": lambda x:x+"."} {"placeholder": "text_a", "post_processing": None} {"mask"}': (
        Field("title", ("add_stop",), shortenable=False),
        Field("text", space=True),
        Mask(space=True),
    ),
}


@pytest.mark.parametrize(
    ("dialect", "source", "pieces"),
    [(d, s, p) for d, found in (("plain", PLAIN), ("lm-bff", LM_BFF), ("openprompt", OPENPROMPT)) for s, p in found.items()],
)
def test_each_way_compiles_to_the_same_pieces(dialect: str, source: str, pieces: tuple[object, ...]) -> None:
    found = parse(source)
    assert isinstance(found, Template) and found.pieces == pieces and found.dialect == dialect == dialect_of(source)
    assert parse(f"{dialect}:{source}") == parse(source, dialect) == found
    assert parse(str(found)) == found and str(parse(str(found))) == str(found)


@pytest.mark.parametrize("source", [*PLAIN, *LM_BFF])
def test_what_another_way_has_words_for_it_writes_too(source: str) -> None:
    found = parse(source)
    assert isinstance(found, Template)
    for dialect in ("plain", "lm-bff", "openprompt"):
        text = _written(found, dialect)
        if text is None:
            assert dialect != "plain"
        else:
            assert parse(text, dialect).skeleton() == found.pieces


def _written(template: Template, dialect: str) -> str | None:
    """None where the way has no word for it, and says so."""
    try:
        return write(template, dialect)
    except RecipeError as refused:
        if "has no word for" not in str(refused) or "plain form" not in str(refused):
            raise
        return None


def test_one_soft_vector_copied() -> None:
    found = parse('{"soft": None, "duplicate": 3, "same": True} {"mask"}').skeleton()
    assert found[0] == found[1] == found[2] and isinstance(found[0], Soft) and found[0].key and found[0].count == 1


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=8)
FIELDS = st.builds(
    Field,
    st.sampled_from(["text", "text_pair", "title"]),
    st.lists(st.sampled_from(sorted(TRANSFORMS)), max_size=2).map(tuple),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 99),
)
OTHERS = st.one_of(
    st.builds(Mask, st.none() | st.integers(1, 4), st.booleans()),
    st.builds(Soft, st.integers(1, 9), st.just(""), st.sampled_from(["", "a", "b2"]), st.booleans()),
    st.builds(Soft, st.just(0), st.sampled_from(["It was", "3", "'", " so", '"x"']), st.sampled_from(["", "a"]), st.booleans()),
    st.builds(Special, st.sampled_from(["cls", "sep", "sep+", "bos", "eos"]), st.booleans()),
    st.builds(Label, st.integers(0, 12), st.booleans(), st.booleans()),
)
TEMPLATES = st.lists(st.one_of(WORDS, FIELDS, OTHERS), max_size=8)


@given(TEMPLATES)
def test_the_plain_form_writes_every_template(parts: list[object]) -> None:
    from tempering.framings.templates.pieces import spaced

    template = Template(spaced(parts))  # type: ignore[arg-type]
    assert parse(write(template), "plain") == template


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_sentence(source: str) -> None:
    for dialect in ("plain", "lm-bff", "openprompt"):
        try:
            found = parse(source, dialect)
        except RecipeError as refused:
            if "template" not in str(refused):
                raise
        else:
            assert str(parse(str(found), dialect)) == str(found)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{text It was {mask}.", r"character 1 is not closed before the next one; write \\\{ for a brace of the text itself"),
        ("{text} It was {mask.", "character 15 is not closed"),
        ("{text}} {mask}", "character 7 closes no brace"),
        ("{text} {}", "names nothing"),
        ("{text:lowercase} {mask}", "unknown transform 'lowercase'; known: strip, strip_last"),
        ("{text:max=0} {mask}", "whole number of at least 1, found '0'"),
        ("{mask:3}", "mask takes no options"),
        ("{text*3} {mask}", "only mask takes a"),
        ("{mask#a}", "only soft takes a #name"),
        ("{soft:''}", "no words to begin with"),
        ("*cls**sent_0*_It_was*mask.*sep+*", "the stars do not come in pairs"),
        ("*cls**sentence_0**mask*", r"unknown variable \*sentence_0\*; known"),
        ('{"placeholder": "text_c"} {"mask"}', "unknown placeholder 'text_c'; known: text_a, text_b"),
        ('{"placeholder": open("x")} {"mask"}', "expected a dict of plain values"),
        ('{"mask"', "character 1 is not closed"),
        ('{"mask", "soft"}', "expected one of .*found mask and soft"),
        ('{"masks"}', "unknown key 'masks'"),
        ('{"placeholder": "text_a", "post_processing": lambda x: exec(x)}', "is not one of the functions known here"),
        ('{"soft": None, "post_processing": "mlp"} {"mask"}', "post_processing changes what a text of the example says, and soft is none"),
        ('{"text": "It WAS", "post_processing": lambda x: x.lower()} {"mask"}', "and text is none; drop it, or name a placeholder or meta"),
        ('{"special": "<row>"} {"mask"}', "unknown special token '<row>'; known: cls"),
        ('{"mask": None, "duplicate": "3"}', "duplicate is how many copies"),
        ("lm-bff/sst3", "did you mean lm-bff/sst"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(source: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        parse(source)


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(RecipeError, match="unknown way to write a template 'mustache'; known: plain"):
        parse("{text}", "mustache")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("strip_last", "Hello.", "Hello"),
        ("strip_punct", "Really?! ", "Really"),
        ("lower_first", "Hello", "hello"),
        ("upper_first", "hello", "Hello"),
        ("lower", "HeLLo", "hello"),
        ("upper", "x", "X"),
        ("strip", " x ", "x"),
        ("add_stop", "Hello", "Hello."),
        ("lower_first", "", ""),
    ],
)
def test_transforms(name: str, text: str, expected: str) -> None:
    found = parse(f"{{text:{name}}} {{mask}}").fill({"text": text})
    assert found[0] == (Field("text", (name,)), expected)
