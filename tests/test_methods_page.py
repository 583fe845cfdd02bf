"""What docs/methods.md shows is run: its Python blocks in order, and its recipe."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import tempering as tp
from tempering import demo
from tests.test_readme import ROOT, blocks, needs_weights

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_its_recipe_is_one_and_is_overridden_as_it_says() -> None:
    (text,) = blocks("yaml", PAGE)
    recipe = tp.Recipe.from_yaml(text, "docs/methods.md")
    recipe.check()
    assert [type(part).__name__ for part in recipe.stages[0].tuning.tunings] == ["LoRA", "BitFit"]
    assert recipe.override({"tuning.lora.r": 8}).stages[0].tuning.tunings[0].r == 8
    by_name = tp.Train(tuning=("bitfit", tp.LoRA(r=4)))
    assert set(by_name.tuning.tunings) == set(recipe.stages[0].tuning.tunings)


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
