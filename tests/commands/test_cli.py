"""The command line itself: help without heavy imports, lists, mistakes as one line and exit code 2, surprises as a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering import cli
from tempering.commands import console
from tests.commands.shared import done, fitted, refuses, spawn

HEAVY = ("torch", "transformers", "pandas", "pyarrow", "datasets", "sklearn", "scipy", "matplotlib", "numpy")


@pytest.mark.parametrize("command", ["", "check", "fit", "predict", "evaluate", "compare", "report", "list", "explain", "demo"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from tempering import cli; sys.argv = ['temper', *sys.argv[1:], '--help']\n"
        "try: cli.main()\n"
        f"finally: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(tempering.__file__).parents[1])}
    found = subprocess.run([sys.executable, "-c", code, *filter(None, [command])], env=env, capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"
    assert "Usage: temper" in found.stdout and "\x1b" not in found.stdout


def test_list_imports_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from tempering import cli; cli.run(['list']); print(' '.join(sys.modules), file=sys.stderr)"
    env = os.environ | {"PYTHONPATH": str(Path(tempering.__file__).parents[1])}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy"} & set(found.stderr.split())
    assert "lora" in found.stdout


@pytest.mark.parametrize("topic", ["recipes", "tunings", "framings", "stabilizers", "stages", "models"])
def test_list_gives_a_sentence_for_everything(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("list", topic, "--json")
    rows = json.loads(capsys.readouterr().out)[topic]
    assert rows and all(row["name"] and row["description"].endswith(".") for row in rows)
    done("list", topic)
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_no_arguments_show_the_help_and_the_version_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    done()
    assert "Commands:" in capsys.readouterr().out
    done("--version")
    assert capsys.readouterr().out == f"tempering {tempering.__version__}\n"


BAD_FILES = {
    "ragged.csv": "text,label\na,b\na,b,c\n",
    "empty.csv": "",
    "header.csv": "text,label\n",
    "one.csv": "text,label\na,x\nb,x\n",
    "nan.csv": "text,label\na,x\nb,\nc,y\nd,y\n",
    "few.csv": "text,label\na,x\nb,y\n",
    "latin.csv": "text,label\nÃ©,x\n".encode("latin-1") + b"\xe9,y\n",
    "broken.jsonl": '{"text": "a", "label": "x"}\n{"text": \n',
    "book.xlsx": "PK",
}


@pytest.mark.parametrize("name", [*BAD_FILES, "absent.csv"])
def test_a_bad_file_leaves_no_folder(name: str, here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    for file, text in BAD_FILES.items():
        (here / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    before = sorted(here.rglob("*"))
    refuses("fit", name, "--model", bert, said=name, capsys=capsys)
    refuses("check", name, "--model", bert, said=name, capsys=capsys)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--recipe", "lorra"), "did you mean lora"),
        (("learning_rat=1",), "did you mean learning_rate"),
        (("learning_rate=-1",), "learning_rate"),
        (("nothing",), "expected key=value"),
        (("--recipe", "mixout", "tuning=lora"), "trains none of those"),
        (("--text", "txt"), "did you mean 'text'"),
        (("--dev", "absent.csv"), "absent.csv"),
        (("--kind", "ranking"), "ranking"),
        (("--metric", "acuracy"), "did you mean accuracy"),
        (("--report-to", "paper"), "choose one of tensorboard"),
        (("--model", "./nowhere"), "there is no such folder"),
        (("--seed", "x"), "see  temper fit --help"),
        (("--colour",), "see  temper fit --help"),
        (("--output-dir", "train.csv"), "that is a file"),
    ],
)
def test_a_bad_option_leaves_no_folder(
    words: tuple[str, ...], said: str, here: Path, bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    model = () if "--model" in words else ("--model", bert)
    refuses("fit", "train.csv", *model, *words, said=said, capsys=capsys)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "nowhere", "train.csv"), "no tempering.json"),
        (("predict", "model", "absent.csv"), "absent.csv"),
        (("predict", "model", "train.csv", "--output", "out.xls"), "ending in .csv"),
        (("predict", "model", "train.csv", "--output", "no/out.csv"), "there is no folder no"),
        (("predict", "model", "train.csv", "--output", "train.csv"), "that is the input file"),
        (("evaluate", "model", "other.csv"), "found the label 'ugly'"),
        (("evaluate", "model", "train.csv", "--metric", "f1:ugly"), "f1:ugly"),
        (("evaluate", "model", "train.csv", "--label", "lable"), "did you mean 'label'"),
        (("list", "recipe"), "choose one of recipes"),
        (("explain", "auto"), "recipe auto"),
        (("explain", "lora", "train.csv", "more"), "key=value"),
        (("explode",), "temper --help"),
    ],
)
def test_mistakes_of_other_commands(words: tuple[str, ...], said: str, here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "other.csv").write_text("text,label\na film,ugly\n")
    if "model" in words:
        fitted(bert)
    refuses(*words, said=said, capsys=capsys)


def test_a_surprise_is_one_line_and_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("first line\nsecond")

    monkeypatch.setattr("tempering.commands.listing.run", broken)
    assert cli.run(["list"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: unexpected ZeroDivisionError: first line (the full traceback is in ")
    assert said.err.count("\n") == 1
    written = Path(said.err.partition("traceback is in ")[2].partition(";")[0])
    assert "in broken" in written.read_text()
    written.unlink()


def test_a_real_process_prints_one_line_and_no_color(here: Path) -> None:
    process = spawn("fit", "absent.csv", folder=here)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ")
    piped = spawn("list", folder=here)
    assert piped.stdout is not None
    piped.stdout.close()
    assert piped.wait(60) in (0, 1) and "Traceback" not in (piped.stderr.read() if piped.stderr else "")
    if piped.stderr:
        piped.stderr.close()


def test_small_words() -> None:
    assert console.duration(3.21) == "3.2 s" and console.duration(125) == "2 min 5 s" and console.duration(7500) == "2 h 5 min"
    assert console.aligned([("a", "one"), ("long", "")]) == ["  a     one", "  long"]
    assert json.loads(console.as_json({"x": float("nan"), "y": "é"})) == {"x": None, "y": "é"}
    assert console.score_words({"dev": {"f1": 0.5}, "test": {"f1": 0.25}}, "f1") == "dev f1 0.5000, test f1 0.2500"
