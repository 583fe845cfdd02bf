"""What ``temper fit``, ``adapt`` and ``merge`` never write over: the model that they read, and one of another hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tempering
from tests.commands.shared import QUICK, done, refuses


@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--resume",)])
def test_the_model_that_is_read_is_never_replaced(more: tuple[str, ...], here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bert, here / "model")  # the default --output-dir
    shutil.copytree(bert, here / "done/base")
    (here / "link").symlink_to(here / "model")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    for model, out in (("model", "model"), ("./model", "link"), ("done/base", "done")):
        said = f"--output-dir {out} would replace --model {model}, which this run reads; give another --output-dir"
        refuses("fit", "train.csv", "--model", model, "--output-dir", out, *QUICK, *more, said=said, capsys=capsys)
        refuses("adapt", "train.csv", "--model", model, "--output-dir", out, "max_steps=1", *more, said=said, capsys=capsys)
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_model_of_another_hand_is_replaced_only_when_told(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bert, here / "model")
    said = "--output-dir model holds a model that tempering did not write (config.json); give another folder, or --overwrite to replace it"
    refuses("fit", "train.csv", "--model", bert, *QUICK, said=said, capsys=capsys)
    refuses("fit", "train.csv", "--model", bert, "--resume", *QUICK, said=said, capsys=capsys)
    done("fit", "train.csv", "--model", bert, "--recipe", "houlsby", "tuning.m=8", "--overwrite", *QUICK)
    assert not Path("model/model.safetensors").exists() and tempering.load("model").backbone.source == bert


def test_a_model_in_another_part_of_the_output_folder_may_be_read(here: Path, bert: str) -> None:
    shutil.copytree(bert, here / "out/bert")
    done("fit", "train.csv", "--model", "out/bert", "--output-dir", "out", "--recipe", "lora", "--overwrite", *QUICK)
    assert tempering.load("out").backbone.source == "out/bert"


def test_a_merge_does_not_replace_the_base_that_a_model_keeps(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("fit", "train.csv", "--model", bert, "--recipe", "tapt-lora", "stages.0.max_steps=1", *QUICK)
    before = Path("model/base/model.safetensors").read_bytes()
    refuses("merge", "model", "--output-dir", "model/base", "--overwrite", said="or its base; give another folder", capsys=capsys)
    shutil.copytree(bert, here / "other")
    refuses("merge", "model", "--output-dir", "other", said="holds a model that tempering did not write", capsys=capsys)
    assert Path("model/base/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "metrics.json", "base/notes.txt", "checkpoints/theirs.bin"])
def test_files_of_the_users_are_not_replaced_or_deleted_unless_told(
    name: str, here: Path, bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine", encoding="utf-8")
    shown = name.partition("/")[0] if name.startswith("base") else name
    said = f"--output-dir . holds {shown}, which tempering did not write and this run would replace or delete; give another folder"
    for more in ((), ("--resume",)):
        refuses("fit", "train.csv", "--model", bert, "--output-dir", ".", *QUICK, *more, said=said, capsys=capsys)
    refuses("adapt", "train.csv", "--model", bert, "--output-dir", ".", "max_steps=1", said=said, capsys=capsys)
    assert file.read_text(encoding="utf-8") == "mine" and not (here / "tempering.json").exists()
    done("fit", "train.csv", "--model", bert, "--recipe", "head", "--output-dir", ".", "--overwrite", *QUICK)
    assert not file.exists() or file.read_text(encoding="utf-8") != "mine"
    done("fit", "train.csv", "--model", bert, "--recipe", "head", "--output-dir", ".", "--overwrite", *QUICK)  # its own card


def test_a_merge_leaves_a_readme_of_the_users_alone(here: Path, bert: str) -> None:
    done("fit", "train.csv", "--model", bert, "--recipe", "lora", *QUICK)
    Path("README.md").write_text("mine", encoding="utf-8")
    done("merge", "model", "--output-dir", ".")
    assert Path("README.md").read_text(encoding="utf-8") == "mine" and Path("tempering.json").exists()


def test_what_a_run_left_before_its_first_checkpoint_is_no_file_of_the_users(here: Path, bert: str) -> None:
    Path("model/checkpoints/stage-0").mkdir(parents=True)
    done("fit", "train.csv", "--model", bert, "--recipe", "head", *QUICK)
    assert Path("model/tempering.json").exists()
