"""Which runs of a study count: those of the recipes and settings that were asked for last, all found with the same budget.

A study may be continued with other seeds, sizes or recipes, and a recipe of the same name may have changed in between. What has run stays
in the file, and is taken up again when it is asked for again; but no mean may mix two versions of a recipe, or two settings of it, and
no recipe may stand beside one that was searched harder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tempering.errors import ResumeError
from tempering.study.records import StudyInfo
from tempering.study.store import Cell, Store

PHASES = ("final", "crossed")


def place(cell: Cell) -> str:
    """Where a cell stands in the study, whatever its setting."""
    return json.dumps([cell.recipe, cell.size, cell.seed])


def effort(budget: int, seeds: int) -> list[int]:
    """How hard a search is: settings, and the seeds each is tried with (0: nothing is tried)."""
    return [budget, seeds] if budget > 1 else [1, 0]


def same_budget(store: Store, keys: Mapping[str, str], sizes: Sequence[str], now: list[int]) -> None:
    """Refuse a search of another budget than that of runs which will stand beside the new ones; ``keys`` are those of the recipes."""
    if store.meta("info") is None:
        return
    others: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for (recipe, size, key), then in _efforts(store).items():
        if recipe not in keys or (keys[recipe] == key and size not in sizes):
            others.setdefault(then, []).append((recipe, size))
    for (budget, seeds), places in others.items():
        if (budget, seeds or now[1]) == tuple(now):  # 0: not written down by older versions
            continue
        names, rows = (", ".join(dict.fromkeys(pair[i] for pair in places)) for i in range(2))
        raise ResumeError(
            f"{store.path.parent}: holds runs of {names} (sizes {rows}) with {_options(budget, seeds)}, now {_options(*now)}; recipes are"
            " compared at equal budgets: ask for all its recipes and sizes, or for the budget it has, or give another --output-dir"
        )
    store.merge_meta("effort", {json.dumps([recipe, size]): then for (recipe, size, _), then in _efforts(store).items()})


def enter(store: Store, phase: str, cells: Sequence[Cell]) -> dict[str, int]:
    """Have ``cells`` count from now on; returns, by recipe, how many runs no longer do and are not replaced.

    Those are of another version of a recipe, or of another setting of it at one of the sizes. A run that failed gets another chance.
    """
    store.add(cells)
    store.reopen_failed(cells)
    keys = {c.recipe: c.recipe_key for c in cells}
    settings = {(c.recipe, c.size): json.loads(c.id)[-1] for c in cells}

    def stands(cell_id: str) -> bool:
        _, recipe, key, size, _, setting = json.loads(cell_id)
        current = settings.get((recipe, size), setting)
        return recipe not in keys or (key == keys[recipe] and _text(setting) == _text(current))

    gone: dict[str, int] = {}
    for other in PHASES:
        more = {place(c): c.id for c in cells} if other == phase else {}
        for cell_id in store.merge_meta(other, more, stands).values():
            recipe = json.loads(cell_id)[1]
            gone[recipe] = gone.get(recipe, 0) + 1
    return gone


def enter_effort(store: Store, cells: Sequence[Cell], now: list[int], seconds: Mapping[tuple[str, str], float]) -> None:
    """Write down how hard the settings of ``cells`` were searched for, and how long that took."""
    places = {(c.recipe, c.size): json.dumps([c.recipe, c.size]) for c in cells}
    store.merge_meta("effort", dict.fromkeys(places.values(), now))
    store.merge_meta("search_seconds", {name: seconds.get(where, 0.0) for where, name in places.items()})


def gone_note(gone: Mapping[str, int]) -> str:
    """A sentence on runs that no longer count."""
    counts = ", ".join(f"{name} ({count})" for name, count in gone.items())
    return (
        f"Earlier runs that no longer count, since the recipe or its setting is another now: {counts}."
        " Ask for their sizes and seeds again to have them run anew."
    )


def as_it_stands(store: Store) -> StudyInfo:
    """What the study compares, its seeds and its budget being those of the runs that count."""
    info, seeds = store.info(), [json.loads(where)[2] for where in store.meta("final") or {}]
    if not seeds:
        return info
    budget, tried = max(_efforts(store).values())
    return replace(info, seeds=max(seeds) + 1, budget=budget, search_seeds=tried or info.search_seeds)


def _efforts(store: Store) -> dict[tuple[str, str, str], tuple[int, int]]:
    """(recipe, size, key) of the runs that count -> how hard their setting was searched for."""
    info, known = store.info(), store.meta("effort") or {}
    before = effort(info.budget, info.search_seeds)  # studies of before wrote it down once for all
    found = {}
    for cell_id in (store.meta("final") or {}).values():
        _, recipe, key, size, _, _ = json.loads(cell_id)
        budget, seeds = known.get(json.dumps([recipe, size]), before)
        found[recipe, size, key] = (budget, seeds)
    return found


def _options(budget: int, seeds: int) -> str:
    return f"--budget {budget}" + (f" --search-seeds {seeds}" if seeds else "")


def _text(setting: Any) -> str:
    return json.dumps(setting, sort_keys=True)
