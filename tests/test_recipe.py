"""Recipes: YAML 1.2, overrides, refusals that name their place, keys, and the schema of the shipped files."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tempering.errors import RecipeError
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import FOLDER, Recipe, _yaml, available, json_schema, parse_settings
from tempering.stabilizers.ema import EMA
from tempering.stabilizers.gradual_unfreezing import GradualUnfreezing
from tempering.stabilizers.l2_sp import L2SP
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.re_init import ReInit
from tempering.stabilizers.swa import SWA
from tempering.stages.train import Train
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA

TEXT = """
version: 1
name: no
description: on
stages:
- train:
    framing: {head: {heads: 2, layers: [-1, 0]}}
    tuning: {lora: {r: 4, target_modules: [query, 'yes']}}
    stabilizers: [r_drop, {layer_decay: {decay: 0.9}}]
    learning_rate: 1e-5
    eval_strategy: no
    load_best_model_at_end: false
    warmup_ratio: 0.06
search:
  learning_rate: [1e-5, 3E-4]
  tuning.r: [4, 8]
"""


def _of(stage: str) -> str:
    return f"stages:\n- train: {stage}\n"


def test_words_and_numbers_mean_what_they_say() -> None:
    recipe = Recipe.from_yaml(TEXT)
    (stage,) = recipe.stages
    assert (recipe.name, recipe.description) == ("no", "on")
    assert stage.eval_strategy == "no" and stage.load_best_model_at_end is False
    assert stage.learning_rate == 1e-5 and stage.warmup_steps == 0.06
    assert stage.tuning == LoRA(r=4, target_modules=("query", "yes")) and stage.framing == Head(heads=2, layers=(-1, 0))
    assert dict(recipe.search) == {"learning_rate": (1e-5, 3e-4), "tuning.r": (4, 8)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_of("{tunin: full}"), r"recipe: stages\.0\.train: unknown field 'tunin'; did you mean tuning"),
        (_of("{tuning: lorra}"), r"recipe: stages\.0\.train\.tuning: unknown tuning 'lorra'; did you mean lora"),
        (_of("{tuning: {lora: {rank: 4}}}"), r"stages\.0\.train\.tuning\.lora: unknown field 'rank'; known: r, lora_alpha"),
        (_of("{tuning: {lora: {r: two}}}"), r"stages\.0\.train\.tuning\.lora\.r: .*integer.*found 'two'"),
        (_of("{tuning: {lora: 4}}"), r"tuning\.lora: expected fields as  name: value, found 4"),
        (_of("{tuning: {lora: {}, full: {}}}"), r"tuning: expected the name of a tuning \(full, frozen"),
        (_of("{stabilizers: [mixout, {r_drop: {alfa: 1}}]}"), r"stabilizers\.1\.r_drop: unknown field 'alfa'; did you mean alpha"),
        (_of("{learning_rate: -1}"), r"stages\.0\.train\.learning_rate: .*greater than 0.*found -1"),
        (_of("{fp16: true}"), r"stages\.0\.train: fp16 needs loss scaling"),
        ("stages:\n- trian: {}\n", r"stages\.0: unknown stage 'trian'; did you mean train"),
        ("stages: []", "at least one stage"),
        ("stages: train", "at least one stage"),
        ("- train", "expected a mapping"),
        ("stage:\n- train", "unknown entry 'stage'; did you mean 'stages'"),
        ("version: 2\nstages:\n- train", "version 2 is not known here; this release reads version 1"),
        ("stages:\n- train\nsearch: {learning_rate: 1e-5}", "search must map a setting to a list"),
        ("stages:\n- train: {\n", r"recipe, line \d+: not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text)


def test_a_name_that_is_none_lists_near_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe 'lorra': no shipped recipe and no file of that name; did you mean .*lora"):
        Recipe.load("lorra")
    (tmp_path / "mine.yaml").write_bytes("stages:\n- train # \xe9".encode("latin-1"))
    with pytest.raises(RecipeError, match="save it as UTF-8"):
        Recipe.load(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("stages:\n- train\n")
    assert Recipe.load(str(tmp_path / "mine.yaml")).stages == (Train(),)


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"learning_rate": 1e-4}, "learning_rate", 1e-4),
        ({"warmup_ratio": 0.2}, "warmup_steps", 0.2),
        ({"tuning": "full"}, "tuning", Full()),
        ({"tuning": {"lora": {"r": 2}}}, "tuning", LoRA(r=2)),
        ({"tuning.r": 16, "tuning.lora_alpha": 32}, "tuning", LoRA(r=16, lora_alpha=32)),
        ({"framing.heads": 3}, "framing", Head(heads=3)),
        ({"stages.1.framing.heads": 3}, "framing", Head(heads=3)),
        ({"stabilizers": ["mixout"]}, "stabilizers", (Mixout(),)),
        ({"stabilizers": []}, "stabilizers", ()),
        ({"stabilizers.0": "mixout"}, "stabilizers", (Mixout(),)),
        ({"stabilizers.0": {"r_drop": {"alpha": 3}}}, "stabilizers", (RDrop(3),)),
        ({"stabilizers.r_drop.alpha": 2}, "stabilizers", (RDrop(2),)),
        ({"stabilizers.0.alpha": 2}, "stabilizers", (RDrop(2),)),
    ],
)
def test_an_override_reaches_the_last_stage(settings: dict[str, Any], field: str, value: Any) -> None:
    recipe = Recipe("two", (Train(framing=MaskedLM(), text="unlabeled"), Train(tuning=LoRA(), stabilizers=(RDrop(),))))
    changed = recipe.override(settings)
    assert getattr(changed.stages[1], field) == value
    assert changed.stages[0] == recipe.stages[0] and changed.search == recipe.search
    assert dataclasses.replace(changed.stages[1], **{field: getattr(recipe.stages[1], field)}) == recipe.stages[1]


def test_an_override_of_the_first_stage_or_the_name() -> None:
    recipe = Recipe.load("tapt-lora").override({"stages.0.framing.probability": 0.3, "name": "mine"})
    assert recipe.stages[0].framing == MaskedLM(0.3) and recipe.name == "mine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1}, r"setting 'learning_rat': no field 'learning_rat'; did you mean learning_rate"),
        ({"tuning.k": 1}, r"setting 'tuning\.k': no field 'k'; known: "),
        ({"learning_rate.x": 1}, "'x' is not inside a method"),
        ({"stabilizers.3": "mixout"}, r"there is no '3' here; there are 1 entries"),
        ({"stabilizers.mixout.p": 0.1}, "there is no 'mixout' here"),
        ({"stabilizers.0": "mixxout"}, "setting stabilizers.0: unknown stabilizer 'mixxout'; did you mean mixout"),
        ({"stages.7.tuning": "full"}, "there is no '7' here"),
        ({"learning_rate": "fast"}, "setting learning_rate: .*found 'fast'"),
        ({"framing.max_length": 0}, r"setting framing\.max_length: .*found 0"),
        ({"tuning": "lorra"}, "tuning: unknown tuning 'lorra'"),
    ],
)
def test_an_override_that_cannot_be_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe("r", (Train(stabilizers=(RDrop(),)),)).override(settings)


def test_settings_of_a_command_line_are_yaml() -> None:
    found = parse_settings(["learning_rate=1e-5", "eval_strategy=no", "bf16=true", "tuning.target_modules=[query, key]", "text=a=b"])
    assert found == {"learning_rate": 1e-5, "eval_strategy": "no", "bf16": True, "tuning.target_modules": ["query", "key"], "text": "a=b"}
    for wrong in ("learning_rate", "=3"):
        with pytest.raises(RecipeError, match="expected key=value"):
            parse_settings([wrong])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((Train(tuning=LoRA(), stabilizers=(Mixout(),)),), "mixout draws trained weights back .* tuning lora trains none"),
        ((Train(tuning=Houlsby(), stabilizers=(Mixout(),)),), "tuning houlsby trains none of those; use tuning full or top_layers"),
        ((Train(stabilizers=(RDrop(), RDrop(2.0))),), "r_drop stands there twice"),
        ((Train(stabilizers=(Mixout(),), gradient_checkpointing=True),), "gradient"),
        ((Train(tuning=LoRA(), stabilizers=(L2SP(),)),), "l2_sp draws trained weights back .* tuning lora trains none"),
        ((Train(tuning=BitFit(), stabilizers=(ReInit(),)),), "re_init draws pretrained layers anew, .* tuning bitfit trains none of those"),
        ((Train(tuning=Frozen(), stabilizers=(GradualUnfreezing(),)),), "gradual_unfreezing .* tuning frozen trains none of those"),
        ((Train(stabilizers=(EMA(), SWA())),), "ema and swa each chooses the final weights"),
        ((Train(text="unlabeled"),), "framing head needs labels, but text is 'unlabeled'"),
        ((Train(tuning=Houlsby()), Train()), r"stages\.0: tuning houlsby cannot be folded"),
    ],
)
def test_what_means_nothing_is_refused_before_any_weight_is_loaded(stages: tuple[Train, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe("r", stages).check()


def test_a_neutral_method_is_no_reason_to_refuse_and_oddities_are_noted() -> None:
    assert Recipe("r", (Train(tuning=LoRA(), stabilizers=(Mixout(0.0),)),)).check() == []
    plain = Recipe("r", (Train(framing=MaskedLM(), text="unlabeled"),))
    assert "reads no labels" in plain.check()[0] and plain.check(labelled=False) == []
    frozen = Recipe("r", (Train(framing=MaskedLM(), tuning=Frozen(), text="unlabeled"), Train())).check()
    assert "nothing but the language-model head" in frozen[0]


def test_the_key_is_of_what_is_done_and_not_of_its_name() -> None:
    recipe = Recipe.load("lora")
    same = dataclasses.replace(recipe, name="other", description="x", search={"learning_rate": [1e-3]})
    assert recipe.key() == same.key() == Recipe.load("lora").key() and len(recipe.key()) == 16
    assert recipe.key() != recipe.override({"tuning.r": 16}).key()
    names = [name for name in available() if not name.startswith("strategy-")]  # those show the survey's strategies, whatever else exists
    assert len({Recipe.load(name).key() for name in names}) == len(names)


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"tuning.rank": [4]}, r"r: search\.tuning\.rank, value 4: .*rank"),
        ({"learning_rate": [1e-4, "fast"]}, r"r: search\.learning_rate, value 'fast': .*number"),
        ({"stages.3.seed": [1]}, r"r: search\.stages\.3\.seed, value 1: .*stages"),
    ],
)
def test_a_search_space_that_cannot_be_set_is_refused_before_anything_runs(search: dict[str, Any], said: str) -> None:
    recipe = dataclasses.replace(Recipe.load("lora"), name="r", search=search)
    with pytest.raises(RecipeError, match=said):
        recipe.check()


@pytest.mark.parametrize("name", available())
def test_shipped_recipes_pass_the_check_and_their_search_spaces_can_be_set(name: str) -> None:
    recipe = Recipe.load(name)
    recipe.check()
    for setting, values in recipe.search:
        keys = [recipe.override({setting: value}).key() for value in values]
        assert keys[0] == recipe.key() and len(set(keys)) == len(values)


def _fits(node: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """Complaints of the part of JSON schema that our schema uses, where no validator is installed."""
    if "anyOf" in schema:
        found = [_fits(node, option, where) for option in schema["anyOf"]]
        return [] if any(not f for f in found) else min(found, key=len)
    if "const" in schema or "enum" in schema:
        return [] if node in schema.get("enum", [schema.get("const")]) else [f"{where}: {node!r}"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    if "type" in schema and not isinstance(node, kinds[schema["type"]]):
        return [f"{where}: {node!r} is no {schema['type']}"]
    found = [f"{where}: {key} is missing" for key in schema.get("required", ()) if key not in node]
    if isinstance(node, dict):
        known = schema.get("properties", {})
        found += [f"{where}: {key} is unknown" for key in node if key not in known and schema.get("additionalProperties") is False]
        found += [m for key, value in node.items() if key in known for m in _fits(value, known[key], f"{where}.{key}")]
    if isinstance(node, list) and isinstance(schema.get("items"), dict):
        found += [m for i, value in enumerate(node) for m in _fits(value, schema["items"], f"{where}.{i}")]
    return found


@functools.cache
def _schema() -> dict[str, Any]:
    return json_schema()


def _complaints(plain: Any) -> list[str]:
    if importlib.util.find_spec("jsonschema"):
        import jsonschema

        return [e.message for e in jsonschema.Draft202012Validator(_schema()).iter_errors(plain)]
    return _fits(plain, _schema())


@pytest.mark.parametrize("name", available())
def test_shipped_recipes_fit_the_schema(name: str) -> None:
    assert _complaints(_yaml().load((FOLDER / f"{name}.yaml").read_text())) == []


@pytest.mark.parametrize(
    "text", [_of("{tunin: full}"), _of("{tuning: {lora: {rank: 1}}}"), _of("{stabilizers: [mixxout]}"), "name: x", _of("{max_steps: many}")]
)
def test_the_schema_refuses_what_the_reader_refuses(text: str) -> None:
    assert _complaints(_yaml().load(text)) != []
