"""Data sets of stages whose columns have other names than the usual ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tempering.errors import DataError, RecipeError
from tempering.fitting import fit
from tempering.plan import explain
from tempering.recipe import Recipe, json_schema, parse_settings
from tempering.stages.data_source import DataSource
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.prime import Prime
from tempering.stages.sources import fingerprints, read_source
from tempering.stages.train import Train
from tempering.tunings.lora import LoRA
from tests.tiny import tiny_backbone, tiny_examples, tiny_task

LOOP: dict[str, Any] = {"max_steps": 2, "eval_strategy": "no", "learning_rate": 1e-2}


@pytest.fixture
def odd(tmp_path: Path) -> str:
    """Rows with columns of its own; ``half`` is another label of the same texts."""
    rows = [{"said": e.texts[0], "then": "it was", "verdict": e.label, "half": e.row % 2} for e in tiny_examples(24)]
    (path := tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_stage_reads_the_columns_it_is_told(odd: str) -> None:
    data = DataSource(odd, text="said", label="verdict")
    for first in (
        Train(data=data, **LOOP),
        MultiTask(tasks=(data, TaskSource(DataSource(odd, text="said", label="half"))), **LOOP),
        Prime(sources=(data, {"path": odd, "text": "said", "text_pair": "then", "label": "verdict"}), tuning=LoRA(r=2),
              outer_steps=1, eval_strategy="no"),
    ):  # fmt: skip
        learner = fit(Recipe("r", (first, Train(tuning=LoRA(r=2), **LOOP))), tiny_task(), tiny_backbone())
        assert learner.record["sources"] == fingerprints((first,)) and f"{odd} (text: said, label: verdict)" in learner.record["sources"]
        assert len(learner.record["sources"]) == len(first.data_paths), "the same file read otherwise is another data set"


def test_all_that_can_be_said_reaches_the_reader(odd: str) -> None:
    found = read_source(DataSource(odd, "said", "then", "half", "regression"))
    assert found.kind == "regression" and found.columns == {"text": "said", "text_pair": "then", "label": "half"}
    assert read_source(DataSource(odd, "said", label="verdict")).labels == ("bad", "good")


@pytest.mark.parametrize(
    ("name", "setting", "given", "field"),
    [
        ("stilts", "stages.0.data", "{path: a.csv, label: y}", lambda stage: (stage.data,)),
        ("prime", "stages.0.sources", "[b.csv, {path: a.csv, label: y}]", lambda stage: stage.sources[1:]),
        ("prime", "stages.0.sources", "{path: a.csv, label: y}", lambda stage: stage.sources),
        ("multi-task", "stages.0.tasks", "[{}, {path: a.csv, label: y}]", lambda stage: [t.data for t in stage.tasks[1:]]),
        ("multi-task", "stages.0.tasks", "[{}, {data: {path: a.csv, label: y}, weight: 2}]", lambda stage: [stage.tasks[1].data]),
    ],
)
def test_one_form_on_the_command_line_and_in_a_file(name: str, setting: str, given: str, field: Any) -> None:
    recipe = Recipe.load(name).override(parse_settings([f"{setting}={given}"]))
    assert list(field(recipe.stages[0])) == [DataSource("a.csv", label="y")]
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe and hash(recipe)
    assert "label: y" in recipe.to_yaml() and "text_pair" not in recipe.to_yaml()


def test_a_single_field_of_it_may_be_set() -> None:
    recipe = Recipe("r", (Train(data=DataSource("a.csv", label="y")), Train())).override({"stages.0.data.label": "z"})
    assert recipe.stages[0].data == DataSource("a.csv", label="z")


def test_a_path_alone_is_what_it_was() -> None:
    """The keys of finished studies stay valid."""
    for given in ("a.csv", DataSource("a.csv"), {"path": "a.csv"}):
        recipe = Recipe("r", (Train(data=given), Train()))
        assert recipe.stages[0].data == "a.csv" and recipe.to_plain()["stages"][0] == {"train": {"data": "a.csv"}}
    assert Recipe("r", (Train(data="a.csv"), Train())).key() == "71f9c5492deba2e4"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"label": "y"}, r"data: expected the path of a data set, or a path with its columns as in  \{path: snli"),
        ({"path": "a", "labl": "y"}, r"data: DataSource: unknown field 'labl'; did you mean label\?"),
        ({"path": "a", "kind": "nli"}, r"data: DataSource\.kind: Input should be 'classification'.*found 'nli'"),
        (3, "data: expected the path of a data set"),
        ("", "data: expected the path of a data set"),
    ],
)
def test_what_is_no_data_set_is_refused(given: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe.load("stilts").override({"stages.0.data": given})


def test_the_reader_advises_the_fields_of_the_stage(odd: str) -> None:
    """Options of the command line are of the user's own data."""
    own, where = re.escape(odd), r" in stages\.0\.data$"
    for given, said in (
        (odd, rf"with text; it is said beside the path, as in  {{path: {own}, label: verdict, text: COLUMN}}{where}"),
        (DataSource(odd, label="verdct"), r"expected a column 'verdct' \(label\), .*did you mean 'verdict'\?.* label: COLUMN}" + where),
        (DataSource(odd, "said", label="then"), r"only 'it was'.* another column with label; .*{path: .*, text: said, label: COLUMN}"),
        (DataSource("none.jsonl", label="y"), r"no such file.*; give the path of a file or folder" + where),
    ):  # fmt: skip
        given = DataSource(given, label="verdict") if isinstance(given, str) else given
        with pytest.raises(DataError, match=said) as refused:
            explain(Recipe("r", (Train(data=given), Train())), tiny_backbone(), tiny_task())
        assert "--" not in str(refused.value)


def test_the_last_stage_still_learns_from_your_data() -> None:
    with pytest.raises(RecipeError, match=r"the last stage would learn from 'a.csv \(label: y\)'"):
        Recipe("r", (Train(data=DataSource("a.csv", label="y")),)).check()


def test_the_schema_has_both_forms() -> None:
    stages = {next(iter(o["properties"])): o for o in json_schema()["properties"]["stages"]["items"]["anyOf"] if "properties" in o}
    fields = {name: next(iter(o["properties"].values()))["properties"] for name, o in stages.items()}
    for forms in (fields["train"]["data"], fields["prime"]["sources"]["items"], fields["multi_task"]["tasks"]["items"]):
        assert any(form.get("type") == "string" for form in forms["anyOf"])
        assert any({"path", "text", "text_pair", "label", "kind"} == set(form.get("properties", ())) for form in forms["anyOf"])
    assert "$ref" not in json.dumps(fields)


def test_columns_as_snli_names_them_are_found(tmp_path: Path) -> None:
    rows = [{"premise": e.texts[0], "hypothesis": "so", "gold_label": e.label, "annotator_labels": [e.label]} for e in tiny_examples(24)]
    (path := tmp_path / "snli.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_source(str(path)).columns == {"text": "premise", "text_pair": "hypothesis", "label": "gold_label"}
