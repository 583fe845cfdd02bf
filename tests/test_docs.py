"""The generated parts of the documentation are what the code says now, and staleness is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tempering import registry
from tempering.recipe import available
from tools import docs


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with copies of the documentation, brought up to date."""
    (tmp_path / "docs").mkdir()
    for name in (docs.README, docs.METHODS, docs.COMMANDS):
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


def test_every_method_recipe_and_command_is_named_and_explained() -> None:
    readme, page = ((docs.ROOT / name).read_text(encoding="utf-8") for name in (docs.README, docs.METHODS))
    names = [*available(), *(name for kind in registry.METHODS for name in registry.names(kind))]
    assert [name for name in names if f"`{name}`" not in readme or f"| `{name}` | " not in page] == []
    assert [name for name, _ in docs.command_line() if f"| `temper {name}` | " not in readme] == []


def test_help_texts_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = docs.help_texts()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert docs.help_texts() == written
    assert "\x1b" not in written
    assert max(map(len, written.splitlines())) <= docs.WIDTH
