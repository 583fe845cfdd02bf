"""The command line: what each command writes and prints, that mistakes are one line and exit code 2, and that resume is exact."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tempering
from tempering import cli
from tempering.commands import console
from tempering.commands.compare import cell_words
from tests.tiny import save_tiny, tiny_examples

QUICK = ("max_steps=2", "min_steps=0")
HEAVY = ("torch", "transformers", "pandas", "pyarrow", "datasets", "sklearn", "scipy", "matplotlib", "numpy")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("models") / "bert"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with train.csv, dev.csv and test.csv."""
    monkeypatch.chdir(tmp_path)
    for name, rows, start in (("train", 24, 1), ("dev", 12, 100), ("test", 12, 200)):
        write_rows(tmp_path / f"{name}.csv", rows, start)
    return tmp_path


def write_rows(path: Path, rows: int, start: int = 1, labels: tuple[Any, Any] = ("bad", "good")) -> Path:
    found = [{"id": e.row, "text": e.texts[0], "label": labels[e.label == "good"]} for e in tiny_examples(rows, start=start)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "label"])
        writer.writeheader()
        writer.writerows(found)
    return path


def done(*arguments: str) -> None:
    assert cli.run(list(arguments)) == 0


def fitted(bert: str, *more: str) -> None:
    done("fit", "train.csv", "--dev", "dev.csv", "--test", "test.csv", "--recipe", "full", "--model", bert, *QUICK, *more)


def spawn(*arguments: str, folder: Path, **more: Any) -> subprocess.Popen[str]:
    source = Path(tempering.__file__).parents[1]
    env = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tempering", *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


# ---- help


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


# ---- fit


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
    done("fit", "train.csv", "--model", bert, "--recipe", "houlsby", "--overwrite", *QUICK)
    names = {p.name for p in (here / "model").iterdir()}
    assert "delta.safetensors" in names and "model.safetensors" not in names and "mine.txt" in names


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


# ---- resume


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


# ---- predict and evaluate


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


def test_predicting_a_predicted_file_replaces_its_columns(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(bert)
    done("predict", "model", "test.csv", "--output", "once.csv")
    done("predict", "model", "once.csv", "--output", "twice.csv")
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


# ---- check and explain


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


# ---- compare and report


COMPARE = ("compare", "train.csv", "--dev", "dev.csv", "--test", "test.csv", "--recipes", "full,head", "--sizes", "8,all", "--seeds", "2")


def test_compare_writes_a_study_and_goes_on(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done(*COMPARE, "--model", bert, *QUICK)
    said = capsys.readouterr()
    assert "[8/8] " in said.err and "full" in said.out and "study/report.html" in said.out
    assert {"report.html", "report.md", "report.json", "study.sqlite"} <= {p.name for p in (here / "study").iterdir()}
    done(*COMPARE, "--model", bert, *QUICK, "--json")
    again = capsys.readouterr()
    found = json.loads(again.out)
    assert "[8/8]" not in again.err  # no run is repeated
    assert [size["size"] for size in found["sizes"]] == ["8", "all"] and len(found["runs"]) == 8


def test_report_in_every_form(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("compare", "train.csv", "--recipes", "head,bitfit", "--seeds", "2", "--model", bert, *QUICK)
    capsys.readouterr()
    done("report", "study")
    assert "head" in capsys.readouterr().out
    done("report", "study", "--format", "json")
    assert json.loads(capsys.readouterr().out)["study"]["test_rows"] == 5  # held out of the training file
    done("report", "study", "--format", "md", "--output", "answer.md")
    assert Path("answer.md").read_text().startswith("# ") and capsys.readouterr().out == ""
    (here / "study/report.html").unlink()
    done("report", "study", "--format", "html")
    assert "<html" in (here / "study/report.html").read_text()


def test_compare_dry_run_counts_and_writes_nothing(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    done(*COMPARE, "--model", bert, *QUICK, "--dry-run")
    assert "2 recipes x 2 sizes x 2 seeds = 8 runs" in capsys.readouterr().out
    done(*COMPARE, "--model", bert, *QUICK, "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out)["runs"] == 8
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sizes", "8,few"), "found 'few'"),
        (("--sizes", "8,8"), "each size once"),
        (("--sizes", "8000"), "at most"),
        (("--recipes", "full,full"), "found 'full' twice"),
        (("--recipes", ","), "found none"),
        (("--recipes", "full,lorra"), "did you mean lora"),
        (("--recipes", "mixout", "tuning=lora"), "trains none of those"),
        (("--seeds", "0"), "see  temper compare --help"),
        (("--metric", "acuracy"), "did you mean accuracy"),
        (("--output-dir", "train.csv"), "that is a file"),
    ],
)
def test_a_bad_study_leaves_no_folder(words: tuple[str, ...], said: str, here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    refuses("compare", "train.csv", "--model", bert, *words, said=said, capsys=capsys)
    refuses("report", "train.csv", said="holds no study", capsys=capsys)
    refuses("report", ".", "--format", "pdf", said="choose one of html", capsys=capsys)
    assert sorted(here.rglob("*")) == before


def test_a_run_in_words() -> None:
    event = {"done": 3, "total": 24, "phase": "search", "recipe": "lora", "size": "all", "seed": 1, "status": "done", "reason": ""}
    event |= {"metric": "accuracy", "score": 0.81234, "seconds": 4.2, "remaining": 80.14}
    assert cell_words(event) == "[3/24] search: lora, all rows, seed 1: accuracy 0.8123 in 4.2 s, about 80.1 s left"
    failed = event | {"status": "failed", "reason": "the loss became nan", "phase": "final", "size": "8"}
    assert cell_words(failed) == "[3/24] lora, 8 rows, seed 1: failed, the loss became nan"


def test_demo_runs_through(here: Path, bert: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tempering.commands.demo.MODEL", bert)
    monkeypatch.setattr("tempering.commands.demo.SETTINGS", QUICK)
    done("demo")
    said = capsys.readouterr().out
    assert said.index("1. Look at the data") < said.index("2. Fine-tune") < said.index("3. Which recipe") < said.index("your own file")
    assert (here / "temper-demo/study/report.html").exists() and (here / "temper-demo/model/tempering.json").exists()
    done("demo")  # a second time nothing is trained again
    assert "is finished already" in capsys.readouterr().err


# ---- mistakes


def refuses(*words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one error line that holds ``said``, nothing on standard output."""
    capsys.readouterr()
    assert cli.run(list(words)) == 2
    found = capsys.readouterr()
    errors = [line for line in found.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0], found.err
    assert found.err.endswith(f"{errors[0]}\n") and found.out == "" and "Traceback" not in found.err


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
        (("--kind", "tagging"), "tagging"),
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
