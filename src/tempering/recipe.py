"""A recipe: a named tuple of stages, as a value. YAML <-> values, overrides, checks that need no weights, and its key."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, field_validator
from pydantic.dataclasses import dataclass

from tempering.codec import as_meant, decode, encode, method, parse_scalar
from tempering.errors import RecipeError
from tempering.overriding import Change, override

VERSION = 1
FOLDER = Path(__file__).parent / "recipes"
Space = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """Stages from a backbone to a model.

    ``search`` is the recipe's own search space: setting -> the values a tuning budget may try, the recipe's own value first.
    """

    name: str
    stages: tuple[Any, ...]
    search: Any = ()
    description: str = ""

    @field_validator("stages", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> tuple[Any, ...]:
        """Stages are values; one alone, or a name, is put right or refused here and not when it is run."""
        listed = given if isinstance(given, list | tuple) else [given]
        return tuple(method("stage", stage, f"Recipe.stages.{i}") for i, stage in enumerate(listed))

    @field_validator("search", mode="before")
    @classmethod
    def _hashable(cls, value: Any) -> Space:
        pairs = value.items() if isinstance(value, Mapping) else value
        return tuple((str(k), tuple(v)) for k, v in pairs)

    def to_plain(self) -> dict[str, Any]:
        """The recipe as nested plain data, defaults left out."""
        plain: dict[str, Any] = {"version": VERSION, "name": self.name}
        if self.description:
            plain["description"] = self.description
        plain["stages"] = [encode(stage, "stage") for stage in self.stages]
        if self.search:
            plain["search"] = {k: list(v) for k, v in self.search}
        return plain

    def to_yaml(self) -> str:
        """YAML 1.2 text; `from_yaml` gives an equal recipe back."""
        stream = io.StringIO()
        _yaml().dump(self.to_plain(), stream)
        return stream.getvalue()

    @classmethod
    def from_plain(cls, plain: Any, origin: str = "recipe") -> Recipe:
        """A recipe from nested plain data; every mistake is a `RecipeError` that names its place."""
        if not isinstance(plain, Mapping):
            raise RecipeError(f"{origin}: expected a mapping with name and stages, found {type(plain).__name__}")
        known = ("version", "name", "description", "stages", "search")
        for key in plain:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                raise RecipeError(
                    f"{origin}: unknown entry {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
                )
        if plain.get("version", VERSION) != VERSION:
            raise RecipeError(f"{origin}: version {plain['version']!r} is not known here; this release reads version {VERSION}")
        stages = plain.get("stages")
        if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
            raise RecipeError(f"{origin}: stages must be a list of at least one stage, found {stages!r}")
        made = tuple(decode("stage", node, f"{origin}: stages.{i}") for i, node in enumerate(stages))
        search = plain.get("search") or {}
        if not isinstance(search, Mapping) or not all(isinstance(v, list) and v for v in search.values()):
            raise RecipeError(f"{origin}: search must map a setting to a list of values, as in  learning_rate: [2e-5, 5e-5]")
        return cls(str(plain.get("name", Path(origin).stem)), made, dict(search), str(plain.get("description", "")).strip())

    @classmethod
    def from_yaml(cls, text: str, origin: str = "recipe") -> Recipe:
        """A recipe from YAML 1.2 text."""
        from ruamel.yaml.error import YAMLError

        try:
            plain = _yaml().load(text)
        except YAMLError as error:
            where = getattr(error, "problem_mark", None)
            line = f", line {where.line + 1}" if where else ""
            raise RecipeError(f"{origin}{line}: not valid YAML: {str(getattr(error, 'problem', error)).strip()}") from None
        return cls.from_plain(plain, origin)

    @classmethod
    def load(cls, name: str | Recipe) -> Recipe:
        """A shipped recipe by name, or a YAML file by path; a recipe is returned as it is."""
        if isinstance(name, Recipe):
            return name
        shipped = FOLDER / f"{name}.yaml"
        path = shipped if shipped.exists() and "/" not in name else Path(name)
        if not path.is_file():
            near = difflib.get_close_matches(name, available(), n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"shipped recipes: {', '.join(available())}"
            raise RecipeError(f"recipe {name!r}: no shipped recipe and no file of that name; {hint}")
        try:
            return cls.from_yaml(path.read_text(encoding="utf-8"), path.stem if path == shipped else str(path))
        except UnicodeDecodeError:
            raise RecipeError(f"recipe {path}: not UTF-8 text; save it as UTF-8") from None

    def override(self, settings: Mapping[str, Any]) -> Recipe:
        """The recipe with dotted ``settings`` replaced, all at once: those that must agree may come in any order.

        A bare key is one of the last stage, ``stages.0.key`` of the first.
        """
        own = {key: as_meant(Recipe, key, settings[key]) for key in ("name", "description") if key in settings}
        last = ("stages", str(len(self.stages) - 1))
        changes = [
            Change(tuple(key.split(".")) if key.startswith("stages.") else (*last, *key.split(".")), value, key)
            for key, value in settings.items()
            if key not in own
        ]
        recipe = dataclasses.replace(self, **own) if own else self
        return override(recipe, changes) if changes else recipe

    def check(self, labelled: bool = True) -> list[str]:
        """Refuse what cannot work or means nothing, before any weight is loaded; returns notes worth printing.

        ``labelled``: the data has labels; where it has none, that a last stage predicts none is no news.
        """
        from tempering.stages.checks import unlike_labels, unlike_rehearsed
        from tempering.stages.kept import check_names

        where = [f"{self.name}: stages.{i}" for i in range(len(self.stages))]
        notes = [note for stage, name in zip(self.stages, where, strict=True) for note in stage.check(name, name == where[-1])]
        check_names(self.stages, self.name)
        self._check_search()
        notes += unlike_rehearsed(self.stages, where)
        beside = () if labelled else unlike_labels(self.stages[-1], where[-1])
        return [note for note in notes if note not in beside]

    def _check_search(self) -> None:
        """Refuse a search space with a setting that the recipe lacks, or a value that it does not take."""
        for name, values in self.search:
            for value in values:
                try:
                    self.override({name: value})
                except RecipeError as wrong:
                    raise RecipeError(f"{self.name}: search.{name}, value {value!r}: {wrong}") from None

    def key(self) -> str:
        """A short hash of all that the recipe does: equal for equal values, whatever the name."""
        plain = {k: v for k, v in self.to_plain().items() if k not in ("name", "description", "search")}
        return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=8).hexdigest()


def available() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words from a command line, values read as YAML 1.2 (``no`` is a word, ``1e-5`` a number).

    Where a field takes a text alone, what YAML reads as a mapping or a list is the text as it was typed: ``framing.source=topic: {text}``.
    """
    found = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise RecipeError(f"setting {pair!r}: expected key=value, as in learning_rate=5e-5")
        found[key] = parse_scalar(value)
    return found


def json_schema() -> dict[str, Any]:
    """JSON schema of recipe files: every registered method with its fields."""
    from tempering.schema import schema

    stages = {"type": "array", "minItems": 1, "items": schema("stage")}
    text = {"type": "string"}
    properties = {"version": {"const": VERSION}, "name": text, "description": text, "stages": stages}
    properties["search"] = {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tempering recipe", "type": "object"}
    return head | {"properties": properties, "required": ["stages"], "additionalProperties": False}


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    return yaml
