"""The command line on tags and answers: check, fit with any recipe, predict in every form, evaluate, compare."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering.choosing import choose
from tempering.commands.fields import fields
from tempering.commands.placing import in_own_texts
from tempering.contracts import Example, Prediction, Span
from tempering.study.records import Record
from tempering.tags import joined
from tempering.tasks import Task
from tests.commands.shared import QUICK, done, refuses
from tests.tiny import tiny_examples


def conll(path: Path, rows: int, seed: int = 0) -> Path:
    examples = tiny_examples(rows, "tagging", seed)
    blocks = ["".join(f"{e.texts[0][a:b]} {tag}\n" for (a, b), tag in zip(e.words, e.label, strict=True)) for e in examples]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def squad(path: Path, rows: int, seed: int = 0) -> Path:
    made = [
        {"question": e.texts[0], "context": e.texts[1], "answers": [{"text": t, "answer_start": s} for s, t in e.label]}
        for e in tiny_examples(rows, "question_answering", seed)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tagger(bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that tags, fitted by a recipe whose framing is the plain head."""
    monkeypatch.chdir(tmp_path)
    conll(tmp_path / "train.conll", 24), conll(tmp_path / "dev.conll", 8, seed=1)
    done("fit", "train.conll", "--dev", "dev.conll", "--recipe", "lora", "--model", bert, *QUICK)
    return tmp_path / "model"


