"""Templates of promptsource and lm-evaluation-harness, run in a sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.templates.encoder import TemplateEncoder
from tempering.framings.templates.fieldtext import FieldText
from tempering.framings.templates.jinja import JinjaTemplate
from tempering.framings.templates.pieces import Field, Mask, Text
from tempering.framings.templates.reading import dialect_of, parse
from tests.tiny import tiny_backbone

FILE = """
dataset: glue
subset: rte
templates:
  4ee6ff27: !Template
    answer_choices: yes ||| no
    id: 4ee6ff27
    jinja: "{{premise}}\\nQuestion: {{hypothesis}} True or False? ||| {{ answer_choices[label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages: [en]
      metrics: [Accuracy]
      original_task: true
    name: does this imply
    reference: ''
  9e2b4267: !Template
    answer_choices: No ||| Yes
    id: 9e2b4267
    jinja: "{{premise}} ? {{mask}}, {{hypothesis}}"
    metadata: !TemplateMetadata {}
    name: mask inside
    reference: ''
"""


def said(source: str, **values: str) -> list[tuple[str, str]]:
    """(kind of piece, what it says), a space shown as an underscore in front."""
    return [("_" * p.space + type(p).__name__, text) for p, text in parse(source).fill(values)]  # type: ignore[union-attr]


def test_the_mask_stands_where_the_answer_would() -> None:
    found = said("{{ text }} It was ||| {{ answer_choices[label] }}", text="Good film.")
    assert found == [("Field", "Good film."), ("_Text", "It was"), ("_Mask", "")]
    assert said("{{ text }} It was {{ mask }}.", text="x") == [("Field", "x"), ("_Text", "It was"), ("_Mask", ""), ("Text", ".")]
    assert said("doc_to_text: '{{text}}\\nAnswer:'", text="x") == [("Field", "x"), ("Text", "\\nAnswer:"), ("_Mask", "")]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("text", "Good film"),
        ("text | lower", "good film"),
        ("text | upper", "GOOD FILM"),
        ("text | trim", "Good film"),
        ("text | replace('film', 'book')", "Good book"),
        ("text | capitalize", "Good film"),
        ("text.rstrip('m')", "Good fil"),
        ("text.lstrip('G')", "ood film"),
        ("text | title", "Good Film"),
        ("text.title()", "Good Film"),
        ("text[5:]", "film"),
        ("text[-1]", "m"),
        ("text.removeprefix('Good ') | upper", "FILM"),
        ("text.removesuffix(' film')", "Good"),
    ],
)
def test_filters_leave_a_field_a_field(expression: str, expected: str) -> None:
    assert said(f"{{{{ {expression} }}}} {{{{ mask }}}}", text="Good film")[0] == ("Field", expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ text ~ '!' }} {{ mask }}", [("Field", "Good film"), ("Text", "!"), ("_Mask", "")]),
        ("{{ (text + '!') | upper }} {{ mask }}", [("Field", "GOOD FILM"), ("Text", "!"), ("_Mask", "")]),
        ("{{ 'So: ' + text }} {{ mask }}", [("Text", "So:"), ("_Field", "Good film"), ("_Mask", "")]),
        ("{{ text ~ ' It was ' ~ mask ~ 1 }}", [("Field", "Good film"), ("_Text", "It was"), ("_Mask", ""), ("Text", "1")]),
        ("{{ text[0].lower() }}{{ text[1:] }} {{ mask }}", [("Field", "good film"), ("_Mask", "")]),
        ("{{ text[0].lower() ~ text[1:] }} {{ mask }}", [("Field", "good film"), ("_Mask", "")]),
        (
            "{% set both = text ~ ' / ' ~ text %}{{ both }} {{ mask }}",
            [("Field", "Good film"), ("_Text", "/"), ("_Field", "Good film"), ("_Mask", "")],
        ),
    ],
)
def test_what_is_put_together_is_printed_part_by_part(source: str, expected: list[tuple[str, str]]) -> None:
    assert said(source, text="Good film") == expected


def test_what_cannot_be_shortened_is_told_with_what_can() -> None:
    backbone = tiny_backbone("bert")
    words = " ".join(["film"] * 300)
    for expression in ("text", "text ~ '!'", "text | title", "text[0].upper() ~ text[1:]"):
        coder = TemplateEncoder.of(parse(f"{{{{ {expression} }}}} It was {{{{ mask }}}}."), backbone, 20)
        assert len(coder.encode([Example((words,))])[0].ids) == 20
    coder = TemplateEncoder.of(parse("{{ text.split() | join(' ') }} {{ mask }}"), backbone, 20)
    with pytest.raises(DataError, match=r"^template .* holds 301 tokens that may not be cut.*in Jinja: print them as they are"):
        coder.encode([Example((words,))])


def test_conditions_and_loops_see_the_text_itself() -> None:
    source = "{% if text == 'a' %}A{% else %}{{ text | length }}{% endif %} {% for w in text.split() %}[{{ w }}]{% endfor %} {{ mask }}"
    assert said(source, text="a") == [("Text", "A [a]"), ("_Mask", "")]
    assert said(source, text="bb c") == [("Text", "4 [bb][c]"), ("_Mask", "")]


def test_private_marks_in_a_text_are_dropped() -> None:
    assert said("{{ text }} {{ mask }}", text="a\ue000b\ue003") == [("Field", "ab"), ("_Mask", "")]


def test_bars_in_a_text_part_nothing() -> None:
    text = "I like pipes ||| a lot"
    assert said("{{ text }} It was {{ mask }}.", text=text) == [("Field", text), ("_Text", "It was"), ("_Mask", ""), ("Text", ".")]
    assert said("{{ text }} It was ||| {{ answer_choices[label] }}", text=text) == [("Field", text), ("_Text", "It was"), ("_Mask", "")]


def test_choice_and_most_frequent() -> None:
    source = "{{ ['a', 'b', 'c', 'd', 'e', 'f'] | choice }}{{ ['x', 'y', 'x'] | most_frequent | first }} {{ text }} {{ mask }}"
    drawn = {said(source, text=f"t{i}")[0][1] for i in range(30)}
    assert len(drawn) > 3 and all(len(d) == 2 and d[0] in "abcdef" and d[1] == "x" for d in drawn)
    assert said(source, text="t1") == said(source, text="t1")  # an example always says the same


def test_a_prompt_that_gives_the_answer_away_is_refused() -> None:
    with pytest.raises(RecipeError, match="changes with the label and gives the answer away"):
        said("{{ text }} {{ ['no', 'yes'][label] }} {{ mask }}", text="x")


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }} {{ mask }}", "{{ text.__init__.__globals__ }} {{ mask }}"])
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(RecipeError, match="cannot be filled"):
        parse(source).fill({"text": "x"})


def test_entries_in_lines() -> None:
    found = parse("jinja: '{{text}} ? {{mask}}'\nanswer_choices: no ||| yes")
    assert isinstance(found, JinjaTemplate) and found.choices == ("no", "yes")
    harness = parse("doc_to_text: 'Is it? {{text}}'\ndoc_to_choice: [no, yes]\ntarget_delimiter: ' '")
    assert harness.choices == ("no", "yes")  # YAML 1.2: no Boolean
    assert [type(p) for p in harness.skeleton()] == [Text, Field, Mask]


@pytest.mark.parametrize(
    "source",
    [
        "{{ text }} so ||| {{ answer_choices[label] }}",
        "jinja: '{{text}} {{mask}}'\nanswer_choices: no ||| yes\nname: n",
        "doc_to_text: '{{text}}'\ndoc_to_choice: [no, yes]",
        "jinja: {{ text }} ||| x",
        "jinja:{{ text }} ||| x",
    ],
)
def test_written_out_and_read_again_it_is_the_same(source: str) -> None:
    found = parse(source)
    assert parse(str(found)) == found and str(parse(str(found))) == str(found)
    assert found.fields() == ("text",) and dialect_of(str(found)) == "jinja"


@pytest.mark.parametrize(
    "choices",
    ["['bad', 'good']", "\"{{['bad','good']}}\"", "\"{{ ['bad', 'good'] }}\"", "\"['bad', 'good']\"", "{0: bad, 1: good}", "bad ||| good"],
)
def test_choices_of_the_harness_are_evaluated(choices: str) -> None:
    assert parse(f"doc_to_text: 'Is it? {{{{text}}}}'\ndoc_to_choice: {choices}").choices == ("bad", "good")  # type: ignore[union-attr]


TASK = """
tag: glue
task: sst2
dataset_path: glue
process_docs: !function utils.process_docs
output_type: multiple_choice
doc_to_text: "{{sentence}}\\nQuestion: Is this sentence positive or negative?\\nAnswer:"
doc_to_target: label
doc_to_choice: ["negative", "positive"]
metric_list:
  - metric: acc
    aggregation: !function metrics.mean
