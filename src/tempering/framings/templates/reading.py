"""Templates from text: which of the four ways it is written in, and names that stand for a template."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tempering.errors import RecipeError
from tempering.framings.templates import entries, harness, lm_bff, openprompt, plain, promptsource, starred
from tempering.framings.templates.pieces import AnyTemplate, Template

_STARRED = re.compile(r"\*(cls|mask|sep\+?|\+?sent[lu]?-?_\d+|labelx?_\d+)\*")
_JINJA = re.compile(r"(?<!\\)(\{\{|\{%)|\|\|\|")
_OPENPROMPT = re.compile(r"\{\s*[\"']")
PARSERS: dict[str, Callable[[str], AnyTemplate]] = {
    "plain": plain.parse,
    "lm-bff": starred.parse,
    "openprompt": openprompt.parse,
    "jinja": entries.parse,
}
FILES: dict[str, Callable[[str], Mapping[str, Any]]] = {promptsource.PREFIX: promptsource.entry_of, harness.PREFIX: harness.entry_of}


def parse(source: str, dialect: str | None = None) -> AnyTemplate:
    """The template that ``source`` writes in ``dialect`` (None: as `dialect_of` sees it), or names (`resolve`)."""
    source = resolve(source)
    if dialect is not None and dialect not in PARSERS:
        raise RecipeError(f"unknown way to write a template {dialect!r}; known: {', '.join(PARSERS)}")
    prefix, colon, rest = source.partition(":")
    if colon and prefix in PARSERS and dialect is None and not entries.is_lines(source):
        dialect, source = prefix, rest.removeprefix(" ")
    return PARSERS[dialect or dialect_of(source)](source)


def dialect_of(source: str) -> str:
    """How ``source`` is written: Jinja by its double braces or ``|||``, OpenPrompt by a quote after a brace, LM-BFF by its stars."""
    if entries.is_lines(source) or _JINJA.search(source):
        return "jinja"
    if _OPENPROMPT.search(source):
        return "openprompt"
    return "lm-bff" if _STARRED.search(source) else "plain"


def resolve(source: str) -> str:
    """The template itself where ``source`` is a name: ``lm-bff/sst2`` of the table, ``promptsource:FILE#NAME`` or ``lm-eval:FILE``."""
    if source.startswith(lm_bff.PREFIX):
        return lm_bff.setting(source).template
    for prefix, entry_of in FILES.items():
        if source.startswith(prefix):
            return str(entries.of_entry(entry_of(source)))
    return source


def write(template: Template, dialect: str | None = None) -> str:
    """``template`` in its own ``dialect``, or in another; what that has no word for is a `RecipeError`."""
    writers = {"plain": plain.write, "lm-bff": starred.write, "openprompt": openprompt.write}
    chosen = dialect or template.dialect
    if chosen not in writers:
        raise RecipeError(f"a template is written as {', '.join(writers)}, not {chosen!r}")
    return writers[chosen](template)
