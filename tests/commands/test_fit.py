"""``temper fit``: the folder it writes, what it keeps, and that a killed run resumed is the unbroken one."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering import cli
from tempering.commands.fit import _no_better, baseline
from tests.commands.shared import QUICK, done, fitted, refuses, spawn, write_rows
from tests.tiny import tiny_task


def test_fit_writes_a_whole_folder(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert, "--metric", "f1:good")
    found = json.loads((here / "model/metrics.json").read_text(encoding="utf-8"))
    assert {"accuracy", "loss", "f1:good"} <= found["dev"].keys() & found["test"].keys()
    assert found["main_metric"] == "accuracy" and 0 < found["train_seconds"] <= found["seconds"]
    assert found["rows"] == {"train": 24, "dev": 12, "test": 12} and found["steps"] == 2
    names = {p.name for p in (here / "model").iterdir()}
    assert {"model.safetensors", "config.json", "tempering.json", "recipe.yaml", "README.md", "split.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.startswith(".") or name == "checkpoints"]
    assert tempering.Recipe.load("model/recipe.yaml").key() == found["recipe_key"]
    assert "model-index" in (here / "model/README.md").read_text(encoding="utf-8")
    said = capsys.readouterr()
    assert f"test accuracy {found['test']['accuracy']:.4f}" in said.out and "next: temper predict model NEW.csv" in said.out
    assert "error: " not in said.err


def test_a_split_of_one_label_says_nothing_about_a_model() -> None:
    task = tiny_task(24)
    one = [e for e in task.dev.examples if e.label == task.labels[0]]
    assert baseline(task) == {"dev": 0.5}
    assert baseline(dataclasses.replace(task, dev=dataclasses.replace(task.dev, examples=tuple(one)))) == {}


def test_a_model_that_learned_nothing_is_called_that(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert, "learning_rate=1e-12")
    found = json.loads(Path("model/metrics.json").read_text())
    assert found["majority"] == {"dev": 0.5, "test": 0.5} and found["test"]["accuracy"] <= 0.5
    assert "learned nothing of use: always saying the most frequent label scores 0.5000 on test" in capsys.readouterr().out
    done("fit", "train.csv", "--test", "test.csv", "--model", bert, "--recipe", "head", "max_steps=60", "--output-dir", "good")
    found = json.loads(Path("good/metrics.json").read_text())
    assert found["test"]["accuracy"] > 0.5 and "learned nothing" not in capsys.readouterr().out


def test_where_nothing_is_trained_the_advice_is_not_to_train_longer() -> None:
    (said,) = _no_better({"dev": {"accuracy": 0.5}}, "accuracy", {"dev": 0.5}, 0)
    assert "scores 0.5000 on dev" in said and "other label words" in said and "learning_rate" not in said
    assert "raise learning_rate" in _no_better({"dev": {"accuracy": 0.5}}, "accuracy", {"dev": 0.5}, 7)[0]


def test_fit_holds_out_rows_and_says_which(here: Path, bert: str) -> None:
    done("fit", "train.csv", "--recipe", "head", "--model", bert, "--sampling-seed", "5", *QUICK)
    split = json.loads((here / "model/split.json").read_text(encoding="utf-8"))
    assert split["seed"] == 5 and len(split["dev"]["rows"]) == 5 and len(split["train"]["rows"]) == 19


def test_auto_says_what_and_why(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("fit", "train.csv", "--model", bert, *QUICK)
    assert "recipe auto: head (" in capsys.readouterr().err
    assert any(note.startswith("recipe auto: head") for note in json.loads(Path("model/metrics.json").read_text())["notes"])


def test_overrides_and_single_seeds_reach_the_run(here: Path, bert: str) -> None:
    (here / "mine.yaml").write_text("name: mine\nstages:\n- train: {tuning: {lora: {r: 2}}, learning_rate: 1e-3}\n")
    seeds = ("--seed", "2", "--init-seed", "9", "--order-seed", "8", "--dropout-seed", "7")
    done("fit", "train.csv", "--config", "mine.yaml", "--model", bert, "tuning.r=4", "learning_rate=5e-5", *seeds, *QUICK)
    found = json.loads(Path("model/metrics.json").read_text())
    assert found["seeds"] == {"sampling": 8, "init": 9, "order": 8, "dropout": 7}
    stage = tempering.Recipe.load("model/recipe.yaml").stages[-1]
    assert (stage.tuning.r, stage.learning_rate, stage.max_steps) == (4, 5e-5, 2)


def test_json_is_the_metrics_and_nothing_else(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert, "--json", "--output-dir", "somewhere/else")
    found = json.loads(capsys.readouterr().out)
    assert found.pop("output_dir") == "somewhere/else"
    assert found == json.loads(Path("somewhere/else/metrics.json").read_text())


def test_dry_run_writes_nothing(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    fitted(bert, "--dry-run")
    assert "forward passes a step: 1" in capsys.readouterr().out
    fitted(bert, "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out)["stages"][0]["steps"] == 2
    assert sorted(here.rglob("*")) == before


def test_a_finished_model_is_kept_unless_told(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert)
    (here / "model/mine.txt").write_text("mine")
    stamp = (here / "model/model.safetensors").stat().st_mtime_ns
    refuses("fit", "train.csv", "--model", bert, *QUICK, said="holds a finished model", capsys=capsys)
    fitted(bert, "--resume")
    assert "nothing to resume" in capsys.readouterr().err
    refuses("fit", "train.csv", "--model", bert, "--resume", *QUICK, said="finished model of another recipe", capsys=capsys)
    assert (here / "model/model.safetensors").stat().st_mtime_ns == stamp
    done("fit", "train.csv", "--model", bert, "--recipe", "houlsby", "tuning.m=8", "--overwrite", *QUICK)
    names = {p.name for p in (here / "model").iterdir()}
    assert "delta.safetensors" in names and "model.safetensors" not in names and "mine.txt" in names


@pytest.mark.parametrize(("recipe", "setting"), [("stilts", "stages.0.data"), ("dapt", "stages.0.text")])
@pytest.mark.parametrize("finished", [True, False])
def test_what_a_stage_reads_may_not_change_before_a_run_is_resumed(
    recipe: str, setting: str, finished: bool, here: Path, bert: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(here / "other.jsonl", 30, 300)
    named = (f"{setting}=other.jsonl", "stages.0.max_steps=2", "stages.0.save_strategy=steps", "stages.0.save_steps=1")
    words = ("fit", "train.csv", "--dev", "dev.csv", "--recipe", recipe, "--model", bert, *QUICK, *named, "--resume")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr("tempering.fitting.evaluate", stop)
        assert cli.run(list(words)) == (0 if finished else 130)
    write_rows(here / "other.jsonl", 24, 300)
    said = "finished model of another version of other.jsonl" if finished else "was made with another data other.jsonl"
    refuses(*words, said=said, capsys=capsys)
    write_rows(here / "other.jsonl", 30, 300)
    done(*words)


@pytest.mark.parametrize(
    ("recipe", "parts", "dry"),
    [
        ("houlsby", "houlsby", ()),
        ("mam", "prefix_tuning and parallel", ("--dry-run",)),
        ("mixed.yaml", "pfeiffer", ()),
        ("short.yaml", "prompt_tuning", ()),
        ("peft.yaml", "peft", ()),
    ],
)
def test_what_cannot_be_merged_is_refused_before_training(
    recipe: str, parts: str, dry: tuple[str, ...], here: Path, bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tunings = {"mixed": "[lora, pfeiffer]", "short": "{truncate: {k: 1, tuning: prompt_tuning}}", "peft": "{peft: {method: ln_tuning}}"}
    for name, tuning in tunings.items():
        (here / f"{name}.yaml").write_text(f"name: {name}\nstages:\n- train: {{tuning: {tuning}}}\n")
    said = f"ends with tuning {parts}, which cannot be folded into the weights; leave --merge out"
    refuses("fit", "train.csv", "--model", bert, "--recipe", recipe, "--merge", *dry, *QUICK, said=said, capsys=capsys)
    assert not (here / "model").exists()


def test_merge_makes_a_plain_model(here: Path, bert: str) -> None:
    done("fit", "train.csv", "--model", bert, "--recipe", "lora", "--merge", *QUICK)
    assert json.loads(Path("model/metrics.json").read_text())["loads_with"] == ["transformers", "tempering"]
    assert Path("model/model.safetensors").exists()


def test_two_stages_name_their_base_where_it_is(here: Path, bert: str) -> None:
    done("fit", "train.csv", "--model", bert, "--recipe", "tapt-lora", "stages.0.max_steps=1", *QUICK)
    assert Path("model/base/model.safetensors").exists()
    adapter = Path("model/adapter_config.json")
    if adapter.exists():
        assert Path(json.loads(adapter.read_text())["base_model_name_or_path"]) == Path("model/base")
    assert len(tempering.load("model").predict(["a good film", "a bad film"])) == 2


def test_doctor_speaks_up_before_training(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (here / "train.csv").read_text()
    (here / "train.csv").write_text(text + "900,the film was good,bad\n901,the film was good,good\n")
    fitted(bert, "--dry-run")
    said = capsys.readouterr().err
    assert "data warning: 1 texts in train carry different labels" in said and said.count("data ") <= 6


def watch(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait for a checkpoint, then kill."""
    limit = time.monotonic() + 120
    while not list(folder.glob("checkpoints/stage-*/checkpoint-*/state.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_run_resumed_gives_the_same_bytes(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ("max_steps=60", "min_steps=0", "save_strategy=steps", "save_steps=2", "eval_strategy=steps", "eval_steps=20")
    words = ("fit", "train.csv", "--dev", "dev.csv", "--recipe", "r-drop", "--model", bert, "--seed", "3", *steps)
    process = spawn(*words, "--output-dir", "broken", folder=here)
    watch(process, here / "broken")
    assert not (here / "broken/tempering.json").exists()
    refuses(*words, "--output-dir", "broken", said="holds an unfinished run", capsys=capsys)
    done(*words, "--output-dir", "broken", "--resume")
    assert "resumed from checkpoint-" in capsys.readouterr().err
    done(*words, "--output-dir", "whole")
    assert (here / "broken/model.safetensors").read_bytes() == (here / "whole/model.safetensors").read_bytes()
    assert json.loads(Path("broken/metrics.json").read_text())["dev"] == json.loads(Path("whole/metrics.json").read_text())["dev"]
    assert not (here / "broken/checkpoints").exists()


def test_interrupting_says_how_to_go_on(here: Path, bert: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: Any, **__: Any) -> None:
        (here / "model/checkpoints/stage-0/checkpoint-4").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("tempering.fitting.fit", stop)
    assert cli.run(["fit", "train.csv", "--model", bert, *QUICK]) == 130
    said = capsys.readouterr().err
    assert "--resume goes on from checkpoints/stage-0/checkpoint-4" in said and said.endswith("error: stopped\n")


def test_the_best_of_several_tries_is_kept_and_all_are_told_of(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("fit", "train.csv", "--test", "test.csv", "--model", bert, "--recipe", "head", "min_steps=6", "--output-dir", "tries")
    done(*asked, "--tries", "3", "--stop-worst", "0.6", "--stop-at", "0.2")
    found = json.loads(Path("tries/metrics.json").read_text())
    assert [t["state"] for t in found["tries"]].count("stopped") == 2
    assert "of 3, chosen on the development split (2 were stopped early)" in Path("tries/README.md").read_text()
    assert not Path("tries/checkpoints").exists()
    done(*asked, "--tries", "3", "--resume")
    assert "is finished already" in capsys.readouterr().err
    refuses(*asked, "--resume", said="another number of tries", capsys=capsys)
    other = (*asked[:-1], "other")
    refuses(*other, "--stop-at", "0.5", said="speak of several tries", capsys=capsys)
    refuses(*other, "--tries", "2", "--stop-worst", "2", said="--stop-worst 2.0: expected a share", capsys=capsys)


def test_a_packed_model_says_so_in_its_folder(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    packed = ("--recipe", "lora", "--quantize", "4bit")
    refuses(
        "fit", "train.csv", "--model", bert, *packed, "--merge", said="--merge: the matrices of a model in 4bit are packed", capsys=capsys
    )
    fitted(bert, *packed)
    readme = (here / "model/README.md").read_text(encoding="utf-8")
    assert "tempering.load(" in readme and "needs its base model" in readme and "packed in 4bit again" in readme
    assert tempering.load(here / "model").backbone.quantized == "4bit"


def test_the_readme_of_a_change_says_how_to_load_it(here: Path, bert: str) -> None:
    """The lines of code in the folder's README, run as they stand."""
    fitted(bert, "--recipe", "houlsby", "tuning.m=8")
    readme = (here / "model/README.md").read_text(encoding="utf-8")
    assert "needs its base model" in readme and "packed" not in readme
    (code,) = [part.split("```")[0] for part in readme.split("```python\n")[1:] if "tempering.load" in part]
    found: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(here / "model")), found)
    assert found["learner"].record["recipe"]
