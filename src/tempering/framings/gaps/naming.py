"""What a recipe gives by the name of a class, found for the class itself: files and recipes do not write a name alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from tempering.errors import RecipeError

T = TypeVar("T")


def by_class(given: Mapping[Any, T], classes: Sequence[Any], what: str = "words") -> dict[Any, T]:
    """``given`` by class. A key names the class that is spelled like it; else true and false name the only one that says so in any case,
    and a number the only one of equal value, since YAML reads ``true:`` and ``0:`` as more than text (and Python True as 1).

    A key that names no class stays as it is. Two keys for one class are a `RecipeError`.
    """
    spelled = {str(label): label for label in classes}
    found: dict[Any, T] = {}
    owner: dict[Any, Any] = {}
    for key, value in given.items():
        label = spelled[str(key)] if str(key) in spelled else _alike(key, classes)
        if label in owner:
            raise RecipeError(f"{what}: {owner[label]!r} and {key!r} both name class {label!r}; write it once")
        owner[label], found[label] = key, value
    return found


def for_each(given: Mapping[Any, Sequence[str]], classes: Sequence[Any]) -> list[tuple[Any, tuple[str, ...]]]:
    """(class, its words) in the order of ``classes``; a class without words, or words without a class, are a `RecipeError`."""
    words = by_class(given, classes)
    known = ", ".join(map(repr, classes)) or "none"
    if strange := [key for key in words if key not in set(classes)]:
        raise RecipeError(f"words are given for {strange[0]!r}, which is no class of this task; its classes are {known}")
    if bare := [label for label in classes if not words.get(label)]:
        raise RecipeError(f"class {bare[0]!r} has no label word; give at least one for each of {known}")
    return [(label, tuple(words[label])) for label in classes]


def _alike(key: Any, classes: Sequence[Any]) -> Any:
    """The only class that ``key`` can mean though it is spelled otherwise, or the key itself."""
    alike = [label for label in classes if _means(key, label)]
    return alike[0] if len(alike) == 1 else key


def _means(key: Any, label: Any) -> bool:
    if key == label or isinstance(key, bool) or isinstance(label, bool):
        return bool(key == label) or str(key).strip().casefold() == str(label).strip().casefold()
    if not any(isinstance(one, int | float) for one in (key, label)):
        return False
    try:
        return float(key) == float(label)
    except (TypeError, ValueError, OverflowError):
        return False
