"""The study as a whole, on a tiny model: paired, resumable, extendable, and blind to the test split until the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tempering.contracts import Example, Seeds
from tempering.errors import DataError, ModelError, RecipeError, ResumeError
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.study.records import Record
from tempering.studying import Study, compare
from tempering.tasks import Task
from tempering.tasks.sampling import nested_subsets
from tests.tiny import save_tiny, tiny_examples

FAST = {"min_steps": 4, "num_train_epochs": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.from_examples(train=tiny_examples(40), dev=tiny_examples(12, start=100), test=tiny_examples(16, start=200))


def recipes(*names: str) -> list[Recipe]:
    return [Recipe.load(n).override(FAST) for n in names]


@pytest.fixture(scope="module")
def whole(model: str, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study in one go, which others are held against."""
    return compare(
        recipes("full", "head", "lora"), task, model, sizes=(8, "all"), seeds=2, output_dir=tmp_path_factory.mktemp("study") / "whole"
    )


def facts(records: list[Record]) -> list[dict[str, Any]]:
    """Records without what differs from run to run."""
    timed = ("seconds", "cache_seconds", "search_seconds", "peak_memory")
    found = [{k: v for k, v in r.as_dict().items() if k not in timed} for r in records]
    return sorted(found, key=lambda r: (r["recipe"], r["size"], r["seed"]))


def test_every_cell_has_a_record_with_all_that_the_report_needs(whole: Study, task: Task, tmp_path: Path) -> None:
    records, names = whole.records(), ("full", "head", "lora")
    assert {(r.recipe, r.size, r.seed) for r in records} == {(r, s, i) for r in names for s in ("8", "all") for i in range(2)}
    for r in records:
        assert r.status == "done", r.reason
        assert len(r.items) == len(r.predictions) == 16
        assert r.test["accuracy"] == pytest.approx(sum(r.items) / 16)
        assert r.rows == (8 if r.size == "8" else 40)
        assert r.seconds > 0
        assert r.trained_parameters <= r.total_parameters
        assert r.collapsed == (r.test["accuracy"] <= whole.info.majority)
    assert whole.info.gold == task.test.labels if task.test else False
    assert [p.name for p in whole.report(tmp_path)] == ["report.html", "report.md", "report.json"]


def test_a_cell_is_bit_for_bit_what_fit_gives_alone(whole: Study, model: str, task: Task) -> None:
    compared = [r for r in whole.records() if r.size == "8" and r.recipe != "full"]
    assert len(compared) == 4
    for record in compared:
        seeds = Seeds.of(record.seed)
        subset = task.with_train(nested_subsets(task, [8], seeds.sampling)[8])
        (recipe,) = recipes(record.recipe)
        learner = fit(recipe, subset, model, seeds=seeds)
        assert learner.record["metrics"]["test"] == record.test
        assert learner.record["metrics"]["dev"] == record.dev


def test_a_study_in_pieces_equals_a_study_in_one(model: str, task: Task, tmp_path: Path) -> None:
    whole = compare(recipes("full", "head"), task, model, sizes=(8,), seeds=2, budget=2, output_dir=tmp_path / "whole")
    for _ in range(4):  # 8 runs of the search and 4 final ones
        study = compare(recipes("full", "head"), task, model, sizes=(8,), seeds=2, budget=2, output_dir=tmp_path / "pieces", stop_after=3)
    assert facts(study.records()) == facts(whole.records())


def test_the_folder_says_which_rows_every_run_had(model: str, task: Task, tmp_path: Path) -> None:
    compare(recipes("head"), task, model, sizes=(8, 16, "all"), seeds=2, output_dir=tmp_path)
    facts = json.loads((tmp_path / "data.json").read_text())
    assert facts["fingerprint"] == task.fingerprint()
    for i in range(2):
        drawn = nested_subsets(task, [8], Seeds.of(i).sampling)[8]
        assert facts["rows"][str(i)][:8] == [task.train[index].row for index in drawn]
        assert len(facts["rows"][str(i)]) == 16


