"""What the pages in docs/ show is run: commands are parsed, recipes read and checked, Python blocks run in order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import transformers

import tempering as tp
from tempering import demo
from tempering.pretrained import locate, tokenizer_of
from tests.test_readme import ROOT, blocks, needs_weights, parsed, temper_lines
from tests.tiny import save_tiny, tiny_backbone

GENERATED = ("commands", "methods", "settings", "prompt-settings")  # as a whole, but for methods, which has a test file of its own
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in GENERATED}
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_the_readme_leads_to_it(page: str) -> None:
    assert f"(docs/{page}.md)" in README


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_parse(page: str) -> None:
    for arguments in temper_lines(PAGES[page]):
        assert parsed(arguments)["command"] == arguments[0]


@pytest.mark.parametrize("page", PAGES)
def test_the_settings_of_its_commands_are_taken_by_their_recipes(page: str) -> None:
    from tempering.recipe import available, parse_settings

    for arguments in temper_lines(PAGES[page]):
        given = parsed(arguments)
        reads = any("lm-eval:" in word for word in arguments)  # a file that is not here
        if given.get("recipe") in available() and not reads:
            tp.Recipe.load(given["recipe"]).override(parse_settings(given.get("settings") or [])).check()


@pytest.mark.parametrize("page", PAGES)
def test_its_recipes_can_be_run(page: str) -> None:
    for text in blocks("yaml", PAGES[page]):
        recipe = tp.Recipe.from_yaml(text, page)
        recipe.check()
        assert tp.Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("page", PAGES)
def test_the_recipes_and_methods_it_names_exist(page: str) -> None:
    from tempering.methods import METHODS
    from tempering.recipe import available

    settings = "".join((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("settings", "prompt-settings"))
    known = set(available()) | {name for kind in METHODS.values() for name in kind} | set(re.findall(r"`(\w+)`", settings))
    named = set(re.findall(r"`([a-z][a-z0-9]*(?:[-_][a-z0-9]+)+)`", PAGES[page]))
    assert named <= known | {"text_pair", "max_length"}, sorted(named - known)


def test_the_templates_of_other_libraries_that_it_shows_say_the_same() -> None:
    (text,) = [text for text in blocks("yaml", PAGES["prompts"]) if "five-ways" in text]
    cloze = tp.Recipe.from_yaml(text, "prompts").stages[0].framing
    backbone = tiny_backbone("bert")
    backbone.tokenizer.add_tokens(["terrible"])
    backbone.model.resize_token_embeddings(len(backbone.tokenizer))
    task = tp.Task.from_frame({"text": ["a good film", "a bad film"] * 2, "label": ["positive", "negative"] * 2}, dev_fraction=0)
    prompts = cloze.build(task, backbone).render(task.train.examples[:1], (), np.random.default_rng(0))[0]
    assert len(prompts) == 5 and len({tuple(prompt.input_ids) for prompt in prompts}) == 1
    assert backbone.tokenizer.decode(prompts[0].input_ids) == "[CLS] a good film it was [MASK] [SEP]"


def test_control_by_prefix_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny("t5", tmp_path / "t5")
    (body,) = [text for text in blocks("python", PAGES["prompts"]) if "tp.switch" in text]
    exec(compile(body, "prompts", "exec"), {})
    assert capsys.readouterr().out == "['it is very lovely', 'it is very lovely'] ['it is very awful', 'it is very awful']\n"


def save_with_head(source: str, folder: Path) -> None:
    """``source`` as a masked language model, whose head is drawn: what a page calls a pretrained one."""
    transformers.AutoModelForMaskedLM.from_pretrained(locate(source)).save_pretrained(folder)
    tokenizer_of(locate(source)).save_pretrained(folder)


@pytest.mark.slow
@needs_weights
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if blocks("python", text)])
def test_its_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny("t5", tmp_path / "t5")
    save_with_head("minilm", tmp_path / "roberta")
    (tmp_path / "messages.csv").write_bytes((Path(demo.path()) / "train.csv").read_bytes())
    if 'Study.open("study")' in PAGES[page]:
        tp.compare(["head"], tmp_path / "messages.csv", model="minilm", sizes=(32,), seeds=2, output_dir="study", workers=0)
    names: dict[str, object] = {}
    for body in blocks("python", PAGES[page]):
        exec(compile(body, page, "exec"), names)
    assert capsys.readouterr().out.strip()
