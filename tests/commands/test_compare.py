"""``temper compare``, ``report`` and ``demo``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempering.commands.compare import cell_words
from tempering.framings.masked_lm import MaskedLM
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tests.commands.shared import QUICK, done, refuses

COMPARE = ("compare", "train.csv", "--dev", "dev.csv", "--test", "test.csv", "--recipes", "full,head", "--sizes", "8,all", "--seeds", "2")


def test_compare_writes_a_study_and_goes_on(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done(*COMPARE, "--model", bert, *QUICK)
    said = capsys.readouterr()
    assert f"temper fit train.csv --dev dev.csv --test test.csv --recipe NAME --model {bert} max_steps=2 min_steps=0" in said.out
    assert "[8/8] " in said.err and "full" in said.out and "study/report.html" in said.out
    assert {"report.html", "report.md", "report.json", "study.sqlite"} <= {p.name for p in (here / "study").iterdir()}
    done(*COMPARE, "--model", bert, *QUICK, "--json")
    again = capsys.readouterr()
    found = json.loads(again.out)
    assert "[8/8]" not in again.err  # no run is repeated
    assert [size["size"] for size in found["sizes"]] == ["8", "all"] and len(found["runs"]) == 8


def test_report_in_every_form(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("compare", "train.csv", "--recipes", "head,bitfit", "--seeds", "2", "--model", bert, "--workers", "0", *QUICK)
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


def test_a_space_smaller_than_the_budget_is_said(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("compare", "train.csv", "--recipes", "head", "--seeds", "1", "--budget", "4", "--model", bert, "--workers", "0", *QUICK)
    done(*asked, "--dry-run")
    assert "up to 4 settings" in capsys.readouterr().out
    done(*asked)
    assert capsys.readouterr().err.count("note: Fewer settings than the budget of 4 in the search space of head (3)") == 1


def test_compare_dry_run_counts_and_writes_nothing(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    done(*COMPARE, "--model", bert, *QUICK, "--dry-run")
    assert "2 recipes x 2 sizes x 2 seeds = 8 runs" in capsys.readouterr().out
    done(*COMPARE, "--model", bert, *QUICK, "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out)["runs"] == 8
    assert sorted(here.rglob("*")) == before


def test_a_setting_may_be_of_one_recipe_alone(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("compare", "train.csv", "--dev", "dev.csv", "--test", "test.csv", "--recipes", "full,stilts", "--seeds", "1", "--workers", "0")
    own = ("stilts:stages.0.data={path: test.csv, label: label}", "stilts:stages.0.max_steps=1", "stilts:max_steps=1")
    done(*asked, "--model", bert, *QUICK, *own)
    said = capsys.readouterr().out
    assert f"--recipe NAME --model {bert} max_steps=2 min_steps=0 (and its own settings, without the name before them)" in said
    common = {"max_steps": 2, "min_steps": 0}
    expected = Recipe.load("stilts").override(
        common | {"stages.0.data": {"path": "test.csv", "label": "label"}, "stages.0.max_steps": 1, "max_steps": 1}
    )
    kept = {name: Recipe.load(str(here / f"study/recipes/{name}.yaml")) for name in ("full", "stilts")}
    assert kept["stilts"].key() == expected.key() and kept["full"].key() == Recipe.load("full").override(common).key()


def test_a_setting_that_one_recipe_does_not_take_is_named_with_it(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("compare", "train.csv", "--model", bert, "--dry-run", "--recipes")
    way = "; what is for one recipe alone has its name before it:  "
    for words, said in (
        (("prime-none,prime", "stages.0.sources=[a, b]"), "recipe prime-none: setting 'stages.0.sources': no field 'sources'"),
        (("prime-none,prime", "stages.0.sources=[a, b]"), f"{way}'prime:stages.0.sources=[a, b]'"),
        (("full,stilts", "stages.0.data=a.csv"), f"or add a stage{way}stilts:stages.0.data=a.csv"),
        (("full,stilts", "stils:stages.0.data=a.csv"), "no recipe 'stils' in --recipes; did you mean stilts?"),
        (("full,stilts", "qqq:stages.0.data=a.csv"), "no recipe 'qqq' in --recipes; there are full, stilts"),
        (("full,stilts", "full:stages.0.data"), "setting 'stages.0.data': expected key=value"),
        (("cloze,full", "framing.template={text}: {mask}"), f"{way}'cloze:framing.template={{text}}: {{mask}}'"),
    ):
        refuses(*asked, *words, said=said, capsys=capsys)
    refuses(*asked, "full,head", "learning_rates=1", said="recipe full: setting 'learning_rates': no field", capsys=capsys)
    refuses(*asked, "full", "full:text=C:/a.txt", said="C:/a.txt", capsys=capsys)  # a colon in a value is none of a name


def test_the_variance_is_decomposed_where_asked_for(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (
        "compare",
        "train.csv",
        "--recipes",
        "head",
        "--sizes",
        "8",
        "--seeds",
        "3",
        "--decompose",
        "--model",
        bert,
        *QUICK,
        "--workers",
        "0",
    )
    done(*asked, "--dry-run")
    assert "1 recipes x 1 sizes x 3 x 3 crossed seeds = 9 runs" in capsys.readouterr().out
    done(*asked)
    said = capsys.readouterr()
    assert "crossed: head, 8 rows, sample 0, init 1, order 2: accuracy" in said.err
    assert "Where the spread comes from" in said.out and "9 of 9" in said.out
    done("report", "study", "--format", "json")
    assert json.loads(capsys.readouterr().out)["parts"][0]["runs"] == 9
    refuses(*asked[:7], "2", *asked[8:], said="--decompose needs --seeds 3 at least", capsys=capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sizes", "8,few"), "found 'few'"),
        (("--sizes", "8,8"), "each size once"),
        (("--sizes", "8000"), "at most"),
        (("--recipes", "full,full"), "found 'full' twice"),
        (("--recipes", ","), "found none"),
        (("--seeds", "2", "--search-seeds", "3", "--dry-run"), "--search-seeds 3: expected at most the 2 of --seeds"),
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


@pytest.mark.parametrize(
    ("name", "said"),
    [("a/b", "expected one without slashes, as 'a-b'"), ("n" * 120, "expected 100 bytes at most, found 120")],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_name_that_no_file_can_have_is_refused_in_a_dry_run_too(
    name: str, said: str, more: tuple[str, ...], here: Path, bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Recipe.load("head").to_yaml().replace("name: head", f"name: {name}")
    (here / "mine.yaml").write_text(text, encoding="utf-8")
    refuses("compare", "train.csv", "--model", bert, "--recipes", "mine.yaml", *QUICK, *more, said=said, capsys=capsys)
    assert not (here / "study").exists()


def test_a_dry_run_refuses_what_predicts_nothing(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = Recipe("mlm", (Train(framing=MaskedLM(), text="unlabeled"),)).to_yaml()
    (here / "mlm.yaml").write_text(text, encoding="utf-8")
    asked = ("compare", "train.csv", "--model", bert, "--recipes", "mlm.yaml", "--dry-run")
    refuses(*asked, said="its last stage predicts no labels, so there is no score to compare", capsys=capsys)