def test_a_base_that_an_earlier_stage_changed_counts_as_kept(model: str, task: Task, tmp_path: Path) -> None:
    study = compare(recipes("lora", "tapt-lora"), task, model, sizes=(8,), seeds=1, output_dir=tmp_path)
    lora, tapt = sorted(study.records(), key=lambda r: r.recipe)
    assert lora.artefact_bytes == 4 * lora.trained_parameters
    base = load_file(Path(model) / "model.safetensors")
    assert tapt.artefact_bytes == lora.artefact_bytes + sum(t.nbytes for t in base.values())


@pytest.mark.parametrize("name", ["magnitude", "prefix-tuning", "bitfit"])
def test_the_bytes_kept_are_those_of_the_saved_tensors(name: str, model: str, task: Task, tmp_path: Path) -> None:
    """Places of sparse changes count, the network that makes a prefix does not."""
    (record,) = compare(recipes(name), task, model, sizes=(8,), seeds=1, output_dir=tmp_path / "study").records()
    folder = fit(recipes(name)[0], task, model).save_pretrained(tmp_path / "saved")
    tensors = [t for file in folder.glob("*.safetensors") for t in load_file(file).values()]
    assert record.artefact_bytes == sum(t.nbytes for t in tensors)


def test_the_search_never_sees_the_test_split(model: str, task: Task, tmp_path: Path) -> None:
    assert task.test is not None
    turned = tuple(replace(e, label={"good": "bad", "bad": "good"}[e.label]) for e in task.test)
    corrupt = replace(task, test=replace(task.test, examples=turned))
    asked = {"sizes": (8,), "seeds": 1, "budget": 3}
    honest = compare(recipes("head"), task, model, output_dir=tmp_path / "a", **asked)
    other = compare(recipes("head"), corrupt, model, output_dir=tmp_path / "b", **asked)
    assert [r.setting for r in honest.records()] == [r.setting for r in other.records()]
    assert [r.predictions for r in honest.records()] == [r.predictions for r in other.records()]


