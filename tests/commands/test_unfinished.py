"""What a stopped run has left is seen wherever it lies, so that a plain ``temper fit`` does not delete it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering import cli
from tempering.commands.folder import check_free, unfinished
from tempering.errors import ResumeError
from tests.commands.shared import done, refuses
from tests.framings.test_masked_lm import save_masked_lm

PET = """name: small
stages:
- pet:
    patterns: ["{text} it was {mask}", "{mask} : {text}"]
    words: {bad: bad, good: good}
    text: texts.txt
    repetitions: 1
    pattern_steps: 2
    save_strategy: SAVED
    eval_strategy: "no"
    load_best_model_at_end: false
    max_steps: 2
    min_steps: 0
"""


@pytest.mark.parametrize(
    "left",
    [
        "stage-0/checkpoint-4/state.json",
        "stage-1/checkpoint-4/state.json",
        "stage-0/backbone.safetensors",
        "stage-0/classifier/checkpoint-3/state.json",
        "stage-0/generation-0/model-1/checkpoint-3/state.json",
        "stage-0/generation-0/model-1/logits.safetensors",
        "try-1/checkpoints/stage-0/checkpoint-2/state.json",
        "try-1/checkpoints/stage-0/classifier/checkpoint-2/state.json",
    ],
)
def test_work_is_seen_wherever_a_stage_leaves_it(left: str, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / left
    file.parent.mkdir(parents=True)
    file.write_text("{}", encoding="utf-8")
    shown = Path("checkpoints") / left.removesuffix("/state.json")
    assert unfinished(tmp_path) == str(shown)
    with pytest.raises(ResumeError, match=rf"holds an unfinished run \({shown}\); --resume goes on"):
        check_free(tmp_path, resume=False, overwrite=False)
    check_free(tmp_path, resume=True, overwrite=False)
    check_free(tmp_path, resume=False, overwrite=True)
    (tmp_path / "tempering.json").write_text("{}", encoding="utf-8")  # a kill came after the model was whole, before this was removed
    with pytest.raises(ResumeError, match="holds a finished model"):
        check_free(tmp_path, resume=False, overwrite=False)


def test_what_a_kill_left_half_written_is_no_work(tmp_path: Path) -> None:
    for half in (".checkpoint-4.77/state.json", "backbone.part", "record.json", "generation-0/model-0/logits.part", "checkpoint-best/x"):
        file = tmp_path / "checkpoints/stage-0" / half
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}", encoding="utf-8")
    assert unfinished(tmp_path) == ""
    check_free(tmp_path, resume=False, overwrite=False)


def test_the_newest_is_named(tmp_path: Path) -> None:
    for age, name in enumerate(("stage-10/checkpoint-2", "stage-10/checkpoint-10", "stage-9/checkpoint-30", "stage-2/checkpoint-40")):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        os.utime(tmp_path / "checkpoints" / name, (1000 - age, 1000 - age))
    assert unfinished(tmp_path) == "checkpoints/stage-10/checkpoint-2"


@pytest.mark.parametrize(("saved", "left"), [("epoch", "classifier/checkpoint-2"), ('"no"', "generation-0/model-1/logits.safetensors")])
def test_the_models_of_a_stopped_pet_are_not_deleted(
    saved: str, left: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_masked_lm("bert", here / "bert")
    Path("pet.yaml").write_text(PET.replace("SAVED", saved), encoding="utf-8")
    Path("texts.txt").write_text("\n".join(f"the film was {w} indeed" for w in ("good", "bad", "fine", "sad")), encoding="utf-8")
    words = ("fit", "train.csv", "--recipe", "pet.yaml", "--model", "bert")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tempering.stages.pet.distilled" if saved == '"no"' else "tempering.fitting.evaluate", stop)
        assert cli.run(list(words)) == 130
    assert f"--resume goes on from checkpoints/stage-0/{left}" in capsys.readouterr().err
    kept = {path: path.read_bytes() for path in Path("model/checkpoints").rglob("logits.safetensors")}
    assert len(kept) == 2
    refuses(*words, said=f"holds an unfinished run (checkpoints/stage-0/{left}); --resume goes on", capsys=capsys)
    assert {path: path.read_bytes() for path in Path("model/checkpoints").rglob("logits.safetensors")} == kept
    with monkeypatch.context() as patched:
        patched.setattr("tempering.stages.pet_models.Teachers._trained", stop)  # both are taken from what is left
        done(*words, "--resume")
    assert not Path("model/checkpoints").exists() and len(tempering.load("model").predict(["a good film"])) == 1


def test_a_finished_stage_without_checkpoints_is_not_deleted(
    here: Path, bert: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("fit", "train.csv", "--recipe", "tapt-lora", "--model", bert)
    words += tuple(f"stages.{i}.{setting}" for i in (0, 1) for setting in ("save_strategy=no", "max_steps=1", "min_steps=0"))

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tempering.fitting.evaluate", stop)
        assert cli.run(list(words)) == 130
    assert "--resume goes on from checkpoints/stage-0/backbone.safetensors" in capsys.readouterr().err
    refuses(*words, said="holds an unfinished run (checkpoints/stage-0/backbone.safetensors)", capsys=capsys)
    done(*words, "--resume")
    assert Path("model/base").exists() and not Path("model/checkpoints").exists()
