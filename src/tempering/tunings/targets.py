"""Which linear maps of a body a method changes: by place, by the model's own names, by pattern, or all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator
from torch import nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Place, linear_maps, places, sizes, walk

PLACES = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")


def _several(given: object) -> object:
    """One name stands for a tuple of one. As a regular expression it would match no module inside a body."""
    plain = isinstance(given, str) and re.fullmatch(r"[\w.]+", given) and given != "all-linear"
    return (given,) if plain else given


Targets = Annotated[tuple[str, ...] | str, BeforeValidator(_several)]


def targets_of(backbone: Backbone, method: str, target_modules: tuple[str, ...] | str, r: int = 1) -> list[Place]:
    """(path in the body, layer) of every map that ``target_modules`` means, in the body's order; refusals are `ModelError`.

    A tuple holds places of the table of architectures or ends of the model's own names; ``all-linear`` is every linear map inside the
    blocks; any other string is a regular expression that the whole name of a map must match, as in PEFT.
    """
    maps = linear_maps(backbone)
    if target_modules == "all-linear":
        backbone.layout.require(method, "blocks")
        chosen = {path for path in maps if backbone.inside(path)}
    elif isinstance(target_modules, str):
        chosen = _matching(backbone, method, maps, target_modules)
    else:
        backbone.layout.require(method)
        chosen = {path for name in target_modules for path in _paths(backbone, method, maps, name)}
    found = [(path, layer) for path, layer in maps.items() if path in chosen]
    if not found:
        raise ModelError(f"{method}: target_modules is empty; give at least one place, such as query, or leave the field out")
    _check_rank(method, found, r)
    return found


def _matching(backbone: Backbone, method: str, maps: dict[str, nn.Module], pattern: str) -> set[str]:
    """Maps whose whole name matches, as the body calls them or as the family's classifier does (PEFT sees that one)."""
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ModelError(f"{method}: target_modules {pattern!r} is no regular expression ({error}); give places or names instead") from None
    prefix = f"{backbone.layout.head.body}." if backbone.layout.head else ""
    chosen = {path for path in maps if wanted.fullmatch(path) or wanted.fullmatch(prefix + path)}
    if not chosen:
        raise ModelError(
            f"{method}: the pattern {pattern!r} of target_modules matches no linear map of {backbone.source}; give a pattern for whole"
            f" names such as {next(iter(maps), 'none')}, or places ({', '.join(PLACES)})"
        )
    return chosen


def _paths(backbone: Backbone, method: str, maps: dict[str, nn.Module], name: str) -> list[str]:
    """Paths that one entry of ``target_modules`` means: a place of the table, else the end of a linear map's name."""
    named = [path for path in maps if f".{path}".endswith(f".{name}")]
    if name in PLACES and (getattr(backbone.layout, name) or not named):
        return [path for path, _ in places(backbone, method, [name])]
    if not named:
        there = sorted({path.rpartition(".")[2] for path in maps})
        raise ModelError(
            f"{method}: target_modules names {name!r}, and no linear map of {backbone.source} is called that; give places"
            f" ({', '.join(PLACES)}) or names that this model has ({', '.join(there)})"
        )
    return named


def _check_rank(method: str, found: Sequence[Place], r: int) -> None:
    path, least = min(((path, min(sizes(layer))) for path, layer in found), key=lambda pair: pair[1])
    if r > least:
        raise ModelError(f"{method}: r = {r} is more than the {least} inputs or outputs of {path}; give r of at most {least}")


def whole_modules(backbone: Backbone, method: str, names: Sequence[str], targets: Sequence[Place]) -> list[Place]:
    """The modules of the body that ``modules_to_save`` names, each outermost and none around or inside a target."""
    modules = [(path, module) for path, module in walk(backbone.model) if path]
    found: dict[str, nn.Module] = {}
    for name in names:
        named = [(p, m) for p, m in modules if f".{p}".endswith(f".{name}") and any(True for _ in m.parameters())]
        if not named:
            raise ModelError(
                f"{method}: modules_to_save names {name!r}, and {backbone.source} has no such module inside its body; leave out the"
                " framing's own head, which is always trained and saved"
            )
        found |= dict(named)
    outer = {p: m for p, m in found.items() if not any(p.startswith(f"{other}.") for other in found)}
    mixed = [(p, t) for p in outer for t, _ in targets if f"{t}.".startswith(f"{p}.")]
    if mixed:
        raise ModelError(f"{method}: {mixed[0][0]} is to be trained whole, yet {mixed[0][1]} in it is a target; take it off one of the two")
    return list(outer.items())
