"""Single settings of a recipe, as a command line gives them, put in their places."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tempering.codec import LISTS, NESTED, as_meant, checked, decode, decode_field, fields_of, renamed
from tempering.errors import RecipeError
from tempering.registry import name_of


class Change(NamedTuple):
    """What lies at ``path`` becomes ``new`` (plain data); ``key`` is the user's spelling."""

    path: tuple[str, ...]
    new: Any
    key: str


def override(value: Any, changes: Sequence[Change], kind: str = "") -> Any:
    """``value`` with all ``changes`` made at once, so that settings which belong together can be given in any order.

    ``kind`` is that of the methods in ``value``, where it is a tuple of methods. What replaces a method as a whole comes before what is set
    inside it. Fields that a method lists in ``one_of`` take each other's place: the others fall back to their defaults.
    """
    if isinstance(value, tuple):
        return _in_tuple(value, changes, kind)
    if not dataclasses.is_dataclass(value):
        key, head = changes[0].key, changes[0].path[0]
        raise RecipeError(f"setting {key!r}: {head!r} is not inside a method; use a dotted path such as tuning.r")
    known = fields_of(value)
    held = {"stages": "stage"} | {field: kind for field, (kind, several) in NESTED.items() if several}
    inner = {}
    for head, found in _grouped(changes, lambda change: _field(value, change)).items():
        base = getattr(value, head)
        for change in found:
            base = base if change.path else decode_field(head, as_meant(type(value), head, change.new), change.key)
        within = [change for change in found if change.path]
        inner[head] = override(base, within, held.get(head, "")) if within else base
    exclusive = set(getattr(value, "one_of", ()))
    own = {f: getattr(value, f) for f in known if f not in exclusive or not exclusive & inner.keys()} | inner
    above = _above(changes)
    return checked(type(value), own, f"setting {above}." if above else "setting ")


def _in_tuple(value: tuple[Any, ...], changes: Sequence[Change], kind: str) -> tuple[Any, ...]:
    made = list(value)
    for index, found in _grouped(changes, lambda change: (_position(value, change.path[0], change.key), change.path[1:])).items():
        for change in found:
            if not change.path:
                decoded = kind and not dataclasses.is_dataclass(change.new)
                made[index] = decode(kind, change.new, f"setting {change.key}") if decoded else change.new
        if within := [change for change in found if change.path]:
            made[index] = override(made[index], within)
    return tuple(made)


def _grouped(changes: Sequence[Change], split: Callable[[Change], tuple[Any, tuple[str, ...]]]) -> dict[Any, list[Change]]:
    """The changes by what ``split`` says they lie in, with the rest of their paths."""
    found: dict[Any, list[Change]] = {}
    for change in changes:
        place, rest = split(change)
        found.setdefault(place, []).append(change._replace(path=rest))
    return found


def _field(value: Any, change: Change) -> tuple[str, tuple[str, ...]]:
    """The field of ``value`` that a change lies in, and its path below that."""
    known = fields_of(value)
    head, rest = renamed(change.path[0], known), change.path[1:]
    if head not in known and list(known) == [only := next(iter(known), "")] and only in LISTS.values():
        return only, change.path  # a list of parts has no field of its own to name: tuning.lora.r
    if head not in known:
        near = _deeper(value, change) or difflib.get_close_matches(head, known, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise RecipeError(f"setting {change.key!r}: no field {head!r}; {hint}")
    return head, rest


def _deeper(value: Any, change: Change) -> list[str]:
    """The setting as it would be written if it was meant for a method inside ``value``."""
    before = change.key.split(".")[: -len(change.path)]
    inside = {name: getattr(value, name) for name in fields_of(value)}
    return [
        ".".join((*before, name, *change.path))
        for name, inner in inside.items()
        if dataclasses.is_dataclass(inner) and change.path[0] in fields_of(inner)
    ]


def _above(changes: Sequence[Change]) -> str:
    """What stands before the last name in a single setting; of several, what stands before the method that all of them are in."""
    if len(changes) == 1:
        return changes[0].key.rpartition(".")[0]
    parts = changes[0].key.split(".")
    return ".".join(parts[: max(0, len(parts) - len(changes[0].path))])


def _position(value: tuple[Any, ...], head: str, key: str) -> int:
    if head.isdigit() and int(head) < len(value):
        return int(head)
    found = [i for i, v in enumerate(value) if dataclasses.is_dataclass(v) and name_of(v)[1] == head]
    if not found:
        raise RecipeError(f"setting {key!r}: there is no {head!r} here; there are {len(value)} entries, counted from 0")
    return found[0]
