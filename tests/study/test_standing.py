"""A study that goes on: no mean mixes versions of a recipe, no recipe is searched harder than another, and the model stays the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tempering.backbone import Backbone
from tempering.errors import RecipeError, ResumeError
from tempering.recipe import Recipe
from tempering.report.contents import contents
from tempering.study.about import comparable, describe
from tempering.study.records import Record, StudyInfo
from tempering.study.standing import as_it_stands, enter, enter_effort, place, same_budget
from tempering.study.store import Cell, Store
from tempering.studying import compare
from tempering.tasks import Task
from tests.tiny import save_tiny, tiny_examples

INFO = StudyInfo("t", "d.csv", "m", "classification", "accuracy", ["head", "bitfit"], ["8", "16"], 2, 1, 0.5, 12, 16)
WIDE = (("learning_rate", 1e-2),)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two recipes, two sizes, two seeds, all with the same budget of one."""
    found = Store(tmp_path / "study.sqlite")
    found.put_meta("info", INFO.as_dict())
    enter(found, "final", cells("head") + cells("bitfit"))
    return found


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.from_examples(train=tiny_examples(40), dev=tiny_examples(12, start=100), test=tiny_examples(16, start=200))


def cells(name: str, key: str = "old", seeds: int = 2, sizes: tuple[str, ...] = ("8", "16"), setting: Any = ()) -> list[Cell]:
    return [Cell("final", name, key, size, seed, 0, setting) for size in sizes for seed in range(seeds)]


def standing(store: Store, phase: str = "final") -> list[list[Any]]:
    """Recipe, key, size, seed of the runs that count."""
    return sorted(json.loads(cell_id)[1:5] for cell_id in store.meta(phase).values())


def quick(name: str, **changes: Any) -> Recipe:
    return Recipe.load(name).override({"max_steps": 2, "min_steps": 0, **changes})


def test_another_version_of_a_recipe_takes_the_older_ones_runs_out_everywhere(store: Store) -> None:
    enter(store, "crossed", [replace(c, phase="crossed", seed=7) for c in cells("head", seeds=1) + cells("bitfit", seeds=1)])
    assert enter(store, "final", cells("head", "new", seeds=1, sizes=("8",))) == {"head": 5}  # three of its four, and both crossed ones
    assert [found for found in standing(store) if found[0] == "head"] == [["head", "new", "8", 0]]
    assert len(standing(store)) == 5
    assert [found[0] for found in standing(store, "crossed")] == ["bitfit", "bitfit"]


def test_another_setting_takes_out_those_of_its_size_alone(store: Store) -> None:
    assert enter(store, "final", cells("head", seeds=1, sizes=("8",), setting=WIDE)) == {"head": 1}
    assert [found[2:] for found in standing(store) if found[0] == "head"] == [["16", 0], ["16", 1], ["8", 0]]


def test_fewer_seeds_of_the_same_keep_the_rest(store: Store) -> None:
    assert enter(store, "final", cells("head", seeds=1)) == {}
    assert len(standing(store)) == 8


def test_seeds_and_budget_are_those_of_the_runs_that_count(store: Store) -> None:
    assert (as_it_stands(store).seeds, as_it_stands(store).budget) == (2, 1)
    store.put_meta("info", replace(INFO, seeds=5, budget=9).as_dict())  # asked for, and not there yet
    both = cells("head", "new", seeds=1) + cells("bitfit", "new", seeds=1)
    enter_effort(store, both, [3, 2], {("head", "8"): 4.0})
    enter(store, "final", both)
    found = as_it_stands(store)
    assert (found.seeds, found.budget, found.search_seeds) == (1, 3, 2)
    assert store.meta("search_seconds")[json.dumps(["head", "8"])] == 4.0


@pytest.mark.parametrize(
    ("keys", "sizes", "outside"),
    [
        ({"head": "old"}, ("8", "16"), "bitfit"),
        ({"head": "old", "bitfit": "old"}, ("8",), r"head, bitfit \(sizes 16\)"),
        ({"head": "new"}, ("8",), "bitfit"),
    ],
)
def test_a_part_of_the_study_cannot_have_another_budget(store: Store, keys: dict[str, str], sizes: tuple[str, ...], outside: str) -> None:
    with pytest.raises(ResumeError, match=rf"runs of {outside}.*with --budget 1, now --budget 2 --search-seeds 2; .*equal budgets"):
        same_budget(store, keys, sizes, [2, 2])
    same_budget(store, keys, sizes, [1, 0])


def test_the_whole_of_it_can_and_so_can_recipes_whose_runs_go(store: Store) -> None:
    same_budget(store, {"head": "old", "bitfit": "old"}, ("8", "16"), [2, 2])
    same_budget(store, {"head": "new", "bitfit": "new"}, ("8",), [2, 2])


