"""Files of promptsource: many templates of a data set by name, of which one is taken out as a text of its own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempering.errors import RecipeError

PREFIX = "promptsource:"


def load_yaml(text: str, where: str) -> Any:
    """Plain data of YAML, a mistake in which is a `RecipeError`. Tags of mappings (promptsource's ``!Template``) say nothing more; a text
    keeps its tag in front (lm-evaluation-harness's ``!function``), so that nobody takes it for what it names.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode, ScalarNode

    class Plain(SafeConstructor):
        """Reads what any tag marks as the mapping, the list or the text it is."""

    def plainly(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, ScalarNode):
            return f"!{suffix} {node.value}"
        read = SafeConstructor.construct_mapping if isinstance(node, MappingNode) else SafeConstructor.construct_sequence
        return read(loader, node, deep=True)

    Plain.add_multi_constructor("!", plainly)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Plain
    try:
        return yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{where}{line}: not valid YAML: {str(getattr(error, 'problem', error)).strip()}") from None


def entry_of(reference: str) -> Mapping[str, Any]:
    """The entry that ``promptsource:FILE#NAME`` names (the only one, without a name)."""
    path, _, name = reference.removeprefix(PREFIX).partition("#")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"template {reference!r}: {path} cannot be read ({error}); name a templates.yaml of promptsource") from None
    plain = load_yaml(text, path)
    templates = plain.get("templates") if isinstance(plain, Mapping) else None
    if not isinstance(templates, Mapping) or not templates:
        raise RecipeError(f"template {reference!r}: {path} holds no templates; expected a templates.yaml of promptsource")
    found = {str(entry["name"]): entry for entry in templates.values() if isinstance(entry, Mapping) and "jinja" in entry}
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        near = difflib.get_close_matches(name, found, n=2, cutoff=0.3)
        raise RecipeError(
            f"template {reference!r}: {path} has no template of that name; "
            + ("did you mean " if near else "known: ")
            + " or ".join(f"{PREFIX}{path}#{n}" for n in (near or found))
        )
    return found[name]
