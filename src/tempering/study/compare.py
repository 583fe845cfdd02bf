"""The study: recipes x sizes x seeds, paired, each recipe with the same tuning budget, one record a run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tempering.contracts import Seeds, predicts
from tempering.errors import DataError, RecipeError, ResumeError
from tempering.pretrained import locate
from tempering.quantizing import checked
from tempering.recipe import Recipe
from tempering.stages.checks import check_quantized
from tempering.stages.sources import fingerprints
from tempering.streams import key_of
from tempering.study.crossing import code, off_diagonal
from tempering.study.records import Record, StudyInfo
from tempering.study.runner import Driver, Listener
from tempering.study.search import Setting, choose, settings_of
from tempering.study.store import Cell, Store
from tempering.study.worker import Order
from tempering.tasks.doctor import examine
from tempering.tasks.metrics import compute, default_metric, higher_is_better
from tempering.tasks.sampling import nested_subsets
from tempering.tasks.task import Task

FILE = "study.sqlite"


def run_study(
    recipes: Sequence[Recipe],
    task: Task,
    model: str,
    folder: Path,
    *,
    sizes: Sequence[int | None],
    seeds: int,
    budget: int = 1,
    metrics: Sequence[str] = (),
    listener: Listener,
    seed: int = 0,
    workers: int = 0,
    stop_after: int | None = None,
    decompose: bool = False,
    quantize: str | None = None,
    search_seeds: int | None = None,
) -> Store:
    """Run what is not yet done of the study in ``folder`` and return its store. See `tempering.studying.compare`."""
    recipes, names = _checked(recipes), [_size_name(s) for s in sizes]
    crossed = off_diagonal(seeds) if decompose else []
    for recipe in recipes:
        check_quantized(recipe.stages, checked(quantize))
    info = replace(describe(recipes, task, model, names, seeds, max(1, budget), metrics), quantize=quantize or "")
    spaces = {r.name: settings_of(r, budget, seed) for r in recipes}
    small = {name: len(found) for name, found in spaces.items() if len(found) < budget}
    tried = min(search_seeds or seeds, seeds)
    info = replace(info, crossed=seeds if decompose else 0, small_spaces=small, search_seeds=tried)
    for i in range(seeds):  # a size that cannot be drawn is refused before anything runs
        nested_subsets(task, list(sizes), Seeds.of(seed + i).sampling)
    locate(model)  # a model folder that is not there is refused too, not recorded as the failure of every run
    store = Store(folder / FILE)
    info = _joined(store, info, seed)
    if info.space_note:
        listener({"event": "note", "text": info.space_note})
    _write_recipes(folder, recipes)
    _write_rows(folder, task, info, seed)
    texts = {r.name: r.to_yaml() for r in recipes}
    order = Order(task, model, texts, info.metric, info.higher_is_better, info.majority, tuple(metrics), folder / "cache", seed, quantize)
    driver = Driver(store, order, workers, listener, stop_after)
    search = [c for r in recipes for c in _search_cells(r, names, tried, spaces[r.name])]
    if search:
        store.add(_by_seed(search))
        if not driver.drive(_by_seed(search)):
            return store
    chosen = choose(_of(store.records("search"), search), info.metric, info.higher_is_better)
    store.merge_meta("search_seconds", {json.dumps(k): v[1] / seeds for k, v in chosen.items()})
    finals = [_final_cell(r, size, i, chosen) for r in recipes for size in names for i in range(seeds)]
    if driver.drive(_enter(store, "final", finals)) and crossed:
        templates = [c for c in finals if c.seed == 0]
        driver.drive(_enter(store, "crossed", [replace(c, phase="crossed", seed=code(x)) for c in templates for x in crossed]))
    return store


def _enter(store: Store, phase: str, cells: list[Cell]) -> list[Cell]:
    """Write down the cells of a phase, seed by seed, as those that count from now on; one that failed gets another chance."""
    ordered = _by_seed(cells)
    store.add(ordered)
    store.reopen_failed(ordered)
    store.merge_meta(phase, {_place(c): c.id for c in ordered})
    return ordered


def final_records(store: Store, phase: str = "final") -> list[Record]:
    """The study's records: cells of ``phase``, of the settings chosen last, with what their search took."""
    current, seconds = store.meta(phase) or {}, store.meta("search_seconds") or {}
    return [
        replace(record, search_seconds=seconds.get(json.dumps([cell.recipe, cell.size]), 0.0))
        for cell, record in store.records(phase)
        if current.get(_place(cell)) == cell.id
    ]


def current_info(store: Store) -> StudyInfo:
    """What the study compares, with what the outputs of frozen models have taken, in runs of whatever phase."""
    spent = sum(record.cache_seconds for phase in ("search", "final", "crossed") for _, record in store.records(phase))
    return replace(store.info(), cache_seconds=spent)


def _place(cell: Cell) -> str:
    """Where a cell stands in the study, whatever its setting."""
    return json.dumps([cell.recipe, cell.size, cell.seed])


