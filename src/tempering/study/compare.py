"""The study: recipes x sizes x seeds, paired, each recipe with the same tuning budget, one record a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tempering.contracts import Seeds
from tempering.pretrained import locate
from tempering.quantizing import checked
from tempering.recipe import Recipe
from tempering.stages.checks import check_quantized
from tempering.stages.sources import check_against, fingerprints
from tempering.streams import key_of
from tempering.study.about import agreed, comparable, describe, joined, write_recipes, write_rows
from tempering.study.crossing import code, off_diagonal
from tempering.study.records import Record, StudyInfo
from tempering.study.runner import Driver, Listener
from tempering.study.search import Setting, choose, settings_of
from tempering.study.standing import as_it_stands, effort, enter, enter_effort, gone_note, place, same_budget
from tempering.study.store import Cell, Store
from tempering.study.weights import same_weights
from tempering.study.worker import Order
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
    recipes, names = comparable(recipes), [_size_name(s) for s in sizes]
    crossed = off_diagonal(seeds) if decompose else []
    _check(recipes, task, quantize, listener)
    info = replace(describe(recipes, task, model, names, seeds, max(1, budget), metrics), quantize=quantize or "")
    spaces = {r.name: settings_of(r, budget, seed) for r in recipes}
    small = {name: len(found) for name, found in spaces.items() if len(found) < budget}
    tried = min(search_seeds or seeds, seeds)
    info = replace(info, crossed=seeds if decompose else 0, small_spaces=small, search_seeds=tried)
    for i in range(seeds):  # a size that cannot be drawn is refused before anything runs
        nested_subsets(task, list(sizes), Seeds.of(seed + i).sampling)
    locate(model)  # a model folder that is not there is refused too, not recorded as the failure of every run
    store = Store(folder / FILE)
    keys, searched = {r.name: _key(r) for r in recipes}, effort(info.budget, tried)
    agreed(store, info, seed)
    same_budget(store, keys, names, searched)
    same_weights(store, model)
    info = joined(store, info, seed)
    if info.space_note:
        listener({"event": "note", "text": info.space_note})
    write_recipes(folder, recipes)
    write_rows(folder, task, info, seed)
    texts = {r.name: r.to_yaml() for r in recipes}
    order = Order(task, model, texts, info.metric, info.higher_is_better, info.majority, tuple(metrics), folder / "cache", seed, quantize)
    driver = Driver(store, order, workers, listener, stop_after)
    search = [c for r in recipes for c in _search_cells(r, keys[r.name], names, tried, spaces[r.name])]
    if search:
        store.add(_by_seed(search))
        if not driver.drive(_by_seed(search)):
            return store
    chosen = choose(_of(store.records("search"), search), info.metric, info.higher_is_better)
    finals = _by_seed([_final_cell(r, keys[r.name], size, i, chosen) for r in recipes for size in names for i in range(seeds)])
    if gone := enter(store, "final", finals):
        listener({"event": "note", "text": gone_note(gone)})
    enter_effort(store, finals, searched, {where: found[1] / seeds for where, found in chosen.items()})
    if driver.drive(finals) and crossed:
        more = _by_seed([replace(c, phase="crossed", seed=code(x)) for c in finals if c.seed == 0 for x in crossed])
        enter(store, "crossed", more)
        driver.drive(more)
    return store


def final_records(store: Store, phase: str = "final") -> list[Record]:
    """The study's records: cells of ``phase``, of the settings chosen last, with what their search took."""
    current, seconds = store.meta(phase) or {}, store.meta("search_seconds") or {}
    return [
        replace(record, search_seconds=seconds.get(json.dumps([cell.recipe, cell.size]), 0.0))
        for cell, record in store.records(phase)
        if current.get(place(cell)) == cell.id
    ]


def current_info(store: Store) -> StudyInfo:
    """What the study compares, with what the outputs of frozen models have taken, in runs of whatever phase."""
    spent = sum(record.cache_seconds for phase in ("search", "final", "crossed") for _, record in store.records(phase))
    return replace(as_it_stands(store), cache_seconds=spent)


def _check(recipes: Sequence[Recipe], task: Task, quantize: str | None, listener: Listener) -> None:
    """Refuse what no run of a recipe could do, before the first of them; tell what its data sets mean for the task."""
    for recipe in recipes:
        check_quantized(recipe.stages, checked(quantize))
        for note in check_against(recipe.stages, task):
            listener({"event": "note", "text": f"{recipe.name}: {note}"})


def _key(recipe: Recipe) -> str:
    """The recipe's key, and the content of what its stages name by path: a run on another version of that is another run."""
    sources = fingerprints(recipe.stages)
    return "-".join([recipe.key(), *([f"{key_of(*sorted(sources.items())):016x}"] if sources else [])])


def _search_cells(recipe: Recipe, key: str, sizes: list[str], seeds: int, settings: list[Setting]) -> list[Cell]:
    if len(settings) < 2:
        return []
    return [
        Cell("search", recipe.name, key, size, i, n, setting) for size in sizes for n, setting in enumerate(settings) for i in range(seeds)
    ]


def _final_cell(recipe: Recipe, key: str, size: str, seed: int, chosen: dict[tuple[str, str], tuple[Cell, float]]) -> Cell:
    best = chosen.get((recipe.name, size))
    choice, setting = (best[0].choice, best[0].setting) if best else (0, ())
    return Cell("final", recipe.name, key, size, seed, choice, setting)


def _size_name(size: int | None) -> str:
    return "all" if size is None else str(size)


def _by_seed(cells: list[Cell]) -> list[Cell]:
    """Seed by seed, so that what is done of an unfinished study is paired."""
    return sorted(cells, key=lambda c: c.seed)


def _of(found: list[tuple[Cell, Record]], wanted: list[Cell]) -> list[tuple[Cell, Record]]:
    """Of what was found, what is wanted: numbered as now, since the file may know a setting by the number of an older search."""
    now = {c.id: c for c in wanted}
    return [(now[c.id], r) for c, r in found if c.id in now]
