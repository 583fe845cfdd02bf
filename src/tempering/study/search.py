"""The settings a tuning budget tries: the recipe's own first, then others from the search space that is declared with the recipe.

Which settings are tried is a function of the recipe, the budget, the seed and the scores so far, so that every process that works
on a study, also after a kill, comes to the same ones without telling the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempering.recipe import Recipe
from tempering.streams import key_of

STARTUP = 10  # settings drawn at random before scores are looked at: fewer tell TPE nothing
_ATTEMPTS = 100
WORST = -math.inf


@dataclass(frozen=True)
class Trial:
    """One setting, as ``{dotted name: value}``, and the key of the recipe with it."""

    setting: dict[str, Any]
    key: str


def trials(recipe: Recipe, budget: int, scores: Mapping[str, float], stream: Sequence[object]) -> list[Trial]:
    """The settings known so far, ``budget`` at most and never one twice.

    ``scores`` maps keys of recipes to dev scores (higher is better; `WORST` for a failed one); ``stream`` names the random stream.
    Past the first `STARTUP` a setting is known only once all before it have a score.
    """
    found = [own(recipe)]
    if wanted(recipe, budget) < budget or _size(recipe) <= budget:
        return (found + [t for t in _grid(recipe) if t.key != found[0].key])[:budget]
    while len(found) < budget:
        if len(found) >= STARTUP and any(t.key not in scores for t in found):
            break
        found.append(_draw(recipe, found, scores, stream))
    return found


def wanted(recipe: Recipe, budget: int) -> int:
    """How many settings there will be: ``budget``, or fewer where the search space holds fewer."""
    if _size(recipe) >= budget:
        return budget
    return min(budget, len({own(recipe).key, *(t.key for t in _grid(recipe))}))


def best(tried: Sequence[Trial], scores: Mapping[str, float]) -> Trial:
    """The setting with the highest score; the earlier of equal ones."""
    return max(tried, key=lambda trial: scores[trial.key])  # max keeps the first of equals


def own(recipe: Recipe) -> Trial:
    """The recipe as it is; its setting is spelled out where the search space lists the recipe's own values first."""
    first = {name: values[0] for name, values in recipe.search}
    key = recipe.key()
    return Trial(first if first and recipe.override(first).key() == key else {}, key)


def _values(recipe: Recipe) -> list[tuple[str, list[Any]]]:
    return [(name, [v for i, v in enumerate(values) if v not in values[:i]]) for name, values in recipe.search]


def _size(recipe: Recipe) -> int:
    return math.prod(len(values) for _, values in _values(recipe)) if recipe.search else 1


def _trial(recipe: Recipe, chosen: Sequence[Any]) -> Trial:
    setting = {name: value for (name, _), value in zip(recipe.search, chosen, strict=True)}
    return Trial(setting, recipe.override(setting).key())


def _grid(recipe: Recipe) -> Iterator[Trial]:
    return (_trial(recipe, chosen) for chosen in itertools.product(*(values for _, values in _values(recipe)))) if recipe.search else iter(())


def _draw(recipe: Recipe, found: Sequence[Trial], scores: Mapping[str, float], stream: Sequence[object]) -> Trial:
    """A setting not tried yet: at random at first, then by TPE (Bergstra et al. 2011) from the scores of the others."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = key_of(*stream, recipe.key(), len(found)) % 2**32
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed))
    space = _values(recipe)
    # Values stand for themselves by their position: optuna takes no lists or mappings.
    ranges = {name: optuna.distributions.CategoricalDistribution(range(len(values))) for name, values in space}
    if len(found) >= STARTUP:
        for trial in found:
            places = {name: values.index(trial.setting[name]) for name, values in space if trial.setting.get(name) in values}
            if len(places) == len(space) and scores[trial.key] > WORST:
                study.add_trial(optuna.trial.create_trial(params=places, distributions=ranges, value=scores[trial.key]))
    seen = {trial.key for trial in found}
    for _ in range(_ATTEMPTS):
        params = study.ask(ranges).params
        drawn = _trial(recipe, [values[params[name]] for name, values in space])
        if drawn.key not in seen:
            return drawn
    return next(trial for trial in _grid(recipe) if trial.key not in seen)