def describe(
    recipes: Sequence[Recipe], task: Task, model: str, sizes: list[str], seeds: int, budget: int, metrics: Sequence[str]
) -> StudyInfo:
    """What the study compares, with the baseline every run is held against."""
    if task.test is None or task.dev is None:
        what = "test" if task.test is None else "dev"
        raise DataError(f"{task.name}: a study needs a {what} split; give --{what} FILE, or Task.from_file(..., hold_out_test=True)")
    metric = default_metric(task.kind, task.labels)
    gold = task.test.labels
    baseline = compute(task.kind, task.labels, gold, task.majority(), None, tuple(metrics)).get(metric, 0.0)
    findings = [f.message for f in examine(task) if f.severity != "note"]
    return StudyInfo(
        title=f"{', '.join(r.name for r in recipes)} on {task.name}",
        data=task.train.source,
        model=model,
        kind=task.kind,
        metric=metric,
        recipes=[r.name for r in recipes],
        sizes=sizes,
        seeds=seeds,
        budget=budget,
        majority=0.0 if task.kind == "regression" else baseline,
        dev_rows=len(task.dev),
        test_rows=len(task.test),
        labels=list(task.labels),
        gold=list(gold),
        higher_is_better=higher_is_better(metric),
        fingerprint=task.fingerprint(),
        findings=findings,
        metrics=sorted(set(metrics)),
    )


def _checked(recipes: Sequence[Recipe]) -> list[Recipe]:
    for recipe in recipes:
        recipe.check()
        if not predicts(recipe.stages[-1].framing):
            raise RecipeError(
                f"recipe {recipe.name}: its last stage predicts no labels, so there is no score to compare; end it with a head"
            )
    names = [r.name for r in recipes]
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"recipes: expected at least one and each name once, found {', '.join(names) or 'none'}")
    return list(recipes)


def _size_name(size: int | None) -> str:
    return "all" if size is None else str(size)


def _joined(store: Store, info: StudyInfo, seed: int) -> StudyInfo:
    """Continue the study that is there, extended by what is new; refuse one about something else."""
    if store.meta("info") is not None:
        old = store.info()
        for what, value in _identity(old, store.meta("seed")).items():
            now = _identity(info, seed)[what]
            if value != now:
                raise ResumeError(
                    f"{store.path.parent}: holds a study with another {what} ({value[:64]}, now {now[:64]}); give another --output-dir"
                )
        sizes = list(dict.fromkeys([*old.sizes, *info.sizes]))
        sizes.sort(key=lambda s: float("inf") if s == "all" else int(s))
        recipes = list(dict.fromkeys([*old.recipes, *info.recipes]))
        spaces = old.small_spaces | info.small_spaces
        most = {name: max(getattr(old, name), getattr(info, name)) for name in ("seeds", "budget", "crossed", "search_seeds")}
        info = replace(info, recipes=recipes, sizes=sizes, small_spaces=spaces, **most)
    store.put_meta("info", info.as_dict())
    store.put_meta("seed", seed)
    return info


def _identity(info: StudyInfo, seed: Any) -> dict[str, str]:
    """What all runs of a study share: with another of these, finished runs could not stand beside new ones."""
    return {
        "data": info.fingerprint[:16],
        "model": info.model,
        "quantization of the model": info.quantize or "none",
        "metric": info.metric,
        "choice of extra metrics": ", ".join(info.metrics) or "none",
        "seed": str(seed),
    }


def _write_recipes(folder: Path, recipes: Sequence[Recipe]) -> None:
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    for recipe in recipes:
        (folder / "recipes" / f"{recipe.name}.yaml").write_text(recipe.to_yaml(), encoding="utf-8")


def _write_rows(folder: Path, task: Task, info: StudyInfo, seed: int) -> None:
    """``data.json``: how the splits came about, and by seed the rows of the largest subset in order; a size takes the first of them."""
    largest = max((int(size) for size in info.sizes if size != "all"), default=0)
    drawn = {i: nested_subsets(task, [largest], Seeds.of(seed + i).sampling)[largest] for i in range(info.seeds)} if largest else {}
    rows = {str(i): [task.train[index].row for index in chosen] for i, chosen in drawn.items()}
    facts = {"fingerprint": info.fingerprint, "columns": task.columns, "split": task.split_record, "sizes": info.sizes, "rows": rows}
    part = folder / f".data.{os.getpid()}"
    part.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    part.replace(folder / "data.json")


def _key(recipe: Recipe) -> str:
    """The recipe's key, and the content of the labelled data that its stages name: a run on another version of those is another run."""
    sources = fingerprints(recipe.stages)
    return "-".join([recipe.key(), *([f"{key_of(*sorted(sources.items())):016x}"] if sources else [])])


def _search_cells(recipe: Recipe, sizes: list[str], seeds: int, settings: list[Setting]) -> list[Cell]:
    if len(settings) < 2:
        return []
    key = _key(recipe)
    return [
        Cell("search", recipe.name, key, size, i, n, setting) for size in sizes for n, setting in enumerate(settings) for i in range(seeds)
    ]


def _final_cell(recipe: Recipe, size: str, seed: int, chosen: dict[tuple[str, str], tuple[Cell, float]]) -> Cell:
    best = chosen.get((recipe.name, size))
    choice, setting = (best[0].choice, best[0].setting) if best else (0, ())
    return Cell("final", recipe.name, _key(recipe), size, seed, choice, setting)


def _by_seed(cells: list[Cell]) -> list[Cell]:
    """Seed by seed, so that what is done of an unfinished study is paired."""
    return sorted(cells, key=lambda c: c.seed)


def _of(found: list[tuple[Cell, Record]], wanted: list[Cell]) -> list[tuple[Cell, Record]]:
    ids: set[Any] = {c.id for c in wanted}
    return [(c, r) for c, r in found if c.id in ids]
