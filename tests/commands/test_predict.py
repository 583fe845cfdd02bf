"""``temper predict``, ``evaluate``, ``check`` and ``explain``."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tempering import cli
from tempering.commands import predict
from tempering.tasks.readers import read_table
from tests.commands.shared import QUICK, done, fitted, refuses, write_rows
from tests.tiny import save_tiny, tiny_examples


@pytest.mark.parametrize("labels", [(0, 1), (False, True), ("schlecht – é", "好"), ("no", "yes")])
def test_labels_of_every_type_come_back(labels: tuple[Any, Any], here: Path, bert: str) -> None:
    write_rows(here / "rows.jsonl", 24, labels=labels)
    done("fit", "rows.jsonl", "--model", bert, "--recipe", "head", *QUICK)
    done("predict", "model", "rows.jsonl", "--output", "out.jsonl")
    rows = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    names = [f"prob_{label}" for label in sorted(labels)]
    assert len(rows) == 24 and list(rows[0]) == ["id", "text", "label", "prediction", *names]
    for row in rows:
        assert type(row["prediction"]) is type(labels[0]) and row["prediction"] in labels
        assert sum(row[name] for name in names) == pytest.approx(1, abs=1e-5)
        assert row[f"prob_{row['prediction']}"] >= 0.5
    done("predict", "model", "rows.jsonl", "--output", "out.csv")
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == [str(row["prediction"]) for row in rows]


def test_predictions_go_to_the_screen_as_csv(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert)
    capsys.readouterr()
    (here / "new.tsv").write_text('number\ttext\n1\t"a good, ""very"" good\nfilm"\n2\tbad\n', encoding="utf-8")
    done("predict", "model", "new.tsv")
    said = capsys.readouterr()
    rows = list(csv.DictReader(said.out.splitlines(keepends=True)))
    assert said.err == "" and [row["text"] for row in rows] == ['a good, "very" good\nfilm', "bad"]
    assert list(rows[0]) == ["number", "text", "prediction", "prob_bad", "prob_good"]
    done("predict", "model", "new.tsv", "--output", "out.tsv")
    assert Path("out.tsv").read_text().startswith("number\ttext\tprediction\t") and not list(here.glob(".out*"))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_every_line_end_in_a_cell_is_read_back(ending: str, here: Path) -> None:
    cells = ["a\rb", "a\nb", "a\r\nb", "b\r\n", 'say "no"', "", "plain, though\twith marks"]
    predict._write([{"text": cell, "prediction": 1} for cell in cells], here / f"out.{ending}")
    assert read_table(here / f"out.{ending}").columns["text"] == cells
    predict._write([{"text": "plain", "prediction": 1}], here / f"out.{ending}")
    mark = "," if ending == "csv" else "\t"
    assert (here / f"out.{ending}").read_bytes() == f"text{mark}prediction\nplain{mark}1\n".encode()


def test_half_a_surrogate_pair_is_written_escaped(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert)
    given = {"text": "a good film", "user": "\ud83d é \\", "tags": ["\ude00"]}
    (here / "new.jsonl").write_text(json.dumps(given) + "\n", encoding="utf-8")
    done("predict", "model", "new.jsonl", "--output", "out.jsonl")
    line = Path("out.jsonl").read_text(encoding="utf-8")
    assert json.loads(line).items() >= given.items() and "é" in line
    done("predict", "model", "new.jsonl", "--output", "out.csv")
    assert read_table("out.csv").columns["user"] == ["\\ud83d é \\"]
    capsys.readouterr()
    done("predict", "model", "new.jsonl")
    assert capsys.readouterr().out == Path("out.csv").read_text(encoding="utf-8")


def test_a_failed_write_leaves_nothing_behind(here: Path) -> None:
    (here / "out.csv").mkdir()
    with pytest.raises(OSError, match="out.csv"):
        predict._put("text\n", here / "out.csv")
    assert not list(here.glob(".out*"))


def test_predicting_a_predicted_file_replaces_its_columns(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert)
    done("predict", "model", "test.csv", "--output", "once.csv")
    done("predict", "model", "once.csv", "--output", "twice.csv")
    assert Path("once.csv").read_bytes() == Path("twice.csv").read_bytes()
    assert "the input has its own" not in capsys.readouterr().err  # what comes out is what went in
    rows = Path("once.csv").read_text(encoding="utf-8").splitlines()
    changed = [rows[0], *(f"{row.rsplit(',', 3)[0]},other,2,3" for row in rows[1:])]
    Path("changed.csv").write_text("\n".join(changed) + "\n", encoding="utf-8")
    done("predict", "model", "changed.csv", "--output", "twice.csv")
    assert Path("once.csv").read_bytes() == Path("twice.csv").read_bytes()
    assert "the input has its own prediction, prob_bad, prob_good" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_sets_of_labels_and_values(kind: str, here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = tiny_examples(30, kind)
    lines = [json.dumps({"text": e.texts[0], "label": list(e.label) if kind == "multilabel" else e.label}) for e in examples]
    Path("rows.jsonl").write_text("\n".join(lines))
    done("fit", "rows.jsonl", "--model", bert, "--recipe", "full", *QUICK)
    done("predict", "model", "rows.jsonl", "--output", "out.jsonl")
    done("predict", "model", "rows.jsonl", "--output", "out.csv")
    first = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    if kind == "regression":
        assert list(first) == ["text", "label", "prediction"] and isinstance(first["prediction"], float)
    else:
        assert isinstance(first["prediction"], list) and {"prob_good", "prob_long"} <= first.keys()
        assert "|".join(first["prediction"]) in Path("out.csv").read_text().splitlines()[1]
    capsys.readouterr()
    done("evaluate", "model", "rows.jsonl", "--json")
    assert json.loads(capsys.readouterr().out)["main_metric"] == {"multilabel": "micro_f1", "regression": "spearman"}[kind]


def test_evaluate_repeats_what_fit_measured(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert)
    capsys.readouterr()
    done("evaluate", "model", "test.csv", "--metric", "micro_f1", "--json")
    found = json.loads(capsys.readouterr().out)
    measured = json.loads(Path("model/metrics.json").read_text())["test"]
    assert found["rows"] == 12 and {k: found["metrics"][k] for k in measured} == pytest.approx(measured, abs=1e-6)
    assert found["metrics"]["micro_f1"] == found["metrics"]["accuracy"]
    done("evaluate", "model", "test.csv")
    assert capsys.readouterr().out.startswith(f"12 rows of test.csv: accuracy {measured['accuracy']:.4f}\n")


def test_pairs_keep_their_columns(here: Path, bert: str) -> None:
    rows = [f'{{"q": "{e.texts[0]}", "a": "the film", "y": "{e.label}"}}' for e in tiny_examples(24)]
    Path("pairs.jsonl").write_text("\n".join(rows))
    done("fit", "pairs.jsonl", "--text", "q", "--text-pair", "a", "--label", "y", "--model", bert, "--recipe", "head", *QUICK)
    done("predict", "model", "pairs.jsonl", "--output", "out.csv")
    assert Path("out.csv").read_text().startswith("q,a,y,prediction,prob_bad,prob_good\n")
    done("evaluate", "model", "pairs.jsonl")


def test_check_reports_in_words_and_json(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "test.csv").write_text((here / "train.csv").read_text())
    done("check", "train.csv", "--dev", "dev.csv", "--test", "test.csv", "--model", bert)
    said = capsys.readouterr().out
    assert "24 rows" in said and "also occur in train" in said and "64 tokens at most" in said
    assert cli.run(["check", "train.csv", "--test", "test.csv", "--strict", "--model", bert, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert any(f["code"] == "split-leak" and f["severity"] == "error" and f["rows"] for f in found["findings"])
    assert found["task"]["splits"]["test"]["rows"] == 24 and found["max_length"] == 64


def test_explain_with_and_without_data(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("explain", "lora", "--model", bert, "tuning.r=4")
    assert "tuning lora (r 4)" in capsys.readouterr().out
    done("explain", "auto", "train.csv", "--dev", "dev.csv", "max_steps=7", "--model", bert, "--json")
    said = capsys.readouterr()
    assert json.loads(said.out)["stages"][0]["steps"] == 7 and "recipe auto: head" in said.err


def test_a_refused_recipe_is_explained_as_such(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "mixout", "tuning=lora", "--model", bert, "--json"]) == 2
    said = capsys.readouterr()
    refusal = json.loads(said.out)["refused"]
    assert said.err == f"error: {refusal}\n" and "trains none of those" in refusal


def test_a_base_model_that_has_moved_is_pointed_at(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = shutil.copytree(bert, here / "old")
    done("fit", "train.csv", "--recipe", "lora", "--model", str(base), "--output-dir", "model", *QUICK)
    done("predict", "model", "test.csv", "--output", "before.csv")
    shutil.move(base, here / "new")
    for words in (("predict", "model", "test.csv"), ("evaluate", "model", "test.csv")):
        refuses(*words, said="put it back, or say where it is now: temper predict, evaluate and merge take --model", capsys=capsys)
    done("predict", "model", "test.csv", "--model", "new", "--output", "after.csv")
    assert Path("after.csv").read_bytes() == Path("before.csv").read_bytes()
    done("evaluate", "model", "test.csv", "--model", "new")
    save_tiny("bert", here / "other", seed=1)
    capsys.readouterr()
    refuses("predict", "model", "test.csv", "--model", "other", said="'other' is not the base model it was trained on", capsys=capsys)
