"""Kind and name -> class. Dotted paths, so that listing methods imports no torch.

The table itself is `tempering.methods`. `find` resolves a name and suggests near misses; `names` lists a kind.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from tempering.errors import RecipeError
from tempering.methods import METHODS


def names(kind: str) -> list[str]:
    """Registered names of a kind, in registry order."""
    return list(METHODS[kind])


@cache
def find(kind: str, name: str) -> Any:
    """The class registered as ``name``; an unknown name is a `RecipeError` that lists near misses."""
    known = METHODS[kind]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise RecipeError(f"unknown {kind} {name!r}; {hint}")
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def name_of(value: object) -> tuple[str, str]:
    """(kind, name) under which the class of ``value`` is registered."""
    path = f"{type(value).__module__}:{type(value).__qualname__}"
    for kind, entries in METHODS.items():
        for name, target in entries.items():
            if target == path:
                return kind, name
    raise RecipeError(f"{type(value).__name__} is not a registered method; add one line to tempering/methods.py")


def describe(kind: str, name: str) -> str:
    """First line of the method's docstring, read from its source without importing it."""
    module, _, attribute = METHODS[kind][name].partition(":")
    source = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return (ast.get_docstring(node) or "").split("\n", 1)[0]
    return ""
