"""The experiments on what comes before the task: no row leaks from one data set to another, settings reach every stage, runs go on."""

# ruff: noqa: F811 - the fixture `script` is imported and then asked for by its name
from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tempering.contracts import Seeds
from tempering.recipe import Recipe
from tempering.tasks import Task
from tests.stages.conftest import write_tags  # noqa: F401 - a fixture
from tests.test_experiments import FOLDER, Loader, killed_in_the_third_step, opened, script  # noqa: F401 - a fixture
from tests.tiny import save_tiny, tiny_examples


def write(folder: Path, split: str, rows: list[tuple[str, Any]]) -> None:
    """A split of a data set of pairs (a text, and one that names the split), as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text_a": text, "text_b": f"{folder.name} {split}", "label": label}) for text, label in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def test_no_source_holds_a_text_that_another_data_set_is_judged_by(script: Loader, tmp_path: Path) -> None:
    module = script("intermediate")
    free = [(f"free {i}", "ab"[i % 2]) for i in range(6)]
    mrpc, stsb = (tmp_path / "data" / name for name in ("mrpc", "stsb"))
    write(mrpc, "train", [*free, ("shared once", "a"), ("Shared  twice", "b"), ("its own", "a")])
    write(mrpc, "dev", [("dev 1", "a"), ("dev 2", "b")])
    write(mrpc, "test", [("its own", "a"), ("other", "b")])
    write(stsb, "train", [(f"value {i}", i / 2) for i in range(6)])
    write(stsb, "dev", [("shared once", 1.0), ("value", 2.5)])
    write(stsb, "test", [("shared twice", 1.0), ("worth", 2.5)])
    args = module.parsed(["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")])
    found = Task.from_file(module.as_folder("mrpc", None, 0, args))
    assert [e.texts[0] for e in found.train] == [*(text for text, _ in free), "its own"]  # texts of its own are its own affair


def test_bodies_do_not_hang_on_the_tasks_that_are_asked_for(script: Loader) -> None:
    module = script("intermediate")
    one, all_four = (module.parsed([*words, "--rows", "9"]) for words in (["--tasks", "rte"], []))
    assert module.targets(one) == module.targets(all_four) == sorted(module.FOUR)
    assert module.rows_for("mrpc", "multi-task", one) == 9 and module.rows_for("cola", "muppet", one) is None
    muppet = module.first_stage("muppet", ["a", "b"], module.parsed(["bf16=true", "learning_rate=1"]))
    assert (muppet.bf16, muppet.learning_rate, muppet.head_learning_rate) == (True, 1e-4, 1e-3)  # of settings only what holds everywhere
    assert module.first_stage("multi-task", ["a", "b"], all_four).min_steps == all_four.min_steps == 300
    assert ("snli_10k", module.ALONE, 0) in module.plan(all_four) and len(module.plan(all_four)) == 3 * 15


def test_several_tasks_at_once_are_judged_as_they_come_out(script: Loader, tmp_path: Path) -> None:
    module = script("intermediate")
    for seed, name in enumerate(module.FOUR):
        (tmp_path / "data" / name).mkdir(parents=True)
        for split, start in (("train", 1), ("dev", 50), ("test", 70)):
            rows = tiny_examples(24, "regression" if name == "stsb" else "classification", seed, start)
            lines = [json.dumps({"text": f"{e.texts[0]} {name} {e.row}", "label": e.label}) for e in rows]
            (tmp_path / "data" / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    words = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--model", str(save_tiny("bert", tmp_path / "m"))]
    words += ["--seeds", "1", "--first-steps", "2", "--tasks", "rte,stsb", "--arms", "none,multi-task-alone,multi-task"]
    args = module.parsed([*words, "max_steps=1", "min_steps=0"])
    cells = module.Cells.open(args.output, {})
    module.run(cells, args)
    assert set(cells.done) - {"first stage/multi-task/0"} == {module.key(*cell) for cell in module.plan(args)} and len(cells.done) == 7
    assert cells["stsb/multi-task-alone/0"]["main_metric"] == cells["stsb/none/0"]["main_metric"]
    assert [p.name for p in (args.output / "bodies").iterdir() if p.is_dir()] == ["multi-task-0"]
    said, reached = module.table(cells, args), cells["first stage/multi-task/0"]
    assert "| rte | multi-task-alone |" in said and f"| multi-task | 4 | 2 | {100 * reached['early']:.1f} |" in said
    assert 0 < reached["dev"] <= 1 and reached["dev"] >= reached["early"]


@pytest.mark.parametrize("name", ["ranking", "setfit", "run in priming"])
def test_runs_of_other_settings_are_refused_everywhere(script: Loader, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script(name)
    (tmp_path / "cells.json").write_text(json.dumps({"settings": {"rows": -5}, "cells": {}}))
    monkeypatch.setattr(sys, "argv", [name, "--output", str(tmp_path), "--table", str(tmp_path / "t.md")])
    with pytest.raises(SystemExit, match="holds cells made with .*give another --output"):
        module.main()


def test_the_peer_does_not_take_our_script_for_the_package() -> None:
    words = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import setfit_peer; print(sys.argv[1] in sys.path)"]
    done = subprocess.run([*words, str(FOLDER.resolve())], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_ranking_reads_no_test_row_and_draws_its_rows(script: Loader) -> None:
    module = script("ranking")
    rows = tiny_examples(40)
    task = Task.from_examples(rows[:30], rows[30:34], rows[34:])
    found = module.rows_of(task, 8)
    assert found.test is None and len(found.train) == 8 and {e.label for e in found.train} == set(task.labels)
    assert module.rows_of(task, None).train == task.train


def test_priming_settings_reach_the_first_stage(script: Loader) -> None:
    module = script("run in priming")
    args = module.parsed(["--outer-steps", "7", "--tasks-per-step", "2", "bf16=true", "learning_rate=1e-2"])
    recipe, other = (module.with_sources(Recipe.load(name), ["a", "b"], args) for name in ("prime", "prime-multitask"))
    first, second = recipe.stages[0], other.stages[0]
    assert (first.sources, first.outer_steps, first.tasks_per_step, first.learning_rate, first.bf16) == (("a", "b"), 7, 2, 2e-4, True)
    assert (second.max_steps, second.gradient_accumulation_steps, second.learning_rate, second.bf16) == (7, 2, 2e-4, True)
    assert second.sampling == "round_robin"  # with two batches an update every one holds both languages
    assert {first.eval_strategy, second.eval_strategy} == {"no"}  # no arm picks the best of several looks
    assert {"prime-kept-heads", "prime-fresh-heads", "prime-maml", "prime-one-step", "prime-zero-steps"} < set(module.RECIPES)
    lasts = [Recipe.load(name).stages[-1] for name in module.RECIPES]
    assert {replace(last, reuse_head=None, reuse_tuning=None) for last in lasts} == {Recipe.load("prime").stages[-1]}


def test_priming_runs_with_nothing_before_and_with_a_start_that_is_kept(
    script: Loader, tmp_path: Path, write_tags: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, load = script("run in priming"), Recipe.load
    narrow = {"stages.0.tuning.m": 4, "tuning.m": 4}
    monkeypatch.setattr(Recipe, "load", lambda name: load(name).override(narrow))
    for name in ("x", "y", "z"):
        folder = Path(write_tags(name))
        (folder / "test.jsonl").write_text((folder / "dev.jsonl").read_text())
    words = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--model", str(save_tiny("bert", tmp_path / "m"))]
    words += ["--languages", "x,y,z", "--recipes", "prime-none,prime-kept-start", "--sizes", "8", "--seeds", "1", "--outer-steps", "1"]
    args = module.parsed([*words, "max_steps=1", "min_steps=0"])
    cells = opened(module, tmp_path / "out")
    module.run(cells, args)
    assert set(cells.done) == {f"{t}/{name}/0/8" for t in "xyz" for name in args.recipes}
    recipe = module.with_sources(Recipe.load("prime-kept-start"), [str(tmp_path / "data" / "x")], args)
    primed = module.body_of(recipe, Task.from_file(tmp_path / "data" / "y"), args.model, Seeds.of(0))
    assert set(primed.kept) == {"primed", "primed-adapters"} == {primed.last.reuse_head, primed.last.reuse_tuning}


def test_the_multilingual_model_reads_no_text_that_any_language_is_judged_by(script: Loader, tmp_path: Path) -> None:
    script("run in priming")
    import multilingual

    rows = {"x": {"train": ["a b", "C d", "e f"], "dev": ["c D"]}, "y": {"train": ["g h", "a b"], "dev": ["i j"], "test": ["g h"]}}
    for name, splits in rows.items():
        (tmp_path / name).mkdir()
        for split, texts in splits.items():
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps({"tokens": text.split()}) + "\n" for text in texts))
    assert multilingual.texts_of([tmp_path / "x", tmp_path / "y"]) == ["a b", "e f", "a b"]


def test_a_corpus_of_several_tasks_holds_no_text_that_any_is_judged_by(script: Loader, tmp_path: Path) -> None:
    module = script("run in adaptive")
    for name in ("imdb_2k", "sst2"):
        (tmp_path / name).mkdir()
        for split in ("train", "dev", "test"):
            lines = [json.dumps({"text": f"{name} {split} {i}", "label": "ab"[i % 2]}) for i in range(4)]
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    found = module.guarded("imdb_reviews", module.parsed(["--data", str(tmp_path), "--tasks", "sst2"]))
    judged = {f"{name} {split} {i}" for name in ("imdb_2k", "sst2") for split in ("dev", "test") for i in range(4)}
    assert found.test is not None and {e.texts[0] for e in found.test} == judged


def test_a_killed_adaptation_goes_on(script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("run in adaptive")
    (tmp_path / "unlabelled").mkdir()
    (tmp_path / "unlabelled" / "imdb_reviews.txt").write_text("\n".join(e.texts[0] for e in tiny_examples(40, seed=3)))
    (tmp_path / "sst2").mkdir()
    for split, start in (("train", 1), ("dev", 50), ("test", 70)):
        lines = [json.dumps({"text": e.texts[0], "label": e.label}) for e in tiny_examples(16, start=start)]
        (tmp_path / "sst2" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    words = ["--data", str(tmp_path), "--tasks", "sst2", "--arms", "DAPT", "--seeds", "1", "--dapt-steps", "4", "--batch", "16"]
    words += ["--model", str(save_tiny("bert", tmp_path / "m")), "--max-length", "16", "--output", str(tmp_path / "out"), "max_steps=1"]
    args, steps = module.parsed([*words, "min_steps=0"]), killed_in_the_third_step(module, monkeypatch)
    monkeypatch.setattr(module, "SAVE_STEPS", 2)
    cells = opened(module, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        module.adapted("sst2", "DAPT", 0, args, cells)
    model = module.adapted("sst2", "DAPT", 0, args, cells)
    assert steps == [1, 2, 3, 3, 4] and [p.name for p in Path(model).parent.iterdir() if p.is_dir()] == ["dapt-imdb_reviews-0"]
    task = module.load(args.data, "sst2")
    assert module.perplexity(task, model, args) != module.perplexity(task, args.model, args) > 1


def test_task_adaptation_reads_the_rows_that_are_fine_tuned(script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("run in adaptive")
    (tmp_path / "sst2").mkdir()
    for split, start in (("train", 1), ("dev", 90), ("test", 150)):
        lines = [json.dumps({"text": f"{e.texts[0]} {e.row}", "label": e.label}) for e in tiny_examples(44, start=start)]
        (tmp_path / "sst2" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    words = ["--data", str(tmp_path), "--tasks", "sst2", "--arms", "TAPT", "--seeds", "2", "--tapt-steps", "4", "--batch", "16"]
    words += ["--model", str(save_tiny("bert", tmp_path / "m")), "--max-length", "16", "--output", str(tmp_path / "out")]
    args, fit, read = module.parsed([*words, "--rows", "24", "--min-steps", "1", "max_steps=1"]), module.fit, []
    monkeypatch.setattr(module, "fit", lambda recipe, task, *rest, **more: (read.append(task), fit(recipe, task, *rest, **more))[1])
    cells = opened(module, tmp_path / "out")
    module.run(cells, args)
    texts = [[e.texts for e in task.train] for task in read]
    assert len(texts) == 4 and texts[0] == texts[1] != texts[2] == texts[3] and len(texts[0]) == 24
    assert [cells[f"sst2/TAPT/{seed}"]["passes"] for seed in (0, 1)] == [{"tapt-sst2": 2.0}] * 2  # none of the 24 is held out
    said = module.report(cells, args)
    assert "| task | passes over the text of TAPT |\n| --- | --- |\n| sst2 | 2.0 |" in said and "of TAPT of 100 passes" in said
    every = module.parsed([*words, "max_steps=1"])
    assert every.rows is None and len(module.cut(module.load(every.data, "sst2"), every.rows, 0).train) == 44


def test_adaptations_to_all_texts_are_not_taken_for_those_to_the_rows(
    script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("run in adaptive")
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(tmp_path), "--table", str(tmp_path / "t.md")])
    monkeypatch.setattr(module, "run", lambda cells, args: cells.write())
    module.main()
    found = json.loads((tmp_path / "cells.json").read_text())
    del found["settings"]["tapt_reads"]
    (tmp_path / "cells.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="cells made with tapt_reads=None, and now .*'the labelled rows'"):
        module.main()