def test_any_recipe_serves_tags(tagger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads((tagger / "metrics.json").read_text())
    assert facts["main_metric"] == "f1" and set(facts["dev"]) >= {"f1", "precision", "recall", "macro_f1", "accuracy"}
    assert type(tempering.load(tagger).framing).__name__ == "TokenHeadModule"
    capsys.readouterr()
    done("evaluate", "model", "dev.conll", "--metric", "f1:good")
    assert "f1:good" in capsys.readouterr().out


def test_predictions_in_every_form(tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.jsonl").write_text('{"id": 1, "text": "the film was lovely, not dull"}\n', encoding="utf-8")
    done("predict", "model", "new.jsonl", "--output", "out.jsonl")
    assert "the input has its own" not in capsys.readouterr().err  # the text that comes out is that which went in
    (row,) = read(tmp_path / "out.jsonl")
    assert row["id"] == 1 and row["words"] == ["the", "film", "was", "lovely", ",", "not", "dull"]
    assert len(row["prediction"]) == 7
    assert all(row["text"][s["start"] : s["end"]] == s["text"] and s["label"] in ("good", "bad") for s in row["spans"])
    done("predict", "model", "new.jsonl", "--output", "out.csv")
    (cells,) = read(tmp_path / "out.csv")
    assert cells["prediction"].split() == row["prediction"]
    assert cells["spans"] == " | ".join(f"{s['text']} [{s['label']} {s['start']}:{s['end']}]" for s in row["spans"])
    done("predict", "model", "dev.conll", "--output", "out.conll")
    mine, given = (Task.from_file(tmp_path / name, dev_fraction=0) for name in ("out.conll", "dev.conll"))
    assert [e.texts for e in mine.train] == [e.texts for e in given.train]


def test_predictions_on_the_screen(tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.txt").write_text("a lovely day\n\na dull one\n", encoding="utf-8")
    capsys.readouterr()
    done("predict", "model", "new.txt")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "text,prediction,spans" and len(lines) == 3


def test_check_tells_of_broken_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.conll"
    path.write_text("Ada B-PER\n\nof O\nYork I-LOC\n\nBo B-PER\n\n", encoding="utf-8")
    done("check", str(path))
    out = capsys.readouterr().out
    assert "tagging, 5 labels (text = tokens, label = tags)" in out
    assert "1 tags in 1 rows of the train file break the scheme IOB2 (rows 3; first row 3, word 2 'York': I-LOC after O, now B-LOC)" in out


def test_explain_says_which_head_it_will_be(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done("explain", "lora", str(conll(tmp_path / "a.conll", 12)), "--model", bert)
    assert "framing token_head, tuning lora" in capsys.readouterr().out
    done("explain", "question-answering", "--model", bert)
    assert "framing span_head" in capsys.readouterr().out


def test_answers(bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    squad(tmp_path / "train.jsonl", 24), squad(tmp_path / "dev.jsonl", 8, seed=1)
    done("fit", "train.jsonl", "--dev", "dev.jsonl", "--model", bert, *QUICK)
    facts = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert facts["main_metric"] == "f1" and "exact_match" in facts["dev"]
    done("predict", "model", "dev.jsonl", "--output", "out.jsonl")
    for row in read(tmp_path / "out.jsonl"):
        assert row["prediction"] == row["context"][row["start"] : row["end"]] != "" and row["answers"][0]["text"] == row["prediction"]
    done("predict", "model", "dev.jsonl", "--output", "out.csv")
    assert {"prediction", "probability", "start", "end"} <= set(read(tmp_path / "out.csv")[0])
    done("evaluate", "model", "dev.jsonl", "--metric", "answerable_f1")


def studied(recipes: str, files: Sequence[Path], model: str, folder: Path, judged: int) -> list[Record]:
    """The cells of a finished study of two recipes and seeds, each of which judged so many rows."""
    words = ("--recipes", recipes, "--seeds", "2", "--workers", "0", "--output-dir", str(folder))
    done("compare", str(files[0]), "--dev", str(files[1]), "--test", str(files[2]), "--model", model, *words, *QUICK)
    records = tempering.Study.open(folder).records()
    assert len(records) == 4 and {r.status for r in records} == {"done"}
    assert all(len(r.items) == len(r.predictions) == judged for r in records)
    return records


def test_a_study_of_tags(bert: str, tmp_path: Path) -> None:
    files = [conll(tmp_path / f"{name}.conll", n, seed=n) for name, n in (("a", 24), ("b", 8), ("c", 8))]
    studied("tagging,head", files, bert, tmp_path / "study", judged=8)


def test_a_study_of_answers(bert: str, tmp_path: Path) -> None:
    files = [squad(tmp_path / f"{name}.jsonl", n, seed=n) for name, n in (("a", 24), ("b", 8), ("c", 10))]
    records = studied("question-answering,bitfit", files, bert, tmp_path / "study", judged=10)
    assert all({"f1", "exact_match"} <= set(r.test) for r in records)


def test_what_auto_chooses(tmp_path: Path) -> None:
    assert choose(Task.from_file(conll(tmp_path / "a.conll", 12)))[0].name == "tagging"
    assert choose(Task.from_file(squad(tmp_path / "a.jsonl", 12)))[0].name == "question-answering"


def test_refusals(tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("number\n1\n", encoding="utf-8")
    refuses("predict", "model", "a.csv", "--text", "nosuch", said="expected a column 'nosuch' (--text)", capsys=capsys)
    refuses("evaluate", "model", "a.csv", said="expected a column of tags or spans, found 'number'", capsys=capsys)
    refuses(
        "fit",
        "train.conll",
        "--metric",
        "f1:XYZ",
        "--output-dir",
        "other",
        said="names no label of the task; labels: bad, good",
        capsys=capsys,
    )


def test_words_line_by_line_are_for_taggers(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.commands.shared import write_rows

    write_rows(tmp_path / "t.csv", 24)
    done("fit", str(tmp_path / "t.csv"), "--recipe", "full", "--model", bert, "--output-dir", str(tmp_path / "m"), *QUICK)
    words = ("predict", str(tmp_path / "m"), str(tmp_path / "t.csv"), "--output", str(tmp_path / "o.conll"))
    refuses(*words, said="a line a word is for models that tag words", capsys=capsys)


def test_an_answer_without_a_probability_has_none_made_up() -> None:
    example = Example(("Where?", "in London"), None, 1)
    place = {"start": 3, "end": 9}
    bare = Prediction("London", {}, (Span(3, 9, "answer"),))
    for nested in (True, False):
        assert fields(bare, example, (), "question_answering", nested) == {"prediction": "London"} | place
    known = Prediction("London", {"London": 0.75, "": 0.25}, (Span(3, 9, "answer"),))
    answers = [{"text": "London", "probability": 0.75}, {"text": "", "probability": 0.25}]
    assert (
        fields(known, example, (), "question_answering", True) == {"prediction": "London", "probability": 0.75, "answers": answers} | place
    )


def test_tokens_beside_their_text_are_told_in_its_characters(tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '"The lovely,  lovely" film.'
    tokens = ["The", "lovely", ",", "lovely", "film", "."]
    lines = [{"text": text, "tokens": tokens}, {"text": "a dull day", "tokens": ["a", "awful", "day"]}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps({"tokens": line["tokens"]}) + "\n" for line in lines), encoding="utf-8")
    capsys.readouterr()
    done("predict", "model", "new.jsonl", "--output", "out.jsonl"), done("predict", "model", "bare.jsonl", "--output", "bare_out.jsonl")
    said = capsys.readouterr().err
    assert "1 rows have a column 'text' that does not hold their tokens one after the other (rows 2)" in said and "--text text" in said
    placed, bare = read(tmp_path / "out.jsonl"), read(tmp_path / "bare_out.jsonl")
    assert placed[0]["text"] == text and placed[0]["words"] == tokens and placed[1]["text"] == bare[1]["text"] == "a awful day"
    assert [row["prediction"] for row in placed] == [row["prediction"] for row in bare]
    assert all(row["text"][s["start"] : s["end"]] == s["text"] for row in placed for s in row["spans"])
    assert len(placed[0]["spans"]) == len(bare[0]["spans"])


def test_entities_and_words_are_moved_into_the_rows_own_text() -> None:
    text = '"The good,  great" film.'
    tokens = ["The", "good", ",", "great", "film", "."]
    said, words = joined(tokens)
    example = Example((said,), None, 7, words)
    prediction = Prediction(("O", "B-X", "O", "B-X", "I-X", "O"), spans=(Span(4, 8, "X", 0.5), Span(11, 21, "X")))
    (moved,), (made,), note = in_own_texts([{"text": text}], [example], [prediction])
    assert moved.texts == (text,) and [text[a:b] for a, b in moved.words] == tokens and not note
    assert made.spans == (Span(5, 9, "X", 0.5), Span(12, 23, "X")) and made.label == prediction.label
    assert fields(made, moved, (), "tagging", nested=False)["spans"] == 'good [X 5:9] | great" film [X 12:23]'
    for row in ({}, {"text": said}, {"text": None}):
        assert in_own_texts([row], [example], [prediction]) == ((example,), [prediction], "")
    raw = Example((text,), None, 7)
    assert in_own_texts([{"text": text}], [raw], [prediction])[0] == (raw,)
