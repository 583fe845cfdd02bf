"""JSON schema of what recipe files hold: every registered method with its fields, drawn from the values themselves."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from tempering.codec import LISTS, NESTED
from tempering.methods import METHODS
from tempering.registry import find, names


def schema(kind: str, inside: tuple[str, ...] = ()) -> dict[str, Any]:
    """JSON schema of a value of ``kind``: a name, or a name with fields. One ``inside`` a method of its own kind is named only."""
    if kind in inside:
        return {
            "anyOf": [{"enum": names(kind)}, {"type": "object", "minProperties": 1, "maxProperties": 1}, {"type": "array", "minItems": 2}]
        }
    single = [n for n in METHODS[kind] if n not in LISTS]
    full = [
        {
            "type": "object",
            "properties": {n: _fields_schema(find(kind, n), (*inside, kind))},
            "required": [n],
            "additionalProperties": False,
        }
        for n in single
    ]
    one: list[dict[str, Any]] = [{"enum": single}, *full]
    several = [{"type": "array", "minItems": 2, "items": {"anyOf": one}} for n in METHODS[kind] if n in LISTS]
    return {"anyOf": [*one, *several]}


def _fields_schema(cls: Any, inside: tuple[str, ...]) -> dict[str, Any]:
    found = TypeAdapter(cls).json_schema()
    return _nested_schema(found, found.get("$defs", {}), inside)


def _written_out(plain: dict[str, Any], groups: dict[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
    """``plain``, the schema of one field, with each group of settings that it or its items may be in the place of its name."""
    if "$ref" in plain:
        return _nested_schema(groups[plain["$ref"].rpartition("/")[2]], groups, inside)
    found = dict(plain)
    if "anyOf" in plain:
        found["anyOf"] = [_written_out(part, groups, inside) for part in plain["anyOf"]]
    if "items" in plain:
        found["items"] = _written_out(plain["items"], groups, inside)
    return found


def _nested_schema(found: dict[str, Any], groups: dict[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
    """``found``, the schema of fields, with methods in their places and every group of settings written out."""
    properties = dict(found.get("properties", {}))
    for field, plain in properties.items():
        properties[field] = _written_out(plain, groups, inside)
        if "$ref" in plain.get("items", {}):  # in a list, its first setting alone stands for a group
            group = properties[field]["items"]
            first = next(iter(group["properties"].values()))
            alone = [part for part in first.get("anyOf", [first]) if part.get("type") != "null"]
            properties[field] = {"type": "array", "items": {"anyOf": [alone[0], group, *alone[1:]]}}
    for field, (kind, several) in NESTED.items():
        if field in properties:
            properties[field] = {"type": "array", "items": schema(kind, inside)} if several else schema(kind, inside)
    return {"type": "object", "properties": properties, "additionalProperties": False}