def test_more_seeds_sizes_and_recipes_extend_a_study_and_keep_what_is_there(model: str, task: Task, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    first = compare(recipes("head"), task, model, sizes=(8,), seeds=1, output_dir=tmp_path)
    kept = facts(first.records())
    more = compare(recipes("head", "bitfit"), task, model, sizes=(8, 16), seeds=2, output_dir=tmp_path, listener=told.append)
    assert len(told) == 7
    assert len(more.records()) == 8
    assert kept[0] in facts(more.records())
    assert more.info.recipes == ["head", "bitfit"]
    assert more.info.sizes == ["8", "16"]
    assert more.info.seeds == 2


def test_other_data_or_another_model_is_refused(model: str, task: Task, tmp_path: Path) -> None:
    compare(recipes("head"), task, model, sizes=(8,), seeds=1, output_dir=tmp_path)
    with pytest.raises(ResumeError, match="another data"):
        compare(recipes("head"), task.with_train(range(20)), model, sizes=(8,), seeds=1, output_dir=tmp_path)
    with pytest.raises(ResumeError, match="another model"):
        compare(recipes("head"), task, "owner/elsewhere", sizes=(8,), seeds=1, output_dir=tmp_path)


def test_a_cell_that_fails_is_recorded_and_the_rest_goes_on(model: str, task: Task, tmp_path: Path) -> None:
    broken = replace(Recipe.load("full").override(FAST | {"learning_rate": 1e30, "max_grad_norm": 0}), name="broken")
    study = compare([broken, *recipes("head")], task, model, sizes=(8,), seeds=2, output_dir=tmp_path)
    states = {(r.recipe, r.status) for r in study.records()}
    assert states == {("broken", "failed"), ("head", "done")}
    assert all("learning_rate" in r.reason for r in study.records() if r.recipe == "broken")
    assert "broken" in study.report(tmp_path / "r.md")[0].read_text()


def test_what_cannot_be_compared_is_refused_before_anything_runs(model: str, task: Task, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a test split"):
        compare(recipes("head"), replace(task, test=None), model, output_dir=tmp_path / "x")
    with pytest.raises(RecipeError, match="each name once"):
        compare(recipes("head", "head"), task, model, output_dir=tmp_path / "x")
    with pytest.raises(RecipeError, match="sizes"):
        compare(recipes("head"), task, model, sizes=("many",), output_dir=tmp_path / "x")
    with pytest.raises(ModelError, match="no such folder"):
        compare(recipes("head"), task, str(tmp_path / "nowhere"), output_dir=tmp_path / "x")
    with pytest.raises(DataError, match="at most 40"):
        compare(recipes("head"), task, model, sizes=(41,), output_dir=tmp_path / "x")
    with pytest.raises(ResumeError, match="holds no study"):
        Study.open(tmp_path / "x")
    assert not (tmp_path / "x").exists()


SCRIPT = """
    import sys
    from tempering.recipe import Recipe
    from tempering.studying import compare
    from tempering.tasks import Task
    from tests.tiny import tiny_examples

    if __name__ == "__main__":
        task = Task.from_examples(train=tiny_examples(40), dev=tiny_examples(12, start=100), test=tiny_examples(16, start=200))
        recipes = [Recipe.load(n).override({"min_steps": 4, "num_train_epochs": 1}) for n in ("full", "head", "lora")]
        compare(recipes, task, sys.argv[1], sizes=(8,), seeds=2, output_dir=sys.argv[2], workers=int(sys.argv[3]),
                listener=lambda e: print("cell", flush=True))
"""


def start(script: Path, model: str, folder: Path, workers: int) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # as here: sums differ with the threads
    command = [sys.executable, str(script), model, str(folder), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)


def _no_waiting(seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s for a driver that is gone")


def test_a_killed_driver_takes_its_child_along_and_the_next_one_ends_as_an_unbroken_study(
    whole: Study, model: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with start(script, model, tmp_path / "killed", 1) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "cell\n"
        found = subprocess.run(["pgrep", "-P", str(driver.pid), "-f", "spawn_main"], capture_output=True, text=True, check=True)
        (child,) = [int(p) for p in found.stdout.split()]
        os.kill(driver.pid, signal.SIGKILL)
    until = time.monotonic() + 60  # a busy machine is slow to end it
    while _alive(child):
        assert time.monotonic() < until, "the child outlived its driver by a minute"
        time.sleep(0.1)
    monkeypatch.setattr("tempering.study.runner.time.sleep", _no_waiting)  # a driver that is gone is known to be
    killed = compare(recipes("full", "head", "lora"), task, model, sizes=(8,), seeds=2, output_dir=tmp_path / "killed")
    assert facts(killed.records()) == facts([r for r in whole.records() if r.size == "8"])
    assert len(killed.records()) == 6


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_two_drivers_with_children_share_one_study(whole: Study, model: str, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    both = [start(script, model, tmp_path / "shared", 1) for _ in range(2)]
    told = [p.communicate(timeout=240)[0].count("cell") for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sum(told) == 6
    assert facts(Study.open(tmp_path / "shared").records()) == facts([r for r in whole.records() if r.size == "8"])


def test_a_child_that_dies_costs_one_cell_and_not_the_study(
    model: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tempering.study.store import Cell
    from tempering.study.worker import Child

    deaths: list[str] = []

    def run(self: Child, cell: Cell, tick: Any) -> Record | None:
        if cell.recipe == "full":
            deaths.append(cell.recipe)
            return None
        return Record(cell.recipe, cell.recipe_key, cell.size, 8, cell.seed, test={"accuracy": 0.5}, items=[0.5] * 16)

    monkeypatch.setattr(Child, "run", run)
    study = compare(recipes("full", "head"), task, model, sizes=(8,), seeds=1, output_dir=tmp_path, workers=1)
    assert {r.recipe: r.status for r in study.records()} == {"full": "failed", "head": "done"}
    assert len(deaths) == 2
    assert "died 2 times" in next(r.reason for r in study.records() if r.recipe == "full")


def test_a_decomposition_adds_the_crossed_runs_and_touches_no_other(model: str, task: Task, tmp_path: Path) -> None:
    asked = {"sizes": (8,), "seeds": 3, "output_dir": tmp_path}
    plain = compare(recipes("full"), task, model, **asked)
    before, words = facts(plain.records()), plain.conclude()
    assert words.parts == []
    for _ in range(2):  # 6 runs more
        study = compare(recipes("full"), task, model, decompose=True, stop_after=4, **asked)
    assert facts(study.records()) == before
    assert len(study.crossed()) == 6
    assert study.conclude().sizes == words.sizes
    (full,) = study.conclude().parts
    assert (full.recipe, full.runs, full.planned) == ("full", 9, 9)
    record = next(r for r in study.crossed() if r.recipe == "full" and r.levels == [1, 0, 2])
    seeds = Seeds(Seeds.of(1).sampling, Seeds.of(0).init, Seeds.of(2).order, Seeds.of(2).dropout)
    assert record.seeds == {"sampling": 4, "init": 1, "order": 10, "dropout": 11}
    subset = task.with_train(nested_subsets(task, [8], seeds.sampling)[8])
    assert fit(recipes("full")[0], subset, model, seeds=seeds).record["metrics"]["test"] == record.test
    assert "## Where the spread comes from" in study.text("md")


def test_two_seeds_cannot_be_crossed(model: str, task: Task, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--seeds 3 at least"):
        compare(recipes("head"), task, model, seeds=2, decompose=True, output_dir=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_examples_keep_their_labels(model: str, tmp_path: Path) -> None:
    def rows(n: int, start: int) -> list[Example]:
        return [replace(e, label=e.label == "good") for e in tiny_examples(n, start=start)]

    task = Task.from_examples(train=rows(16, 1), dev=rows(8, 50), test=rows(8, 90))
    study = compare(recipes("head"), task, model, sizes=("all",), seeds=1, output_dir=tmp_path)
    (record,) = study.records()
    assert all(isinstance(p, bool) for p in record.predictions)


def test_another_version_of_the_data_that_a_stage_names_is_run_again(model: str, task: Task, tmp_path: Path) -> None:
    source = tmp_path / "other.jsonl"

    def run(rows: int) -> Study:
        lines = (json.dumps({"text": e.texts[0], "label": e.label}) for e in tiny_examples(rows, seed=5))
        source.write_text("\n".join(lines), encoding="utf-8")
        quick = {"max_steps": 2, "min_steps": 0, "stages.0.max_steps": 2, "stages.0.data": str(source)}
        recipe = Recipe.load("stilts").override(quick)
        return compare([recipe], task, model, sizes=(8,), seeds=1, output_dir=tmp_path / "study", workers=0)

    first, again, changed = (run(rows).records()[0] for rows in (20, 20, 24))
    assert again.seconds == first.seconds  # kept, not run again
    assert changed.seconds != first.seconds and changed.recipe_key != first.recipe_key


def test_another_version_of_the_corpus_that_a_stage_names_is_run_again(model: str, task: Task, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"

    def run(rows: int) -> list[Record]:
        corpus.write_text("\n".join(e.texts[0] for e in tiny_examples(rows, seed=5)), encoding="utf-8")
        quick = {"max_steps": 2, "min_steps": 0, "stages.0.max_steps": 2, "stages.0.text": str(corpus)}
        found = [Recipe.load("dapt").override(quick), *recipes("head")]
        return compare(found, task, model, sizes=(8,), seeds=1, output_dir=tmp_path / "study", workers=0).records()

    first, again, changed = ({r.recipe: r for r in run(rows)} for rows in (40, 40, 20))
    assert {name: r.seconds for name, r in again.items()} == {name: r.seconds for name, r in first.items()}  # kept, not run again
    assert changed["dapt"].recipe_key != first["dapt"].recipe_key and changed["dapt"].seconds != first["dapt"].seconds
    assert changed["head"].recipe_key == first["head"].recipe_key == recipes("head")[0].key()  # without a corpus nothing is new