metadata:
  version: 1.0
"""


def test_a_task_of_the_harness_is_read_as_it_stands(tmp_path: Path) -> None:
    inline = parse(TASK)
    assert isinstance(inline, JinjaTemplate) and inline.choices == ("negative", "positive") and inline.fields() == ("sentence",)
    (tmp_path / "sst2.yaml").write_text(TASK)
    assert parse(f"lm-eval:{tmp_path}/sst2.yaml") == inline == parse(str(inline))
    (tmp_path / "other.yaml").write_text("include: sst2.yaml\ntask: other\ndoc_to_text: sentence\n")
    other = parse(f"lm-eval:{tmp_path}/other.yaml")
    assert other.choices == ("negative", "positive") and other.source == "{{ sentence }}"  # type: ignore[union-attr]


def test_a_text_of_the_harness_without_choices_comes_back() -> None:
    found = parse("doc_to_text: 'Is it? {{text}}'")
    assert parse(str(found)) == found and found.harness  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "doc_to_text: '{{text}}'\ndoc_to_choice: options",
            "doc_to_choice 'options' is the name of a column, whose choices change by row; write the label words",
        ),
        ("doc_to_text: '{{text}}'\ndoc_to_choice: '{{[text, 1]}}'", "doc_to_choice .* change with the field 'text'"),
        ("doc_to_text: '{{text}}'\ndoc_to_choice: \"{{['bad'\"", "line 1: not valid Jinja"),
        ("doc_to_text: '{{text}}'\ndoc_to_choice: \"{{ ''.__class__.__mro__ }}\"", "not valid Jinja: .*unsafe"),
        ("doc_to_text: '{{text}}'\ndoc_to_choice: '{{ 1 / 0 }}'", "not valid Jinja: division by zero"),
        ("doc_to_text: '{{text}}'\ndoc_to_choice: !function utils.choices", "a function in Python, which is not run"),
        ("doc_to_text: !function utils.text\ntask: x", "doc_to_text is 'utils.text', a function in Python"),
        ("doc_to_text: '{{text}}'\ndoc_to_choices: [a, b]", "unknown entry 'doc_to_choices'; did you mean 'doc_to_choice'"),
    ],
)
def test_what_a_task_of_the_harness_cannot_say_is_named(lines: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        parse(lines)


def test_a_file_that_is_no_task_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text("include: loop.yaml\n")
    (tmp_path / "bare.yaml").write_text("task: x\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    for name, expected in (
        ("loop", "includes itself"),
        ("bare", "has no doc_to_text"),
        ("list", "holds no entries"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(RecipeError, match=expected):
            parse(f"lm-eval:{tmp_path}/{name}.yaml")


def test_a_file_of_promptsource(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(FILE)
    found = parse(f"promptsource:{path}#does this imply")
    assert found.choices == ("yes", "no") and found.fields() == ("premise", "hypothesis")  # in the order of their use
    pieces = found.fill({"premise": "It rains.", "hypothesis": "It is wet."})
    assert [text for _, text in pieces] == ["It rains.", "\nQuestion:", "It is wet.", "True or False?", ""]
    with pytest.raises(RecipeError, match="no template of that name; did you mean promptsource:.*#mask inside"):
        parse(f"promptsource:{path}#mask insides")
    with pytest.raises(RecipeError, match="cannot be read"):
        parse("promptsource:nowhere.yaml#x")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ text } {{ mask }}", "line 1: not valid Jinja"),
        ("{% if text %} {{ mask }}", "not valid Jinja"),
        ("jinja: '{{text}}'\nanswers: no", "unknown entry 'answers'; known: name, id, jinja"),
        ("jinja: '{{text}}'\nanswer_choices: '{{ options }}'", "change with the field 'options'"),
        ("jinja: '{{text}}\nanswer_choices: a", "not valid YAML"),
    ],
)
def test_a_mistake_is_named(source: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        parse(source)


def test_a_field_text_is_its_text() -> None:
    field = FieldText.of("abc", "text")
    assert field == "abc" and str(field) is field and len(field) == 3 and field.upper() == "ABC"
