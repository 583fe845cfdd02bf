"""Single settings: those that must agree may come in any order, and what is meant for a method inside another is found."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from tempering.errors import RecipeError
from tempering.recipe import Recipe, parse_settings
from tempering.tunings.lora import LoRA


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("prompt-tuning", ["tuning.init=file", "tuning.file=films-prompt"]),
        ("prompt-tuning", ["tuning.init=text", "tuning.text=what a film"]),
        ("in-context", ["framing.search=candidates", "framing.candidates=[good, bad]"]),
        ("in-context", ["framing.order=nearest_last", "framing.retrieval=bm25"]),
        ("t-few", ["framing.answers=trie", "framing.losses=[lm]", "framing.length_norm=null"]),
        ("text-to-text-trie", ["framing.length_norm=1", "framing.answers=likelihood"]),
        ("text-to-text", ["framing.answers=free", "framing.do_sample=true", "framing.temperature=0.8"]),
        ("full", ["tuning=lora", "tuning.r=4", "learning_rate=1e-3"]),
        ("tapt-lora", ["stages.0.framing.masking=span", "stages.0.framing.probability=0.3", "tuning.r=4", "stages.1.tuning.lora_alpha=2"]),
    ],
)
def test_settings_that_belong_together_come_in_any_order(recipe: str, settings: list[str]) -> None:
    found = {Recipe.load(recipe).override(parse_settings(order)).to_yaml() for order in permutations(settings)}
    assert len(found) == 1 and found != {Recipe.load(recipe).to_yaml()}


def test_what_is_set_inside_a_method_holds_for_the_one_that_takes_its_place() -> None:
    tuning = {"tuning.r": 2, "tuning": {"lora": {"lora_alpha": 4}}}
    found = Recipe.load("full").override(tuning | {"stabilizers": ["mixout"], "stabilizers.mixout.p": 0.5})
    assert found.stages[0].tuning == LoRA(r=2, lora_alpha=4) and found.stages[0].stabilizers[0].p == 0.5
    with pytest.raises(RecipeError, match="setting 'tuning.r': no field 'r'; known: "):
        Recipe.load("lora").override({"tuning.r": 2, "tuning": "bitfit"})


@pytest.mark.parametrize(
    ("recipe", "settings", "said"),
    [
        ("lm-bff", {"framing.template": "x"}, r"no field 'template'; did you mean framing\.framing\.template\?"),
        ("kpt", {"verbalizer.file": "x"}, r"no field 'verbalizer'; did you mean framing\.verbalizer\.file\?"),
        ("lora", {"r": 4}, r"no field 'r'; did you mean tuning\.r\?"),
        ("tapt-lora", {"stages.0.probability": 0.2}, r"did you mean stages\.0\.framing\.probability\?"),
        ("prompt-tuning", {"tuning.init": "file", "learning_rate": 1e-3}, r"^setting tuning"),
        ("lora", {"tuning.r": "many", "tuning.lora_alpha": 2}, r"^setting tuning\.r: .*integer.*'many'"),
        ("lora", {"learning_rate": "fast", "tuning.lora_alpha": 2}, r"^setting learning_rate: .*'fast'"),
    ],
)
def test_what_is_wrong_is_told_by_the_name_that_would_be_right(recipe: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe.load(recipe).override(settings)


@pytest.mark.parametrize(
    ("recipe", "field", "text"),
    [
        ("text-to-text", "source", "summarize: {text}"),
        ("text-to-text", "source", "translate English to German: {text} # now"),
        ("text-to-text", "source", "- {text}"),
        ("text-to-text", "cue", "# Answer"),
        ("cloze", "template", "{text} # {mask}"),
        ("cloze", "template", "{mask}"),
        ("cloze", "template", "Is it {mask}?: {text}"),
        ("in-context", "instruction", "Answer: yes # or no"),
    ],
)
def test_a_text_is_the_text_that_was_typed(recipe: str, field: str, text: str) -> None:
    """Where YAML reads a mapping, a list or a comment in it."""
    found = Recipe.load(recipe).override(parse_settings([f"framing.{field}={text}"]))
    assert getattr(found.stages[-1].framing, field) == text and Recipe.from_yaml(found.to_yaml()) == found
    quoted = Recipe.load(recipe).override(parse_settings([f"framing.{field}='{text}'"]))
    assert quoted == found


def test_mappings_and_lists_stay_what_they_are_where_a_field_takes_them() -> None:
    """As plain data, which a recipe file can hold."""
    given = ["framing=text_to_text: {words: {1: good, 0: bad}}", "description=Note: mine", "framing.stop_strings=[a, b]"]
    found = Recipe.load("text-to-text").override(parse_settings(given))
    framing = found.stages[0].framing
    assert (framing.words, framing.stop_strings, found.description) == (((0, "bad"), (1, "good")), ("a", "b"), "Note: mine")
    assert Recipe.from_yaml(found.to_yaml()) == found
    several = Recipe.load("cloze").override(parse_settings(["framing.template=['{text} {mask}', '{mask}: {text}']"]))
    assert several.stages[0].framing.template == ("{text} {mask}", "{mask}: {text}")
    with pytest.raises(RecipeError, match=r"setting learning_rate: .*found \{'fast': 1\}"):
        Recipe.load("full").override(parse_settings(["learning_rate=fast: 1"]))
