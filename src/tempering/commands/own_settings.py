"""Settings of a comparison: those of every recipe, and those of one alone, after its name: ``prime:stages.0.sources=[a,b]``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tempering.commands.inputs import quoted, read_recipe
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.recipe import Recipe
    from tempering.tasks.task import Task


def read_recipes(names: Sequence[str], settings: Sequence[str], task: Task) -> list[Recipe]:
    """The recipes, each with the settings of all and then its own. A setting of all that one does not take is named with that one."""
    parted = [_parted(word, names) for word in settings]
    shared = [word for name, word in parted if name is None]
    found = []
    for name in names:
        own = [word for owner, word in parted if owner == name]
        try:
            found.append(read_recipe(name, [*shared, *own], task)[0])
        except RecipeError as error:
            odd = next((word for word in shared if not _takes(name, task, word)), "")
            where = f"recipe {name}: " if str(error).startswith("setting ") else ""  # else it names the recipe itself
            raise RecipeError(f"{where}{error}" + (_way_out(odd, names, task) if odd else "")) from None
    return found


def shared_settings(names: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Those of every recipe, as they were typed."""
    return [word for name, word in (_parted(word, names) for word in settings) if name is None]


def recipe_names(listed: str) -> list[str]:
    """The recipes of ``full,prime``, as they were typed."""
    return [name for name in (name.strip() for name in listed.split(",")) if name]


def _parted(word: str, names: Sequence[str]) -> tuple[str | None, str]:
    """(the recipe that a setting is for, None where it is for all; the setting). A colon may also stand in a value, after the ``=``."""
    for name in sorted(names, key=len, reverse=True):
        if word.startswith(f"{name}:"):
            return name, word[len(name) + 1 :]
    name, colon, _ = word.partition("=")[0].rpartition(":")
    if not colon:
        return None, word
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    raise RecipeError(f"setting {word!r}: no recipe {name!r} in --recipes; {hint}")


def _takes(name: str, task: Task, word: str) -> bool:
    """Whether a recipe can have this setting."""
    try:
        read_recipe(name, [word], task)
    except RecipeError:
        return False
    return True


def _way_out(word: str, names: Sequence[str], task: Task) -> str:
    """How to give a setting to the recipes that take it."""
    taking = [f"{name}:{word}" for name in names if _takes(name, task, word)]
    return f"; what is for one recipe alone has its name before it:  {'  '.join(map(quoted, taking))}" if taking else ""
