"""Templates as files keep them, with the label words beside them: promptsource's ``jinja`` with ``answer_choices`` (``no ||| yes``),
lm-evaluation-harness's ``doc_to_text`` with ``doc_to_choice``, where the answer follows the text and ``doc_to_target`` says which it is.

A few lines of either may stand in the place of a template, and so may a whole task file of lm-evaluation-harness: what it says beside of
data, metrics and shots is passed over. `promptsource` and `harness` read files by their names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.nativetypes import NativeEnvironment
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tempering.errors import RecipeError
from tempering.framings.templates.fieldtext import EITHER
from tempering.framings.templates.jinja import JinjaTemplate, environment
from tempering.framings.templates.promptsource import load_yaml

_PROMPTSOURCE = ("name", "id", "jinja", "answer_choices", "metadata", "reference")
_DOC = ("text", "choice", "target", "image", "audio", "decontamination_query")  # what a task of the harness makes of a row, as doc_to_...
_BESIDE = "name id answer_choices metadata reference doc_to_choice doc_to_target target_delimiter task tag dataset_path output_type".split()
FUNCTION = "!function"


class _Native(ImmutableSandboxedEnvironment, NativeEnvironment):
    """The sandbox, whose expressions give values and not their print."""


def parse(source: str) -> JinjaTemplate:
    """The template that ``source`` writes, as Jinja or as lines of YAML; a mistake is a `RecipeError`."""
    made = _of_lines(source) if is_lines(source) else JinjaTemplate(source)
    _readable(made.source, lambda: environment().parse(made.source))
    return made


def _readable(source: str, read: Callable[[], Any]) -> Any:
    """What ``read`` gives; a mistake in the Jinja of ``source`` is a `RecipeError` that names its line."""
    try:
        return read()
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        line = getattr(error, "lineno", 1)
        raise RecipeError(f"template {source!r}, line {line}: not valid Jinja: {error}") from None


def is_lines(source: str) -> bool:
    """Whether ``source`` is YAML with a template in it: several entries, or one that is quoted or a block."""
    head = re.search(r"^(jinja|doc_to_text)\s*:(?P<quoted>\s*[\"'|>])?", source, re.MULTILINE)
    others = re.search(rf"^({'|'.join(_BESIDE)})\s*:", source, re.MULTILINE)
    return head is not None and bool(head["quoted"] or others)


def _of_lines(source: str) -> JinjaTemplate:
    plain = load_yaml(source, "template")
    if not isinstance(plain, Mapping):
        raise RecipeError(f"template {source!r}: expected lines such as  jinja: ...  found {type(plain).__name__}")
    unknown = [key for key in plain if key not in _PROMPTSOURCE]
    if unknown and "doc_to_text" not in plain:
        raise RecipeError(f"template {source!r}: unknown entry {unknown[0]!r}; known: {', '.join(_PROMPTSOURCE)}")
    return of_entry(plain)


def of_entry(plain: Mapping[str, Any]) -> JinjaTemplate:
    """The template of one entry of promptsource, or of a task of lm-evaluation-harness."""
    if "doc_to_text" not in plain:
        return JinjaTemplate(str(plain["jinja"]), _printed(plain.get("answer_choices") or ()), False, str(plain.get("name") or ""))
    known = [f"doc_to_{what}" for what in _DOC]
    for key in plain:
        if str(key).startswith("doc_to_") and key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise RecipeError(f"template: unknown entry {key!r}; did you mean {near!r}?")
    text = str(plain["doc_to_text"])
    if text.startswith(FUNCTION):
        raise RecipeError(
            f"template: doc_to_text is {text.removeprefix(FUNCTION).strip()!r}, a function in Python, which is not run; write it"
        )
    choices = _evaluated(plain.get("doc_to_choice") or ())
    return JinjaTemplate(_column(text), choices, True, target=_target(plain.get("doc_to_target"), choices))


def _column(text: str) -> str:
    """Where ``text`` is the name of a column, the template that prints it."""
    return f"{{{{ {text} }}}}" if text.isidentifier() else text


def _target(given: Any, choices: tuple[str, ...]) -> str:
    """The template that prints which of the ``choices`` is right; a function in Python is never run: a text without a field."""
    if given is None or not choices:
        return ""
    text = _column(str(given))
    _readable(text, lambda: environment().parse(text))
    return text


def _printed(given: Any) -> tuple[str, ...]:
    """Label words from a list, or from an expression that prints them with ``|||`` between."""
    if not isinstance(given, str):
        return tuple(str(word) for word in given)
    _same_for_all("answer_choices", given)
    printed = _readable(given, lambda: environment().from_string(given).render())
    return tuple(word.strip() for word in printed.split(EITHER))


def _evaluated(given: Any) -> tuple[str, ...]:
    """Label words from a list, from the values of a mapping, or from an expression that is one of the two, as the harness evaluates it."""
    if isinstance(given, str) and EITHER not in given:
        _same_for_all("doc_to_choice", given)
        given = _readable(given, lambda: _Native().from_string(given).render())
    if not isinstance(given, (list, tuple, Mapping)) and EITHER not in str(given):
        function = str(given).startswith(FUNCTION)
        what = "a function in Python, which is not run" if function else "the name of a column, whose choices change by row"
        raise RecipeError(f"template: doc_to_choice {given!r} is {what}; write the label words, as in  doc_to_choice: [no, yes]")
    return _printed(list(given.values()) if isinstance(given, Mapping) else given)


def _same_for_all(entry: str, given: str) -> None:
    free = sorted(_readable(given, lambda: meta.find_undeclared_variables(environment().parse(given))))
    if free:
        raise RecipeError(
            f"{entry} {given!r} change with the field {free[0]!r}; a cloze needs the same label words for every example; write them"
        )
