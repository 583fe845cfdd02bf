"""What the pages in docs/ show is run: commands are parsed, recipes read and checked, Python blocks run in order."""

from __future__ import annotations

from pathlib import Path

import pytest

import tempering as tp
from tempering import demo
from tests.test_readme import ROOT, blocks, needs_weights, parsed, temper_lines

PAGES = {
    path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in ("commands", "methods")
}
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_the_readme_leads_to_it(page: str) -> None:
    assert f"(docs/{page}.md)" in README


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_parse(page: str) -> None:
    for arguments in temper_lines(PAGES[page]):
        assert parsed(arguments)["command"] == arguments[0]


@pytest.mark.parametrize("page", PAGES)
def test_its_recipes_can_be_run(page: str) -> None:
    for text in blocks("yaml", PAGES[page]):
        recipe = tp.Recipe.from_yaml(text, page)
        recipe.check()
        assert tp.Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("page", PAGES)
def test_the_recipes_and_methods_it_names_exist(page: str) -> None:
    import re

    from tempering.methods import METHODS
    from tempering.recipe import available

    known = set(available()) | {name for kind in METHODS.values() for name in kind}
    named = set(re.findall(r"`([a-z][a-z0-9]*(?:[-_][a-z0-9]+)+)`", PAGES[page]))
    assert named <= known | {"text_pair", "max_length"}, sorted(named - known)


@pytest.mark.slow
@needs_weights
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if blocks("python", text)])
def test_its_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "messages.csv").write_bytes((Path(demo.path()) / "train.csv").read_bytes())
    if 'Study.open("study")' in PAGES[page]:
        tp.compare(["head"], tmp_path / "messages.csv", model="minilm", sizes=(32,), seeds=2, output_dir="study", workers=0)
    names: dict[str, object] = {}
    for body in blocks("python", PAGES[page]):
        exec(compile(body, page, "exec"), names)
    assert capsys.readouterr().out.strip()
