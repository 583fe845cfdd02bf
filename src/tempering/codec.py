"""Values <-> plain data, for recipe files. Strict: an unknown name or field is an error with near misses."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError

from tempering.errors import RecipeError
from tempering.methods import METHODS
from tempering.registry import find, name_of, names

# Fields that hold methods: field name -> (kind, whether it holds several).
NESTED = {
    "framing": ("framing", False),
    "tuning": ("tuning", False),
    "tunings": ("tuning", True),
    "stabilizers": ("stabilizer", True),
    "verbalizer": ("verbalizer", False),
}
# Methods that are written as the plain list of their parts: name -> the field that holds them.
LISTS = {"together": "tunings"}


def fields_of(value: Any) -> dict[str, dataclasses.Field[Any]]:
    """Dataclass fields by name."""
    return {f.name: f for f in dataclasses.fields(value)}


def encode(value: Any, kind: str) -> Any:
    """``name`` where every field has its default, else ``{name: {field: value}}`` with what differs. Several methods are a list."""
    if isinstance(value, tuple):
        return [encode(part, kind) for part in value]
    _, name = name_of(value)
    if name in LISTS:
        return [encode(part, kind) for part in getattr(value, LISTS[name])]
    given = _given(value)
    return {name: given} if given else name


def _given(value: Any) -> dict[str, Any]:
    """The fields of ``value`` that differ from their defaults, in plain form."""
    default = _default(type(value))
    given: dict[str, Any] = {}
    for field in fields_of(value):
        mine = getattr(value, field)
        if default is not None and mine == getattr(default, field) and type(mine) is type(getattr(default, field)):
            continue
        given[field] = _encode_field(field, mine, field in getattr(value, "mappings", ()))
    return given


def _default(cls: Any) -> Any:
    try:
        return cls()
    except ValidationError:  # a field without a default: everything is written out
        return None


def _encode_field(field: str, value: Any, mapping: bool) -> Any:
    if mapping:
        return {key: list(found) if isinstance(found, tuple) else found for key, found in value}
    if field in NESTED:
        kind, several = NESTED[field]
        return [encode(v, kind) for v in value] if several else encode(value, kind)
    return _plain(value)


def _plain(value: Any) -> Any:
    """Tuples as lists; a group of settings that is no method of its own as a mapping."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return _given(value) if dataclasses.is_dataclass(value) else value


def method(kind: str, node: Any, where: str) -> Any:
    """``node`` as a method of ``kind``: itself where it is one, else what it names. A class, or a method of another kind, is refused."""
    if isinstance(node, type):
        raise RecipeError(f"{where}: expected a {kind}, found the class {node.__name__}; write {node.__name__}()")
    if not dataclasses.is_dataclass(node):
        return decode(kind, node, where)
    found, name = name_of(node)
    if found != kind:
        raise RecipeError(f"{where}: expected a {kind} ({', '.join(names(kind))}), found {name}, which is a {found}")
    return node


def methods(field: str, node: Any, where: str) -> Any:
    """What a field of `NESTED` holds, from values, names or plain data."""
    kind, several = NESTED[field]
    if not several:
        return method(kind, node, where)
    listed = node if isinstance(node, list | tuple) else [node]
    return tuple(method(kind, n, f"{where}.{i}") for i, n in enumerate(listed))


def decode(kind: str, node: Any, where: str) -> Any:
    """The value that ``node`` names, with its fields checked. ``where`` is the place for messages."""
    listed = next((name for name in LISTS if name in METHODS[kind]), None)
    if isinstance(node, str):
        name: Any = node
        given: Any = {}
    elif isinstance(node, list | tuple) and listed:
        name, given = listed, {LISTS[listed]: node}
    elif isinstance(node, Mapping) and len(node) == 1:
        name, given = next(iter(node.items()))
        given = given or {}
    else:
        raise RecipeError(f"{where}: expected the name of a {kind} ({', '.join(names(kind))}) or one name with its fields, found {node!r}")
    try:
        cls = find(kind, str(name))
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    if not isinstance(given, Mapping):
        raise RecipeError(f"{where}.{name}: expected fields as  name: value, found {given!r}")
    return build(cls, {str(k): v for k, v in given.items()}, f"{where}.{name}")


def build(cls: Any, given: Mapping[str, Any], where: str) -> Any:
    """An instance of ``cls`` from plain fields."""
    known = fields_of(cls)
    values: dict[str, Any] = {}
    for key, node in given.items():
        key = renamed(key, known)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2, cutoff=0.5)
            raise RecipeError(
                f"{where}: unknown field {key!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}")
            )
        values[key] = decode_field(key, node, f"{where}.{key}")
    return checked(cls, values, where)


def renamed(key: str, known: Mapping[str, Any]) -> str:
    """Older transformers wrote the share of warm-up steps as ``warmup_ratio``."""
    return "warmup_steps" if key == "warmup_ratio" and "warmup_steps" in known else key


def decode_field(field: str, node: Any, where: str) -> Any:
    """A field's value from plain data."""
    if field in NESTED:
        return methods(field, node, where)
    return tuple(node) if isinstance(node, list) else node


def checked(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """``cls(**values)``, with pydantic's complaint in the user's own names."""
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        inside = ".".join(str(p) for p in first["loc"])
        place = f"{where}{'' if where.endswith((' ', '.')) else '.'}{inside}".rstrip(" .")
        found = "" if first["type"] == "missing" or not inside else f", found {first['input']!r}"  # no place: it is of all fields
        raise RecipeError(f"{place}: {first['msg'].removeprefix('Value error, ')}{found}") from None


class TypedMap(dict[Any, Any]):
    """A mapping that was read from ``typed``, which may have been meant as a text."""

    typed = ""


class TypedList(list[Any]):
    """A list that was read from ``typed``, which may have been meant as a text."""

    typed = ""


def parse_scalar(text: str) -> Any:
    """A command-line value read as YAML 1.2, in which nothing is a comment that would cut a text: ``# 1`` stays.

    A mapping or a list remembers the text (`TypedMap`), since ``summarize: {text}`` is one too: `as_meant` decides once the field is known.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    bare = text.strip()
    try:
        value = yaml.load(text)
    except YAMLError:
        return text
    if isinstance(value, dict | list):
        found = TypedMap(value) if isinstance(value, dict) else TypedList(value)
        found.typed = bare
        return found
    cut = bare.startswith("#") or (isinstance(value, str) and not bare.startswith(("'", '"', "|", ">", "&", "!")))
    return bare if cut else value


def as_meant(cls: Any, field: str, value: Any) -> Any:
    """A value of `parse_scalar` for a field of ``cls``: as it was typed where the field takes a text and nothing like ``value``."""
    if not isinstance(value, TypedMap | TypedList):
        return value
    known = getattr(cls, "__pydantic_fields__", {})
    kinds = _kinds(known[field].annotation) if field in known else set()
    likewise = (Any, dict, Mapping) if isinstance(value, TypedMap) else (Any, list, tuple, frozenset, Sequence)
    settings = isinstance(value, TypedMap) and any(map(dataclasses.is_dataclass, kinds))  # a group of settings is written as a mapping
    if str in kinds and not settings and not kinds.intersection(likewise):
        return value.typed
    return dict(value) if isinstance(value, TypedMap) else list(value)


def _kinds(annotation: Any) -> set[Any]:
    """The types of which a field takes any one, without what they hold."""
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    return {get_origin(annotation) or annotation}
