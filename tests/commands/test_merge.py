"""``temper merge``: one model folded, several added up, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempering.cli import run
from tempering.contracts import Example
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.saving import load
from tests.tiny import save_tiny, tiny_examples, tiny_task

TEXTS = [" ".join(e.texts) for e in tiny_examples(6, seed=3)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base model and two LoRAs of it."""
    where = tmp_path_factory.mktemp("merge")
    save_tiny("bert", where / "base")
    found = []
    for seed in (0, 1):
        rows = tiny_examples(16, seed=seed)
        data = where / f"data{seed}.jsonl"
        data.write_text("\n".join(json.dumps({"text": r.texts[0], "label": r.label}) for r in rows), encoding="utf-8")
        words = ["max_steps=4", "min_steps=0", "learning_rate=1e-2", "--recipe", "lora", "--model", str(where / "base")]
        assert run(["fit", str(data), *words, "--output-dir", str(where / f"m{seed}")]) == 0
        found.append(where / f"m{seed}")
    return where, found[0], found[1]


def test_one_model_predicts_the_same_and_loads_with_transformers(
    fitted: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    where, one, _ = fitted
    assert run(["merge", str(one), "--output-dir", str(where / "merged")]) == 0
    assert "loads with transformers" in capsys.readouterr().out
    before, after = load(one).predict_proba(TEXTS), load(where / "merged").predict_proba(TEXTS)
    for a, b in zip(before, after, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_several_are_added_up_with_weights(fitted: tuple[Path, Path, Path]) -> None:
    where, one, two = fitted
    assert run(["merge", str(one), str(two), "--weights", "1,0", "--output-dir", str(where / "sum")]) == 0
    rows = [Example((text,)) for text in TEXTS]
    for a, b in zip(load(one).predictions(rows), load(where / "sum").predictions(rows), strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--weights", "1"], "give one for each of two models or more"),
        (["--weights", "a,b"], "expected numbers"),
        (["--output-dir", "ITSELF"], "give another folder"),
    ],
)
def test_mistakes_are_one_line(
    fitted: tuple[Path, Path, Path], words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where, one, _ = fitted
    given = [str(one) if word == "ITSELF" else word for word in words]
    extra = [] if "--output-dir" in given else ["--output-dir", str(where / "never")]
    overwrite = ["--overwrite"] if "ITSELF" in words else []
    assert run(["merge", str(one), *given, *extra, *overwrite]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_the_base_model_is_never_replaced(fitted: tuple[Path, Path, Path], count: int, capsys: pytest.CaptureFixture[str]) -> None:
    where, *folders = fitted
    words = ["merge", *map(str, folders[:count]), "--output-dir", str(where / "base"), "--overwrite"]
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "would replace the base model of" in said and "which this run reads; give another --output-dir" in said
    assert load(folders[0]).predict(TEXTS)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", str(tmp_path), "--output-dir", str(tmp_path / "out")]) == 2
    assert "holds no fitted model" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["lora", "bitfit", "full"])
def test_the_base_may_have_moved(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_tiny("bert", tmp_path / "base")
    folders = []
    for seed in (0, 1):
        learner = fit(Recipe.load(recipe).override({"max_steps": 2, "min_steps": 0}), tiny_task(16), str(base), seed=seed)
        folders.append(str(learner.save_pretrained(tmp_path / f"m{seed}")))
    assert run(["merge", *folders, "--output-dir", str(tmp_path / "before")]) == 0
    base.rename(tmp_path / "moved")
    if recipe != "full":
        assert run(["merge", folders[0], "--output-dir", str(tmp_path / "never")]) == 2
        assert "temper predict, evaluate and merge take --model" in capsys.readouterr().err
    given = ["--model", str(tmp_path / "moved")]
    assert run(["merge", *folders, *given, "--output-dir", str(tmp_path / "after")]) == 0
    expected = load(tmp_path / "before", tmp_path / "moved").predict_proba(TEXTS)
    assert load(tmp_path / "after", tmp_path / "moved" if recipe == "lora" else None).predict_proba(TEXTS) == expected
    assert run(["merge", folders[0], *given, "--output-dir", str(tmp_path / "one")]) == 0
    assert load(tmp_path / "one").predict(TEXTS)
    assert run(["merge", folders[0], *given, "--overwrite", "--output-dir", given[1]]) == 2
    assert "would replace --model" in capsys.readouterr().err and (tmp_path / "moved" / "config.json").exists()
