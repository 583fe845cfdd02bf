"""Label words that come with a template, given to the classes of the data. The order of classes whose labels are names says nothing about
the order of the words, and a guess would train on wrong words: what neither names nor the template's own answer settle is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tempering.errors import RecipeError
from tempering.framings.templates.jinja import JinjaTemplate
from tempering.framings.templates.reading import parse

_NUMBER = re.compile(r"-?\d+(\.0*)?")
_TRUTH = {"true": True, "false": False}
_SAYS = {"yes": True, "true": True, "no": False, "false": False}


def given_to(classes: Sequence[Any], choices: Sequence[str], template: str | None) -> dict[Any, str]:
    """The choice of each class, as many as there are: the one of its name, else the one that the template answers for it."""
    found = _by_name(classes, choices) or _by_answer(classes, choices, template)
    if found is None:
        empty = ", ".join(f"{label}: ..." for label in classes)
        raise RecipeError(
            f"answer_choices of the template: found {', '.join(choices)} for the labels {', '.join(map(str, classes))}, and neither their"
            f" names nor the template say which is whose; give each label its word, as in  framing.words: {{{empty}}}"
        )
    return found


def _by_name(classes: Sequence[Any], choices: Sequence[str]) -> dict[Any, str] | None:
    """By names in any case; where one choice and one class are left, they belong together. Numbers never do: 0 to 4 are no 1 to 5."""
    named, called = {_name(choice): choice for choice in choices}, {_name(label): label for label in classes}
    if len(named) < len(choices) or len(called) < len(classes):
        return None
    left = [choice for name, choice in named.items() if name not in called]
    if len(left) > (0 if any(isinstance(name, int) for name in called) else 1):
        return None
    return {label: named.get(name, *left) for name, label in called.items()}


def _by_answer(classes: Sequence[Any], choices: Sequence[str], template: str | None) -> dict[Any, str] | None:
    """By what the template answers for each label: as its expression says, or its choices counted from 0."""
    parsed = parse(template) if template is not None else None
    if not isinstance(parsed, JinjaTemplate):
        return None
    values = [_value(label) for label in classes]
    answers = [parsed.answer(value) for value in values]
    if sorted(map(str, answers)) != sorted(choices):
        return None
    turned = any(isinstance(v, bool) and _SAYS.get(str(a).casefold(), v) is not v for v, a in zip(values, answers, strict=True))
    return None if turned else dict(zip(classes, map(str, answers), strict=True))  # turned: yes for false, as 0 may be entailment


def _name(given: Any) -> int | str:
    """What two ways of writing a name share; a number is its value."""
    value = _value(given)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return re.sub(r"[\s_/-]+", " ", str(given)).strip().casefold()


def _value(label: Any) -> Any:
    """A label as the data of a template would hold it: whole numbers and truth values are none of text."""
    said = str(label).strip()
    if isinstance(label, bool) or said.casefold() in _TRUTH:
        return _TRUTH[said.casefold()]
    return int(float(said)) if _NUMBER.fullmatch(said) else label
