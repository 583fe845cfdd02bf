"""The generated parts of the documentation are what the code says now, and staleness is seen."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from tempering import registry
from tempering.codec import parse_scalar
from tempering.recipe import Recipe, available
from tempering.tasks.build import KINDS
from tempering.train.settings import Loop
from tools import docs


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with copies of the documentation, brought up to date."""
    (tmp_path / "docs").mkdir()
    for name in (docs.README, docs.METHODS, docs.COMMANDS, docs.SETTINGS, docs.PROMPT_SETTINGS):
        shutil.copy(docs.ROOT / name, tmp_path / name)
    docs.stale(tmp_path, write=True)
    return tmp_path


def test_nothing_is_stale() -> None:
    assert docs.stale(docs.ROOT, write=False) == [], "run  make docs"


def test_the_exit_code_of_a_check(monkeypatch: pytest.MonkeyPatch, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(docs, "ROOT", copy)
    assert docs.main(["--check"]) == 0
    (copy / docs.COMMANDS).write_text("old", encoding="utf-8")
    assert docs.main(["--check"]) == 1
    assert "docs/commands.md: stale" in capsys.readouterr().out
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0


def test_a_changed_sentence_is_stale_and_mended(copy: Path) -> None:
    page = copy / docs.METHODS
    fresh = page.read_text(encoding="utf-8")
    page.write_text(fresh.replace("| `lora` | ", "| `lora` | Formerly: ", 1), encoding="utf-8")
    assert docs.stale(copy, write=False) == [docs.METHODS]
    assert docs.stale(copy, write=True) == [docs.METHODS]
    assert page.read_text(encoding="utf-8") == fresh


def test_text_outside_the_marks_is_left_alone() -> None:
    text = "before | `full` |\n<!-- generated: recipes -->\nstale words\n<!-- end -->\nafter\n"
    made = docs.filled(text)
    assert made.startswith("before | `full` |\n<!-- generated: recipes -->\n\n| recipe | what it is |\n")
    assert made.endswith("|\n\n<!-- end -->\nafter\n")
    assert "stale words" not in made
    assert docs.filled(made) == made


def test_an_unknown_part_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match=r"'recipies'; there are names, methods, recipes, commands"):
        docs.filled("<!-- generated: recipies -->\n<!-- end -->")


def test_a_bar_in_a_sentence_does_not_end_its_cell() -> None:
    assert docs.table(("a", "b"), [("x", "p | q")]).splitlines()[-1] == r"| `x` | p \| q |"


@pytest.mark.parametrize("kind", ["framing", "verbalizer"])
def test_every_setting_of_a_prompt_stands_in_a_table_with_its_values(kind: str) -> None:
    page = (docs.ROOT / docs.PROMPT_SETTINGS).read_text(encoding="utf-8")
    for name in docs.PROMPTED if kind == "framing" else registry.names(kind):
        (part,) = [p for p in page.split("\n## ") if p.startswith(f"{kind} `{name}`")]
        rows = dict(re.findall(r"^\| `(\w+)` \| (.*)", part, re.MULTILINE))
        assert set(rows) == {f.name for f in dataclasses.fields(registry.find(kind, name))}, name
        assert part.split("\n\n")[1].startswith(registry.describe(kind, name).replace("``", "`"))


def test_values_and_defaults_are_those_of_the_code() -> None:
    page = docs.prompt_settings()
    for row in (
        '| `retrieval` | `none`, `knn`, `bm25` | `"none"` |',
        "| `shots` | whole number at least 0 | `8` |",
        '| `aggregation` | `mean_logit`, `sum_prob`, `mean_logprob_over_words`, `mean_prob`, `weighted`, `max` | `"mean_logit"` |',
        '| `verbalizer` | a verbalizer | `{"manual": {"aggregation": "mean_prob"}}` |',
        "| `temperature` | number above 0 | `1.0` |",
        '| `losses` | list of `lm`, `unlikelihood`, `length_norm` | `["lm"]` |',
        "| `top_p` | number above 0 and at most 1 | `1.0` |",
        "| `max_new_tokens` | whole number at least 1, null | `null` |",
    ):
        assert row in page, row


def test_every_other_setting_stands_on_the_page_of_settings() -> None:
    page = (docs.ROOT / docs.SETTINGS).read_text(encoding="utf-8")
    loop = {f.name for f in dataclasses.fields(Loop)}
    shared, *parts = (dict(re.findall(r"^\| `(\w+)` \| (.*)", p, re.MULTILINE)) for p in page.split("\n## ")[1:])
    assert set(shared) == loop
    named = [(kind, name) for kind in ("stage", "framing", "tuning", "stabilizer") for name in registry.names(kind)]
    named = [(kind, name) for kind, name in named if name not in docs.PROMPTED]
    for (kind, name), rows in zip(named, parts, strict=True):
        cls = registry.find(kind, name)
        settings = {f.name for f in dataclasses.fields(cls)}
        assert f"\n## {kind} `{name}`\n\n{registry.describe(kind, name).replace('``', '`')}" in page
        assert settings <= set(rows) | (loop if issubclass(cls, Loop) else set()), name


def test_settings_of_stages_and_of_groups_inside_them_are_told() -> None:
    page = docs.settings()
    stages = {p.split("`")[1]: p for p in page.split("\n## stage ")[1:]}
    for stage, row in (
        ("train", "| `curate` | settings of Curate, below, null | `null` |"),
        ("train", '| `by` | `tfidf`, `backbone`, `random` | `"tfidf"` |'),
        ("use", "| `framing` | a framing | (none: to be given) |"),
        ("prime", "| `second_order` | true, false | `false` |"),
        ("multi_task", "| `tasks` | list of settings of TaskSource, below | `[]` |"),
        ("multi_task", "| `weight` | number above 0 | `1.0` |"),
        ("multi_task", "| `gradient_accumulation_steps` | whole number above 0 | `4` |"),
        ("pet", "| `pattern_steps` | whole number above 0 | `250` |"),
    ):
        assert row in stages[stage], row
    for row in (
        '| `masking` | `token`, `whole_word`, `span` | `"token"` |',
        "| `tunings` | list of tunings | (none: to be given) |",
    ):
        assert row in page, row
    assert page.count("| `learning_rate` |") == 2, "that of the loop, told once, and that of prime"


def test_the_paths_that_the_page_of_settings_shows_are_taken() -> None:
    shown = re.findall(r"`([\w.]+)=([^`]+)`", docs.settings().split("\n## ")[0])
    assert len(shown) == 5
    recipe = Recipe.load("stilts").override({"stages.1.tuning": "lora", "stages.1.stabilizers": ["r_drop"]})
    recipe.override({path: parse_scalar(value) for path, value in shown})


def test_every_method_recipe_and_command_is_named_and_explained() -> None:
    readme, page = ((docs.ROOT / name).read_text(encoding="utf-8") for name in (docs.README, docs.METHODS))
    names = [*available(), *(name for kind in registry.METHODS for name in registry.names(kind))]
    assert [name for name in names if f"`{name}`" not in readme or f"| `{name}` | " not in page] == []
    assert [name for name, _ in docs.command_line() if f"| `temper {name}` | " not in readme] == []


def test_the_help_of_kind_names_every_kind() -> None:
    told = re.sub(r"\s+", " ", docs.help_texts().split("--kind", 1)[1].split("--model", 1)[0])
    assert [kind for kind in KINDS if kind not in re.split(r"[ ,;]+", told)] == []


def test_help_texts_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = docs.help_texts()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert docs.help_texts() == written
    assert "\x1b" not in written
    assert max(map(len, written.splitlines())) <= docs.WIDTH
