"""What docs/methods.md shows is run: its Python blocks in order, and its recipe."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import tempering as tp
from tempering import demo
from tempering.registry import find
from tests.test_readme import ROOT, blocks, needs_weights
from tests.tiny import tiny_backbone

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_its_recipe_is_one_and_is_overridden_as_it_says() -> None:
    _, text = blocks("yaml", PAGE)
    recipe = tp.Recipe.from_yaml(text, "docs/methods.md")
    recipe.check()
    assert [type(part).__name__ for part in recipe.stages[0].tuning.tunings] == ["LoRA", "BitFit"]
    assert recipe.override({"tuning.lora.r": 8}).stages[0].tuning.tunings[0].r == 8
    by_name = tp.Train(tuning=("bitfit", tp.LoRA(r=4)))
    assert set(by_name.tuning.tunings) == set(recipe.stages[0].tuning.tunings)


def test_what_it_says_of_places_is_so() -> None:
    text, _ = blocks("yaml", PAGE)
    recipe, backbone = tp.Recipe.from_yaml(text, "docs/methods.md"), tiny_backbone()
    recipe.check()
    lora = recipe.stages[0].tuning
    lora.attach(backbone)
    places = {path.partition(".lora.")[0].rpartition("layer.")[2] for path, w in backbone.named_parameters() if w.requires_grad}
    inside = {f"{i}.{path}" for i in (0, 1) for path in ("attention.self.query", "attention.self.value", "intermediate.dense")}
    assert places == inside | {f"model.embeddings.LayerNorm.{n}" for n in ("weight", "bias")}
    (pattern,) = re.findall(r"# or '(.*)'", text)
    assert (
        recipe.override({"tuning.target_modules": pattern.replace("4|5", "1")}).stages[0].tuning.count(tiny_backbone()) == 2 * 4 * 64 + 64
    )
    table = re.findall(r"^\| `(\w+)` of (.*?) \|", PAGE, re.MULTILINE)
    assert len(table) == 5
    for setting, methods in table:
        for name in re.findall(r"`(\w+)`", methods):
            assert setting in find("tuning", name).__dataclass_fields__, f"{name} has no {setting}"


def test_what_it_says_of_folders_is_so() -> None:
    in_place = re.search(r"in place \(([^)]*)\)", PAGE)
    assert in_place is not None
    named = re.findall(r"`(\w+)`", in_place[1])
    for name in named:
        value = tp.Train(tuning=name).tuning
        assert value.trains_pretrained, f"{name} is said to train pretrained weights in place"


def _tables(folder: Path) -> None:
    """Two small tasks of the shipped messages: their topic, and whether they ask something."""
    with (Path(demo.path()) / "train.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:60]
    for name, label in (("topic", lambda row: row["topic"]), ("urgency", lambda row: "asks" if "?" in row["message"] else "tells")):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("text", "label"), *((row["message"], label(row)) for row in rows)])


@pytest.mark.slow
@needs_weights
def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _tables(tmp_path)
    quick = tp.Recipe.load("lora").override({"max_steps": 4})
    for seed in (0, 1):
        tp.fit(quick, tp.Task.from_file("topic.csv"), "minilm", seed=seed).save_pretrained(f"topic-seed-{seed}")
    names: dict[str, object] = {}
    for body in blocks("python", PAGE):
        exec(compile(body, "docs/methods.md", "exec"), names)
    assert {type(names[n]).__name__ for n in ("learner", "other", "both")} == {"Learner"}
    assert (tmp_path / "models" / "topic" / "tempering.json").exists()
