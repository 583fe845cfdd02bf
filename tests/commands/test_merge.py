"""``temper merge``: one model folded, several added up, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempering.cli import run
from tempering.contracts import Example
from tempering.saving import load
from tests.tiny import save_tiny, tiny_examples

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


def test_a_folder_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", str(tmp_path), "--output-dir", str(tmp_path / "out")]) == 2
    assert "holds no fitted model" in capsys.readouterr().err