def test_a_cell_never_mixes_versions_of_its_recipe(task: Task, tmp_path: Path) -> None:
    model, told = str(save_tiny("bert", tmp_path / "model")), []
    asked: dict[str, Any] = {"sizes": (8,), "output_dir": tmp_path / "study"}
    compare([quick("head"), quick("bitfit")], task, model, seeds=2, **asked)
    changed = quick("head", learning_rate=0.5)
    with pytest.raises(ResumeError, match=r"runs of bitfit \(sizes 8\) with --budget 1, now --budget 2 --search-seeds 1"):
        compare([changed], task, model, seeds=1, budget=2, **asked)
    study = compare([changed], task, model, seeds=1, listener=told.append, **asked)
    assert {(r.recipe, r.recipe_key, r.seed) for r in study.records()} == {
        ("head", changed.key(), 0),
        *(("bitfit", quick("bitfit").key(), seed) for seed in range(2)),
    }
    assert any("no longer count" in e["text"] and "head (1)" in e["text"] for e in told if e["event"] == "note")
    words = dict(contents(study.conclude(), study.records()).method)["Seeds"]
    assert words.startswith("1 to 2 a recipe and size up to now")
    back = compare([quick("head")], task, model, seeds=2, listener=told.append, **asked)
    assert {r.recipe_key for r in back.records() if r.recipe == "head"} == {quick("head").key()} and len(back.records()) == 4
    assert sum(e["event"] == "cell" for e in told) == 1  # the older version's runs were kept, and count again


def test_other_weights_in_the_same_folder_are_refused(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny("bert", tmp_path / "model")
    asked: dict[str, Any] = {"sizes": (8,), "seeds": 1, "output_dir": tmp_path / "study"}
    study = compare([quick("head")], task, str(folder), **asked)
    with monkeypatch.context() as patched:  # unchanged files are not read again
        patched.setattr(Backbone, "load", lambda *_, **__: pytest.fail("read the model again"))
        compare([quick("head")], task, str(folder), **asked)
    (folder / "model.safetensors").touch()  # another time, the same weights
    compare([quick("head")], task, str(folder), **asked)
    other = Backbone.load(str(folder))
    other.model.get_input_embeddings().weight.data += 1.0
    other.model.save_pretrained(folder)
    with pytest.raises(ResumeError, match="with other weights"):
        compare([quick("head")], task, str(folder), **asked)
    study._store._db.execute("DELETE FROM meta WHERE name = 'weights'")  # an older study noted none
    assert len(compare([quick("head")], task, str(folder), **asked).records()) == 1


def test_a_changed_search_space_is_judged_by_setting_and_not_by_number(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.study.worker import Bench

    dev = {None: 0.5, 0.1: 0.9, 0.2: 0.1, 0.3: 0.6}

    def run(self: Bench, cell: Cell) -> Record:
        score = {"accuracy": dev[dict(cell.setting).get("learning_rate")]}
        return replace(cell.blank(), dev=score, test=score)

    monkeypatch.setattr(Bench, "run", run)
    model = str(save_tiny("bert", tmp_path / "model"))
    for rates in ((0.1,), (0.2, 0.1, 0.3)):  # what was number 1 is number 2 now, and its old number another's
        settings = [(), *((("learning_rate", rate),) for rate in rates)]
        monkeypatch.setattr("tempering.study.compare.settings_of", lambda *_, settings=settings: settings)
        study = compare([quick("head")], task, model, sizes=(8,), seeds=1, budget=len(settings), output_dir=tmp_path / "study")
        assert [r.setting for r in study.records()] == [{"learning_rate": 0.1}]


def test_metrics_that_need_probabilities_can_be_asked_for(task: Task) -> None:
    names = ("roc_auc", "log_loss", "brier", "expected_calibration_error")
    found = describe([quick("head")], task, "m", ["8"], 1, 1, names)
    assert (found.metrics, found.majority) == (sorted(names), describe([quick("head")], task, "m", ["8"], 1, 1, ()).majority)
    with pytest.raises(RecipeError, match="metric 'rocauc' is not known"):
        describe([quick("head")], task, "m", ["8"], 1, 1, ("rocauc",))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("lora r=8/16", "'lora r=8-16'"), ("a\\b", "'a-b'"), ("x" * 101, "found 101"), ("é" * 60, "120")],
    ids=["slash", "backslash", "long", "wide"],
)
def test_a_name_that_cannot_be_a_files_is_refused(name: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=hint):
        comparable([replace(quick("head"), name=name)])
    assert comparable([replace(quick("head"), name="lora r=8, é")])


def test_a_place_is_where_a_cell_stands_whatever_its_setting() -> None:
    assert place(cells("head")[0]) == place(cells("head", "new", setting=WIDE)[0]) == json.dumps(["head", "8", 0])
