"""Equal tuning budgets: the settings each recipe may try, and the choice among them by the development split alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tempering.recipe import Recipe
from tempering.study.records import Record
from tempering.study.store import Cell

Setting = tuple[tuple[str, Any], ...]


def settings_of(recipe: Recipe, budget: int, seed: int) -> list[Setting]:
    """At most ``budget`` settings of the recipe's search space: its own defaults first, then others without repetition.

    optuna draws them at random from ``seed`` (with a few settings to spend a sampler that learns has nothing to learn from). A space
    smaller than the budget is used whole.
    """
    own: list[Setting] = [()]
    if budget <= 1 or not recipe.search:
        return own
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    # A value goes by its place: optuna takes no lists or mappings.
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.CategoricalDistribution(tuple(range(len(values)))) for name, values in recipe.search
    }
    seen, size = {recipe.key()}, math.prod(len(values) for _, values in recipe.search)
    drawn: set[tuple[Any, ...]] = set()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    while len(own) < budget and len(drawn) < size:
        places = study.ask(space).params
        drawn.add(tuple(places.values()))
        setting = tuple(sorted((name, values[places[name]]) for name, values in recipe.search))
        if (key := recipe.override(dict(setting)).key()) not in seen:  # nor is the recipe as it is tried twice
            seen.add(key)
            own.append(setting)
    return own


def choose(found: Sequence[tuple[Cell, Record]], metric: str, higher: bool) -> dict[tuple[str, str], tuple[Cell, float]]:
    """For each (recipe, size) a cell of the setting with the best mean dev score over seeds, and the seconds its search took.

    A failed run counts as the worst score there is; ties go to the setting that was tried first.
    """
    groups: dict[tuple[str, str], dict[int, list[tuple[Cell, Record]]]] = {}
    for cell, record in found:
        groups.setdefault((cell.recipe, cell.size), {}).setdefault(cell.choice, []).append((cell, record))
    chosen = {}
    for key, by_choice in groups.items():
        means = {choice: fmean(_score(r, metric, higher) for _, r in runs) for choice, runs in by_choice.items()}
        best = min(means, key=lambda choice: (-means[choice], choice))
        seconds = sum(r.seconds for runs in by_choice.values() for _, r in runs)
        chosen[key] = (by_choice[best][0][0], seconds)
    return chosen


def _score(record: Record, metric: str, higher: bool) -> float:
    value = record.dev.get(metric, math.nan) if record.status == "done" else math.nan
    return -math.inf if math.isnan(value) else value if higher else -value
